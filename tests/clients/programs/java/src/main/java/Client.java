import com.amazonaws.auth.DefaultAWSCredentialsProviderChain;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.services.kinesis.AmazonKinesis;
import com.amazonaws.services.kinesis.AmazonKinesisClientBuilder;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisClient;
import software.amazon.awssdk.services.kinesis.model.PutRecordRequest;
import software.amazon.awssdk.services.kinesis.model.PutRecordsRequest;
import software.amazon.awssdk.services.kinesis.model.PutRecordsRequestEntry;
import software.amazon.awssdk.services.kinesis.model.PutRecordsResponse;
import software.amazon.kinesis.producer.KinesisProducer;
import software.amazon.kinesis.producer.KinesisProducerConfiguration;
import software.amazon.kinesis.producer.UserRecordFailedException;
import software.amazon.kinesis.producer.UserRecordResult;

/**
 * One client of Java, on its defaults but for the endpoint. Reads calls from standard input and
 * writes what came of each, as tests/clients/program.py says.
 */
public final class Client {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final String REGION = "us-east-1";

  /** Puts records; the answer lists the positions of those that failed. Throws if all did. */
  private interface Calls {
    void putOne(String stream, String key, byte[] data) throws Exception;

    List<Integer> putMany(String stream, JsonNode records) throws Exception;
  }

