import com.google.common.util.concurrent.FutureCallback;
import com.google.common.util.concurrent.Futures;
import com.google.common.util.concurrent.MoreExecutors;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import software.amazon.kinesis.producer.KinesisProducer;
import software.amazon.kinesis.producer.KinesisProducerConfiguration;
import software.amazon.kinesis.producer.UserRecordResult;

/**
 * An application that has records and wants them in a stream: by the KPL (`kpl PORT AGGREGATION
 * RECORDS`), or by kdaemon's lines (`lines SOCKET RECORDS`).
 *
 * <p>RECORDS is a file of lines, key and data with a space between. Commanded over standard input
 * as bench/worker.py says: `run N` carries N records, until each is acknowledged.
 */
public final class Application {
  private static final String STREAM = "bench";
  private static final int OUTSTANDING_MAX = 20_000; // records; as many as kdaemon's window below
  private static final int WINDOW = 20_000;
  private static final int CHUNK = 500; // records of one write to the socket
  private static final long UNLIMITED = 1_000_000; // percent of a shard's limit: it must not bind

  private record Row(String key, byte[] data, byte[] line) {}

  private interface Way {
    /** How many of N records failed. */
    long carry(int count) throws Exception;
  }

  public static void main(String[] arguments) throws Exception {
    boolean isKpl = arguments[0].equals("kpl");
    List<Row> rows = read(Path.of(arguments[arguments.length - 1]));
    Way way =
        isKpl
            ? new Producer(Integer.parseInt(arguments[1]), arguments[2].equals("on"), rows)
            : new Lines(Path.of(arguments[1]), rows);
    System.out.println("ready");
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
    for (String line = input.readLine(); line != null; line = input.readLine()) {
      int count = Integer.parseInt(line.substring("run ".length()).trim());
      long began = System.nanoTime();
      long failed = way.carry(count);
      double seconds = (System.nanoTime() - began) / 1e9;
      System.out.println(
          "{\"records\": " + count + ", \"seconds\": " + seconds + ", \"failed\": " + failed + "}");
    }
    System.exit(0);
  }

  private static List<Row> read(Path path) throws Exception {
    List<Row> rows = new ArrayList<>();
    for (String text : Files.readAllLines(path)) {
      String key = text.substring(0, text.indexOf(' '));
      String data = text.substring(key.length() + 1);
      String line =
          "{\"stream\":\"" + STREAM + "\",\"partition_key\":\"" + key + "\",\"data\":\"" + data + "\"}\n";
      rows.add(
          new Row(
              key,
              data.getBytes(StandardCharsets.UTF_8),
              line.getBytes(StandardCharsets.UTF_8)));
    }
    return rows;
  }

  /** The library and its native process, which speaks TLS only. */
  private static final class Producer implements Way {
    private final KinesisProducer producer;
    private final List<Row> rows;
    private int at = 0;

    Producer(int port, boolean isAggregating, List<Row> rows) {
      this.rows = rows;
      producer =
          new KinesisProducer(
              new KinesisProducerConfiguration()
                  .setRegion("us-east-1")
                  .setKinesisEndpoint("localhost")
                  .setKinesisPort(port)
                  .setVerifyCertificate(false)
                  .setMetricsLevel("none")
                  .setAggregationEnabled(isAggregating)
                  .setRateLimit(UNLIMITED));
    }

    @Override
    public long carry(int count) throws Exception {
      Semaphore room = new Semaphore(OUTSTANDING_MAX);
      AtomicLong failed = new AtomicLong();
      FutureCallback<UserRecordResult> callback =
          new FutureCallback<>() {
            @Override
            public void onSuccess(UserRecordResult result) {
              room.release();
            }

            @Override
            public void onFailure(Throwable error) {
              failed.incrementAndGet();
              room.release();
            }
          };
      for (int number = 0; number < count; number++) {
        Row row = rows.get(at++ % rows.size());
        room.acquire();
        Futures.addCallback(
            producer.addUserRecord(STREAM, row.key(), ByteBuffer.wrap(row.data())),
            callback,
            MoreExecutors.directExecutor());
      }
      room.acquire(OUTSTANDING_MAX);
      return failed.get();
    }
  }

  /** Lines on the daemon's Unix socket; each is acknowledged when it is delivered. */
  private static final class Lines implements Way {
    private final SocketChannel socket;
    private final List<Row> rows;
    private final Semaphore room = new Semaphore(WINDOW);
    private int at = 0;
    private long acknowledged = 0; // of all that were sent; the answers' thread's own
    private volatile long rejected = 0;

    Lines(Path path, List<Row> rows) throws Exception {
      this.rows = rows;
      socket = SocketChannel.open(StandardProtocolFamily.UNIX);
      socket.connect(UnixDomainSocketAddress.of(path));
      Thread reader = new Thread(this::hear, "answers");
      reader.setDaemon(true);
      reader.start();
    }

    @Override
    public long carry(int count) throws Exception {
      long before = rejected;
      ByteBuffer chunk = ByteBuffer.allocate(CHUNK * 1024);
      for (int left = count; left > 0; left -= CHUNK) {
        int part = Math.min(CHUNK, left);
        room.acquire(part);
        chunk.clear();
        for (int number = 0; number < part; number++) {
          chunk.put(rows.get(at++ % rows.size()).line());
        }
        chunk.flip();
        while (chunk.hasRemaining()) {
          socket.write(chunk);
        }
      }
      room.acquire(WINDOW);
      room.release(WINDOW);
      return rejected - before;
    }

    /** Answers: {"acknowledged": N}, of all so far; anything else is a line that was refused. */
    private void hear() {
      try {
        ByteBuffer buffer = ByteBuffer.allocate(1 << 16);
        StringBuilder text = new StringBuilder();
        while (socket.read(buffer) >= 0) {
          buffer.flip();
          text.append(StandardCharsets.UTF_8.decode(buffer));
          buffer.clear();
          int end;
          while ((end = text.indexOf("\n")) >= 0) {
            String answer = text.substring(0, end);
            text.delete(0, end + 1);
            if (answer.startsWith("{\"acknowledged\":")) {
              long before = acknowledged;
              acknowledged = Long.parseLong(answer.replaceAll("[^0-9]", ""));
              room.release((int) (acknowledged - before));
            } else {
              rejected++;
              room.release();
            }
          }
        }
      } catch (Exception error) {
        error.printStackTrace();
        System.exit(1);
      }
    }
  }
}
