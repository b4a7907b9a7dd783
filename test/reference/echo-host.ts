import { type ChildProcess, fork } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { HostNetwork } from '../../src/lab/hosts/host-network.js';

const program = fileURLToPath(new URL('echo-host.mjs', import.meta.url));
export const REPLY_BYTES = 1 << 20;

/** A program on an emulated host that echoes, and this process's way to ask it. */
export class EchoHost {
  private constructor(
    private readonly child: ChildProcess,
    private readonly socket: Socket,
    private readonly address: string,
    private readonly ports: { readonly udpPort: number; readonly tcpPort: number },
  ) {}

  static async start(network: HostNetwork, host: number): Promise<EchoHost> {
    const [execPath = '', ...execArgv] = [...network.enter(host), process.execPath];
    const child = fork(program, [network.address(host)], { execPath, execArgv, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const [ports] = (await once(child, 'message')) as [{ udpPort: number; tcpPort: number }];
    const socket = createSocket('udp4');
    socket.bind(0, network.address(0));
    await once(socket, 'listening');
    return new EchoHost(child, socket, network.address(host), ports);
  }

  /** Round trips of datagrams one after another, ms; those that were lost are left out. */
  async roundTrips(count: number, patienceMs = 1000): Promise<number[]> {
    const trips: number[] = [];
    for (let number = 0; number < count; number++) {
      const sentAt = process.hrtime.bigint();
      const came = await this.#exchange([number], patienceMs);
      if (came === 1) trips.push(Number(process.hrtime.bigint() - sentAt) / 1e6);
    }
    return trips;
  }

  /** Sends datagrams, a few at a time so that no buffer overflows, and counts those that come back. */
  async exchange(count: number, patienceMs: number, window = 32): Promise<number> {
    let came = 0;
    for (let first = 0; first < count; first += window) {
      const numbers = Array.from({ length: Math.min(window, count - first) }, (_, at) => first + at);
      came += await this.#exchange(numbers, patienceMs);
    }
    return came;
  }

  async #exchange(numbers: readonly number[], patienceMs: number): Promise<number> {
    const missing = new Set(numbers);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(end, patienceMs);
      const { socket } = this;
      function end(): void {
        clearTimeout(timer);
        socket.off('message', onMessage);
        resolve();
      }
      function onMessage(message: Buffer): void {
        missing.delete(message.readUInt32LE(0));
        if (missing.size === 0) end();
      }
      socket.on('message', onMessage);
      for (const number of numbers) {
        const message = Buffer.alloc(64);
        message.writeUInt32LE(number);
        socket.send(message, this.ports.udpPort, this.address);
      }
    });
    return numbers.length - missing.size;
  }

  /** Replies of 1 MiB, one after another over one connection: ms of each. */
  async replies(count: number): Promise<number[]> {
    const connection = connectTcp({ host: this.address, port: this.ports.tcpPort, noDelay: true });
    await once(connection, 'connect');
    const took: number[] = [];
    let received = 0;
    let whole = (): void => undefined;
    connection.on('data', (bytes: Buffer) => {
      received += bytes.length;
      if (received >= REPLY_BYTES) whole();
    });
    for (let number = 0; number < count; number++) {
      const askedAt = performance.now();
      received = 0;
      const answered = new Promise<void>((resolve) => {
        whole = resolve;
      });
      connection.write('x');
      await answered;
      took.push(performance.now() - askedAt);
    }
    connection.destroy();
    return took;
  }

  async stop(): Promise<void> {
    this.socket.close();
    const exited = once(this.child, 'exit');
    this.child.disconnect();
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await exited.finally(() => clearTimeout(timer));
  }
}
