// The SDK of JavaScript, version 3, with nothing changed but the endpoint. A JSON line in, a JSON
// line out: {"command": "PutRecord", "input": {...}} gives what the SDK gives, or {"error": ...};
// a list of such is sent at once, and gives a list. Data is base64. The first line out says which
// protocol the SDK has chosen.
const { KinesisClient, PutRecordCommand, PutRecordsCommand } = require('@aws-sdk/client-kinesis');

const client = new KinesisClient({ endpoint: process.argv[2] });
const commands = { PutRecord: PutRecordCommand, PutRecords: PutRecordsCommand };

function withData(each) {
  return 'Data' in each ? { ...each, Data: Buffer.from(each.Data, 'base64') } : each;
}

async function put({ command, input }) {
  const read = withData(input);
  if (read.Records) read.Records = read.Records.map(withData);
  try {
    const { $metadata, ...answer } = await client.send(new commands[command](read));
    return { ...answer, status: $metadata.httpStatusCode, id: $metadata.requestId };
  } catch (error) {
    const { name, message, $metadata } = error;
    return { error: name, message, status: $metadata?.httpStatusCode, attempts: $metadata?.attempts };
  }
}

console.log(JSON.stringify(client.config.requestHandler.metadata));
require('readline')
  .createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const asked = JSON.parse(line);
    const answer = Array.isArray(asked) ? await Promise.all(asked.map(put)) : await put(asked);
    console.log(JSON.stringify(answer));
  })
  .on('close', () => client.destroy());
