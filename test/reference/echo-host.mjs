// What answers on an emulated host: `node echo-host.mjs ADDRESS` sends UDP datagrams back, and answers each byte that comes by TCP with 1 MiB.
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

const address = process.argv[2];
const reply = Buffer.alloc(1 << 20, 7);
const socket = createSocket('udp4');
socket.on('message', (message, { port, address: sender }) => socket.send(message, port, sender));
const server = createServer({ noDelay: true }, (connection) => {
  connection.on('data', (asked) => {
    for (let count = 0; count < asked.length; count++) connection.write(reply);
  });
  connection.on('error', () => connection.destroy());
});
socket.bind(0, address, () =>
  server.listen(0, address, () => process.send({ udpPort: socket.address().port, tcpPort: server.address().port })),
);
process.on('disconnect', () => process.exit(0));
