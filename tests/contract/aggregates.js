// KPL's aggregated records, read and written by aws-kinesis-agg. A JSON line in, a JSON line out:
// {"read": base64} gives the records, {"write": records} the base64 of their aggregate; a record is
// [partition key, explicit hash key or null, base64].
const { RecordAggregator, deaggregateSync } = require('aws-kinesis-agg');

function read(data) {
  let answer;
  deaggregateSync({ data, partitionKey: 'outer' }, true, (error, records) => {
    answer = error
      ? { error: String(error) }
      : records.map((each) => [each.partitionKey, each.explicitPartitionKey ?? null, each.data]);
  });
  return answer;
}

function write(records) {
  const aggregator = new RecordAggregator();
  for (const [partitionKey, explicitHashKey, data] of records) {
    aggregator.addUserRecord({ partitionKey, explicitHashKey, data: Buffer.from(data, 'base64') });
  }
  return aggregator.build().data.toString('base64');
}

require('readline')
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    const asked = JSON.parse(line);
    console.log(JSON.stringify('read' in asked ? read(asked.read) : write(asked.write)));
  });
