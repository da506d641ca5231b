// kinesalite on 127.0.0.1 (its own cli listens on every address); prints its port, ends with its stdin.
const server = require('kinesalite')({ createStreamMs: 0, updateStreamMs: 0, deleteStreamMs: 0, shardLimit: 1000 });
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
