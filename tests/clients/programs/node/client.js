// One client of JavaScript, on its defaults but for the endpoint. Reads calls from standard input
// and writes what came of each, as tests/clients/program.py says.
"use strict";

const readline = require("node:readline");

const failedOf = (answer) =>
  answer.Records.flatMap((result, at) => (result.ErrorCode ? [at] : []));

function version2(endpoint) {
  const Kinesis = require("aws-sdk/clients/kinesis");
  const client = new Kinesis({ endpoint });
  return {
    PutRecord: (input) => client.putRecord(input).promise(),
    PutRecords: (input) => client.putRecords(input).promise(),
  };
}

function version3(endpoint, more = {}) {
  const kinesis = require("@aws-sdk/client-kinesis");
  const client = new kinesis.KinesisClient({ endpoint, ...more });
  return {
    PutRecord: (input) => client.send(new kinesis.PutRecordCommand(input)),
    PutRecords: (input) => client.send(new kinesis.PutRecordsCommand(input)),
  };
}

function version3Http1(endpoint) {
  const { NodeHttpHandler } = require("@smithy/node-http-handler");
  return version3(endpoint, { requestHandler: new NodeHttpHandler() });
}

// npm `kinesis`, which speaks TLS and nothing else.
function kinesis(endpoint) {
  const { request } = require("kinesis");
  const { hostname, port } = new URL(endpoint);
  const call = (name, input) =>
    new Promise((resolve, reject) =>
      request(name, input, { host: hostname, port }, (error, answer) =>
        error ? reject(error) : resolve(answer),
      ),
    );
  const inBase64 = (entry) => ({ ...entry, Data: entry.Data.toString("base64") });
  return {
    PutRecord: (input) => call("PutRecord", inBase64(input)),
    PutRecords: (input) => call("PutRecords", { ...input, Records: input.Records.map(inBase64) }),
  };
}

async function main() {
  const open = {
    "js-v2": version2,
    "js-v3": version3,
    "js-v3-http1": version3Http1,
    "npm-kinesis": kinesis,
  };
  const calls = open[process.argv[2]](process.argv[3]);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { operation, stream, records } = JSON.parse(line);
    const entries = records.map(([key, data]) => ({ PartitionKey: key, Data: Buffer.from(data) }));
    const told = { failed: [] };
    try {
      if (operation === "PutRecord") await calls.PutRecord({ StreamName: stream, ...entries[0] });
      else told.failed = failedOf(await calls.PutRecords({ StreamName: stream, Records: entries }));
    } catch (error) {
      told.error = String(error);
    }
    process.stdout.write(JSON.stringify(told) + "\n");
  }
  process.exit(0);
}

main();
