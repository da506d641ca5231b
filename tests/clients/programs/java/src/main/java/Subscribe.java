import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletionException;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.awssdk.services.kinesis.model.ChildShard;
import software.amazon.awssdk.services.kinesis.model.ShardIteratorType;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardEvent;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardRequest;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardResponseHandler;

/**
 * The async client of Java's SDK v2 (HTTP/2, CBOR) reading a shard by SubscribeToShard, as
 * tests/clients/test_subscribers.py says: {@code Subscribe NAME ENDPOINT CONSUMER_ARN SHARD}.
 */
public final class Subscribe {
  private static final ObjectMapper JSON = new ObjectMapper();

  private static synchronized void tell(Map<String, Object> told) {
    try {
      System.out.println(JSON.writeValueAsString(told));
    } catch (Exception error) {
      throw new IllegalStateException(error);
    }
  }

  private static void tellEvent(SubscribeToShardEvent event) {
    Map<String, Object> told = new TreeMap<>();
    told.put("data", event.records().stream().map(record -> record.data().asUtf8String()).toList());
    told.put("next", event.continuationSequenceNumber());
    told.put("children", event.childShards().stream().map(ChildShard::shardId).toList());
    tell(told);
  }

  public static void main(String[] arguments) {
    try (KinesisAsyncClient client =
        KinesisAsyncClient.builder().endpointOverride(URI.create(arguments[1])).build()) {
      SubscribeToShardRequest asked =
          SubscribeToShardRequest.builder()
              .consumerARN(arguments[2])
              .shardId(arguments[3])
              .startingPosition(position -> position.type(ShardIteratorType.TRIM_HORIZON))
              .build();
      SubscribeToShardResponseHandler handler =
          SubscribeToShardResponseHandler.builder()
              .subscriber(
                  SubscribeToShardResponseHandler.Visitor.builder()
                      .onSubscribeToShardEvent(Subscribe::tellEvent)
                      .build())
              .build();
      client.subscribeToShard(asked, handler).join();
      tell(Map.of("end", true));
    } catch (CompletionException error) {
      tell(Map.of("error", error.getCause().toString()));
    }
  }
}
