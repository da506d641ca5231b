// The SDK of JavaScript, version 3, reading a shard by SubscribeToShard, as
// tests/clients/test_subscribers.py says: `subscribe-v3.js NAME ENDPOINT CONSUMER_ARN SHARD`.
const { KinesisClient, SubscribeToShardCommand } = require('@aws-sdk/client-kinesis');
const { NodeHttpHandler } = require('@smithy/node-http-handler');

const [name, endpoint, ConsumerARN, ShardId] = process.argv.slice(2);
const tell = (told) => console.log(JSON.stringify(told));
const handler = name === 'js-v3-http1' ? { requestHandler: new NodeHttpHandler() } : {};
const client = new KinesisClient({ endpoint, ...handler });

async function main() {
  const StartingPosition = { Type: 'TRIM_HORIZON' };
  const answer = await client.send(new SubscribeToShardCommand({ ConsumerARN, ShardId, StartingPosition }));
  for await (const { SubscribeToShardEvent: event } of answer.EventStream) {
    tell({
      data: event.Records.map(({ Data }) => Buffer.from(Data).toString()),
      next: event.ContinuationSequenceNumber ?? null,
      children: (event.ChildShards ?? []).map((child) => child.ShardId),
    });
  }
}

main()
  .then(() => tell({ end: true }))
  .catch((error) => tell({ error: `${error.name}: ${error.message}` }))
  .finally(() => client.destroy());
