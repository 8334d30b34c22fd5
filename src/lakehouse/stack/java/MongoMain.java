import de.bwaldvogel.mongo.MongoCollection;
import de.bwaldvogel.mongo.MongoDatabase;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.Index;
import de.bwaldvogel.mongo.backend.IndexKey;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.h2.H2Database;
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
    protected MongoDatabase openOrCreateDatabase(String name) {
        return new H2Database(name, getMvStore(), getCursorRegistry()) {
            @Override
            protected Index<Object> openOrCreateUniqueIndex(String collection, String index, List<IndexKey> keys,
                    boolean sparse) {
                return new Narrowing(super.openOrCreateUniqueIndex(collection, index, keys, sparse), keys, sparse);
            }
        };
    }

    /**
     * A unique index that also finds the candidates of a query with more fields than its own, as MongoDB's do. 1.47.0
     * reads the whole collection for {@code {_id: x, version: {$lte: v}}}: 20 s for 200 upserts into 40,000 documents.
     */
    private static class Narrowing extends Index<Object> {
        private final Index<Object> inner;

        Narrowing(Index<Object> inner, List<IndexKey> keys, boolean sparse) {
            super(inner.getName(), keys, sparse);
            this.inner = inner;
        }

        private Document own(Document query) {
            Document part = new Document();
            keys().forEach(key -> part.put(key, query.get(key)));
            return part;
        }

        @Override
        public boolean canHandle(Document query) {
            return query.keySet().containsAll(keySet()) && inner.canHandle(own(query));
        }

        @Override
        public Iterable<Object> getPositions(Document query) {
            return inner.getPositions(own(query));
        }

        @Override
        public Object getPosition(Document document) {
            return inner.getPosition(document);
        }

        @Override
        public void checkAdd(Document document, MongoCollection<Object> collection) {
            inner.checkAdd(document, collection);
        }

        @Override
        public void add(Document document, Object position, MongoCollection<Object> collection) {
            inner.add(document, position, collection);
        }

        @Override
        public Object remove(Document document) {
            return inner.remove(document);
        }

        @Override
        public void checkUpdate(Document old, Document document, MongoCollection<Object> collection) {
            inner.checkUpdate(old, document, collection);
        }

        @Override
        public void updateInPlace(Document old, Document document, Object position, MongoCollection<Object> collection) {
            inner.updateInPlace(old, document, position, collection);
        }

        @Override
        public long getCount() {
            return inner.getCount();
        }

        @Override
        public long getDataSize() {
            return inner.getDataSize();
        }

        @Override
        public boolean isUnique() {
            return true;
        }

        @Override
        public void drop() {
            inner.drop();
        }
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