  public static void main(String[] arguments) throws Exception {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    Calls calls = open(arguments[0], URI.create(arguments[1]));
    BufferedReader in =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      JsonNode call = JSON.readTree(line);
      String stream = call.get("stream").asText();
      JsonNode records = call.get("records");
      ObjectNode told = JSON.createObjectNode();
      ArrayNode failed = told.putArray("failed");
      try {
        if (call.get("operation").asText().equals("PutRecord")) {
          calls.putOne(stream, records.get(0).get(0).asText(), dataOf(records.get(0)));
        } else {
          calls.putMany(stream, records).forEach(failed::add);
        }
      } catch (Exception error) {
        Throwable cause = error;
        while (cause.getCause() != null
            && (cause instanceof ExecutionException || cause instanceof CompletionException)) {
          cause = cause.getCause();
        }
        told.put("error", String.valueOf(cause));
      }
      out.println(JSON.writeValueAsString(told));
    }
    System.exit(0);
  }

  private static Calls open(String name, URI endpoint) {
    switch (name) {
      case "java-v1":
        return new Version1(endpoint);
      case "java-v2":
        return new Version2(endpoint);
      case "java-v2-async":
        return new Version2Async(endpoint);
      case "kpl":
        return new Producer(endpoint);
      case "java-http":
        return new PlainHttp(endpoint);
      default:
        throw new IllegalArgumentException(name);
    }
  }

  private static byte[] dataOf(JsonNode record) {
    return record.get(1).asText().getBytes(StandardCharsets.UTF_8);
  }

  private static final class Version1 implements Calls {
    private final AmazonKinesis kinesis;

    Version1(URI endpoint) {
      kinesis =
          AmazonKinesisClientBuilder.standard()
              .withEndpointConfiguration(new EndpointConfiguration(endpoint.toString(), REGION))
              .build();
    }

    @Override
    public void putOne(String stream, String key, byte[] data) {
      kinesis.putRecord(stream, ByteBuffer.wrap(data), key);
    }

    @Override
    public List<Integer> putMany(String stream, JsonNode records) {
      List<com.amazonaws.services.kinesis.model.PutRecordsRequestEntry> entries = new ArrayList<>();
      for (JsonNode record : records) {
        entries.add(
            new com.amazonaws.services.kinesis.model.PutRecordsRequestEntry()
                .withPartitionKey(record.get(0).asText())
                .withData(ByteBuffer.wrap(dataOf(record))));
      }
      var answer =
          kinesis.putRecords(
              new com.amazonaws.services.kinesis.model.PutRecordsRequest()
                  .withStreamName(stream)
                  .withRecords(entries));
      List<Integer> failed = new ArrayList<>();
      for (int at = 0; at < entries.size(); at++) {
        if (answer.getRecords().get(at).getErrorCode() != null) {
          failed.add(at);
        }
      }
      return failed;
    }
  }

  private static PutRecordRequest one(String stream, String key, byte[] data) {
    return PutRecordRequest.builder()
        .streamName(stream)
        .partitionKey(key)
        .data(SdkBytes.fromByteArray(data))
        .build();
  }

  private static PutRecordsRequest many(String stream, JsonNode records) {
    List<PutRecordsRequestEntry> entries = new ArrayList<>();
    for (JsonNode record : records) {
      entries.add(
          PutRecordsRequestEntry.builder()
              .partitionKey(record.get(0).asText())
              .data(SdkBytes.fromByteArray(dataOf(record)))
              .build());
    }
    return PutRecordsRequest.builder().streamName(stream).records(entries).build();
  }

  private static List<Integer> failedOf(PutRecordsResponse answer) {
    List<Integer> failed = new ArrayList<>();
    for (int at = 0; at < answer.records().size(); at++) {
      if (answer.records().get(at).errorCode() != null) {
        failed.add(at);
      }
    }
    return failed;
  }

  private static final class Version2 implements Calls {
    private final KinesisClient kinesis;

    Version2(URI endpoint) {
      kinesis = KinesisClient.builder().endpointOverride(endpoint).build();
    }

    @Override
    public void putOne(String stream, String key, byte[] data) {
      kinesis.putRecord(one(stream, key, data));
    }

    @Override
    public List<Integer> putMany(String stream, JsonNode records) {
      return failedOf(kinesis.putRecords(many(stream, records)));
    }
  }

  private static final class Version2Async implements Calls {
    private final KinesisAsyncClient kinesis;

    Version2Async(URI endpoint) {
      kinesis = KinesisAsyncClient.builder().endpointOverride(endpoint).build();
    }

    @Override
    public void putOne(String stream, String key, byte[] data) {
      kinesis.putRecord(one(stream, key, data)).join();
    }

    @Override
    public List<Integer> putMany(String stream, JsonNode records) {
      return failedOf(kinesis.putRecords(many(stream, records)).join());
    }
  }

  /** The Kinesis Producer Library: its native process speaks TLS only. */
  private static final class Producer implements Calls {
    private final KinesisProducer producer;

    Producer(URI endpoint) {
      producer =
          new KinesisProducer(
              new KinesisProducerConfiguration()
                  .setRegion(REGION)
                  .setKinesisEndpoint(endpoint.getHost())
                  .setKinesisPort(endpoint.getPort())
                  .setVerifyCertificate(false)
                  .setMetricsLevel("none"));
    }

    @Override
    public void putOne(String stream, String key, byte[] data) throws Exception {
      producer.addUserRecord(stream, key, ByteBuffer.wrap(data)).get();
    }

    @Override
    public List<Integer> putMany(String stream, JsonNode records) throws Exception {
      List<Future<UserRecordResult>> results = new ArrayList<>();
      for (JsonNode record : records) {
        results.add(
            producer.addUserRecord(
                stream, record.get(0).asText(), ByteBuffer.wrap(dataOf(record))));
      }
      List<Integer> failed = new ArrayList<>();
      for (int at = 0; at < results.size(); at++) {
        try {
          results.get(at).get();
        } catch (ExecutionException error) {
          if (!(error.getCause() instanceof UserRecordFailedException)) {
            throw error;
          }
          failed.add(at);
        }
      }
      return failed;
    }
  }

  /** No SDK: the HTTP client of the JDK, which offers to upgrade to HTTP/2, and unsigned calls. */
  private static final class PlainHttp implements Calls {
    private final HttpClient client = HttpClient.newHttpClient();
    private final URI endpoint;

    PlainHttp(URI endpoint) {
      this.endpoint = endpoint;
    }

    private JsonNode call(String operation, ObjectNode members) throws Exception {
      HttpRequest request =
          HttpRequest.newBuilder(endpoint)
              .header("Content-Type", "application/x-amz-json-1.1")
              .header("X-Amz-Target", "Kinesis_20131202." + operation)
              .POST(HttpRequest.BodyPublishers.ofString(JSON.writeValueAsString(members)))
              .build();
      HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
      if (answer.statusCode() != 200) {
        throw new IllegalStateException(answer.statusCode() + " " + answer.body());
      }
      return JSON.readTree(answer.body());
    }

    private static ObjectNode entry(String key, byte[] data) {
      return JSON.createObjectNode()
          .put("PartitionKey", key)
          .put("Data", Base64.getEncoder().encodeToString(data));
    }

    @Override
    public void putOne(String stream, String key, byte[] data) throws Exception {
      call("PutRecord", entry(key, data).put("StreamName", stream));
    }

    @Override
    public List<Integer> putMany(String stream, JsonNode records) throws Exception {
      ObjectNode members = JSON.createObjectNode().put("StreamName", stream);
      ArrayNode entries = members.putArray("Records");
      for (JsonNode record : records) {
        entries.add(entry(record.get(0).asText(), dataOf(record)));
      }
      JsonNode results = call("PutRecords", members).get("Records");
      List<Integer> failed = new ArrayList<>();
      for (int at = 0; at < results.size(); at++) {
        if (results.get(at).hasNonNull("ErrorCode")) {
          failed.add(at);
        }
      }
      return failed;
    }
  }
}
