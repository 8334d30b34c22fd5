import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.h2.mvstore.MVStore;

/**
 * A stand-in for MongoDB on one machine: {@code MongoMain FILE PORT}, on loopback only. A write is committed and synced
 * to FILE before it is answered, so an acknowledged write survives kill -9.
 */
public class MongoMain extends H2Backend {
    private static final Set<String> WRITES = Set.of("insert", "update", "delete", "findandmodify", "findAndModify",
            "create", "createIndexes", "dropIndexes", "drop", "dropDatabase", "renameCollection", "aggregate");

    MongoMain(MVStore store) {
        super(store);
    }

    @Override
    public Document handleMessage(MongoMessage message) {
        Document query = message.getDocument();
        String command = query.keySet().iterator().next();
        if (command.equals("hello")) { // 1.47.0 knows only isMaster
            Document old = new Document("isMaster", 1);
            old.putAll(query);
            old.remove("hello");
            return with(super.handleMessage(replaced(message, old)), "isWritablePrimary", true);
        }
        if (command.equals("aggregate") && query.get("pipeline") instanceof List<?> pipeline && !pipeline.isEmpty()) {
            if (((Document) pipeline.get(0)).containsKey("$collStats")) {
                return collStats(message, query);
            }
            List<Object> known = pipeline.stream().map(MongoMain::knownStage).toList();
            message = replaced(message, with(query, "pipeline", known));
        }
        Document answer = super.handleMessage(message);
        if (WRITES.contains(command)) {
            getMvStore().commit();
            getMvStore().sync();
        }
        return answer;
    }

    /** The first stage that Spark's partitioners ask for, answered by the command of the same name. */
    private Document collStats(MongoMessage message, Document query) {
        Document command = new Document("collStats", query.get("aggregate"));
        command.put("$db", query.get("$db"));
        Document stats = super.handleMessage(replaced(message, command));
        if (stats.containsKey("errmsg")) {
            return stats;
        }
        String namespace = query.get("$db") + "." + query.get("aggregate");
        Document row = new Document("ns", namespace);
        row.put("storageStats", stats);
        row.put("count", stats.get("count"));
        Document cursor = new Document("id", 0L);
        cursor.put("ns", namespace);
        cursor.put("firstBatch", List.of(row));
        return with(new Document("cursor", cursor), "ok", 1);
    }

    /** {@code $set} is MongoDB's other name for {@code $addFields}. */
    private static Object knownStage(Object stage) {
        return stage instanceof Document d && d.containsKey("$set") ? new Document("$addFields", d.get("$set")) : stage;
    }

    private static Document with(Document document, String key, Object value) {
        Document copy = new Document();
        copy.putAll(document);
        copy.put(key, value);
        return copy;
    }

    private static MongoMessage replaced(MongoMessage message, Document document) {
        return new MongoMessage(message.getChannel(), message.getHeader(), document);
    }

    private static Thread daemon(Runnable work) {
        Thread thread = new Thread(work, "compaction");
        thread.setDaemon(true);
        return thread;
    }

    public static void main(String[] args) {
        // H2's background writer would let commit() return before anything is written: without it, commits write by
        // themselves, and the clearing away of old chunks that it also does is ours.
        MVStore store = new MVStore.Builder().fileName(args[0]).cacheSize(64).autoCommitDisabled().open();
        store.setRetentionTime(5_000);
        Executors.newSingleThreadScheduledExecutor(MongoMain::daemon)
                .scheduleWithFixedDelay(() -> store.compact(50, 8 << 20), 5, 5, TimeUnit.SECONDS);
        MongoMain backend = new MongoMain(store);
        backend.version(new MongoVersion() { // pymongo refuses a wire version below 9, MongoDB 4.4's
            @Override
            public List<Integer> getVersionArray() {
                return List.of(4, 4, 0);
            }

            @Override
            public int getWireVersion() {
                return 9;
            }
        });
        MongoServer server = new MongoServer(backend);
        server.bind("127.0.0.1", Integer.parseInt(args[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println("ready " + server.getLocalAddress());
    }
}
