// kinesis-local (kinesis-mock) on 127.0.0.1 (by itself it listens on every address); prints the port
// of its plain listener, ends with its stdin.
const net = require('net');
const path = require('path');
const home = path.dirname(require.resolve('kinesis-local'));
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...given) {
  const wanted = typeof given[0] === 'object' ? given[0].port : given[0];
  this.once('listening', () => {
    if (wanted === 4568) console.log(this.address().port);
  });
  return listen.call(this, { port: 0, host: '127.0.0.1' }, given.find((each) => typeof each === 'function'));
};
Object.assign(process.env, {
  KINESIS_MOCK_CERT_PATH: path.join(home, 'server.json'),
  KINESIS_MOCK_PLAIN_PORT: '4568',
  KINESIS_MOCK_TLS_PORT: '4567',
  SHARD_LIMIT: '1000',
  CREATE_STREAM_DURATION: '5ms',
  DELETE_STREAM_DURATION: '5ms',
  SPLIT_SHARD_DURATION: '5ms',
  MERGE_SHARDS_DURATION: '5ms',
  UPDATE_SHARD_COUNT_DURATION: '5ms',
  LOG_LEVEL: 'ERROR',
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
require('kinesis-local');
