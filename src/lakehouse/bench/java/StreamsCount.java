import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;

/**
 * Events per user and minute of event time by Kafka Streams itself, with its stock store (RocksDB, a changelog, a cache
 * of 10 MB): {@code StreamsCount BROKER INPUT OUTPUT APPLICATION FOLDER GUARANTEE COMMIT_MS WARM RECORDS}.
 *
 * <p>Prints {@code processed COUNT NANOS} when WARM records have been processed and when RECORDS have, then ends.
 */
public class StreamsCount {
    private static final JsonFactory JSON = new JsonFactory();
    private static final long UNREADABLE = -1;

    private static long processed; // by the one stream thread alone
    private static volatile Throwable failed;

    public static void main(String[] args) throws InterruptedException {
        Properties properties = new Properties();
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, args[3]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, args[4]);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[5]);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, args[6]);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        long warm = Long.parseLong(args[7]);
        long records = Long.parseLong(args[8]);
        CountDownLatch done = new CountDownLatch(1);

        StreamsBuilder builder = new StreamsBuilder();
        // A record without a readable time stays in the stream until it is counted as processed.
        builder.stream(args[1], Consumed.with(Serdes.String(), Serdes.serdeFrom((topic, time) -> null, occurredAt()))
                        .withTimestampExtractor((record, partitionTime) -> {
                            Long time = (Long) record.value();
                            return time == null || time < 0 ? Math.max(partitionTime, 0) : time;
                        }))
                .peek((user, time) -> {
                    processed++;
                    if (processed == warm || processed == records) {
                        System.out.println("processed " + processed + " " + System.nanoTime());
                        if (processed == records) {
                            done.countDown();
                        }
                    }
                })
                .filter((user, time) -> user != null && time != null && time >= 0)
                .groupByKey(Grouped.with(Serdes.String(), Serdes.Long()))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofMinutes(5)))
                .count(Materialized.as("counts"))
                .toStream((window, count) -> window.window().start() + " " + window.key())
                .to(args[2], Produced.with(Serdes.String(), Serdes.Long()));

        KafkaStreams streams = new KafkaStreams(builder.build(), properties);
        streams.setUncaughtExceptionHandler(error -> {
            failed = error;
            done.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        done.await();
        streams.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP)
                .withTimeout(Duration.ofSeconds(20)));
        if (failed != null) {
            System.err.println(failed);
            System.exit(1);
        }
    }

    /** Reads a whole record, token by token, and keeps its event time, in ms. */
    private static Deserializer<Long> occurredAt() {
        return (topic, value) -> {
            if (value == null) {
                return null;
            }
            String time = null;
            try (JsonParser parser = JSON.createParser(value)) {
                if (parser.nextToken() != JsonToken.START_OBJECT) {
                    return UNREADABLE;
                }
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    boolean wanted = parser.currentName().equals("occurred_at");
                    if (parser.nextToken() == JsonToken.VALUE_STRING && wanted) {
                        time = parser.getText();
                    } else {
                        parser.skipChildren();
                    }
                }
                return time == null ? UNREADABLE : OffsetDateTime.parse(time).toInstant().toEpochMilli();
            } catch (IOException | DateTimeException error) {
                return UNREADABLE;
            }
        };
    }
}
