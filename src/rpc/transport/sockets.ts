import { lstat } from 'node:fs/promises';
import { systemClock } from '../../clock.js';
import { native } from '../../engine/native.js';
import { shortageOf, TerabagError } from '../../errors.js';
import { AggregatedLog } from '../aggregated-log.js';
import { AcceptGuard, refuseFewDescriptors } from './descriptors.js';
import { refuseExposed } from './exposure.js';
import { connectNative, listenNative } from './native-sockets.js';
import { addressOf, systemReason, whyUnreachable } from './reasons.js';
import type { SecurityOptions } from './security.js';
import {
  type ClientHandlers,
  type ClientTransport,
  isIpc,
  type ListenOptions,
  type ServerHandler,
  type ServerTransport,
  type SocketListenOptions,
} from './transport.js';
import { connectZeromq, listenZeromq } from './zeromq.js';

/** The addon's sockets where it finds the libzmq of zeromq.js (Linux), else, or with TERABAG_SOCKETS=zeromq.js, those of zeromq.js itself. */
const isNative = process.env['TERABAG_SOCKETS'] !== 'zeromq.js' && native.socketsAvailable();

/** libzmq takes the host of a server for the name of an interface when it cannot resolve it. */
const reasonOf = (error: unknown, endpoint: string): string | null => {
  const reason = systemReason(error);
  const address = addressOf(endpoint);
  return reason === 'ENODEV' && address !== null && 'host' in address && address.host.includes('.') ? 'ENOTFOUND' : reason;
};

/** What the system says of an endpoint, in message and details; without file descriptors the endpoint is not to blame. */
function endpointError(error: unknown, code: 'bad_plan' | 'invalid_argument', what: string, endpoint: string): TerabagError {
  if (error instanceof TerabagError) return error;
  const reason = reasonOf(error, endpoint);
  const text = error instanceof Error ? error.message : String(error);
  const said = reason === null ? text : reason === 'ENOTFOUND' ? `${reason}: no such host` : `${reason}: ${text}`;
  return new TerabagError(
    shortageOf(reason)?.code ?? code,
    `${what} (${said}): ${endpoint}`,
    { endpoint, ...(reason !== null && { reason }) },
    { cause: error },
  );
}

/**
 * Reconnects by itself, and queues nothing for a peer that is away. Throws bad_plan when the endpoint cannot be one, and overloaded when file
 * descriptors are short; details.reason is the system's. onWarning is told of keys that cannot be read anew.
 */
export function connectTo(
  endpoint: string,
  handlers: ClientHandlers,
  security: SecurityOptions = {},
  onWarning?: (message: string) => void,
): ClientTransport {
  try {
    refuseFewDescriptors(endpoint);
    return (isNative ? connectNative : connectZeromq)(endpoint, handlers, security, onWarning);
  } catch (error) {
    throw endpointError(error, 'bad_plan', 'endpoint cannot be used', endpoint);
  }
}

/** connectTo with these keys, which all connections read: one warning stands for all of 10 s. */
export function connectWith(
  security?: SecurityOptions,
  onWarning: (message: string) => void = () => undefined,
): (endpoint: string, handlers: ClientHandlers) => ClientTransport {
  const warnings = new AggregatedLog(systemClock, ({ reason }) => onWarning(reason));
  return (endpoint, handlers) => connectTo(endpoint, handlers, security, (message) => warnings.add(message));
}

/**
 * Throws invalid_argument when it cannot listen there, and overloaded when file descriptors are short; details.reason is the system's. The file of
 * a Unix socket that nobody listens on is taken over; anything else at its path stays as it is, and is refused. onWarning is told when further
 * connections are not accepted for want of file descriptors.
 */
export async function listenOn(endpoint: string, handler: ServerHandler, options: ListenOptions = {}): Promise<ServerTransport> {
  const { onWarning = () => undefined, onGone = () => undefined, security = {} } = options;
  const refusals = new AggregatedLog(systemClock, ({ count, reason }) => onWarning(`connections refused or cut off: ${count}, ${reason}`));
  let guard: AcceptGuard | null = null;
  try {
    refuseFewDescriptors(endpoint);
    await refuseExposed(endpoint, security);
    await refuseTakenPath(endpoint);
    const socketOptions: SocketListenOptions = {
      ...{ security, onGone, onRefused: (reason) => refusals.add(reason) },
      accepted: () => void guard?.accepted(),
    };
    const server = isNative ? listenNative(endpoint, handler, socketOptions) : await listenZeromq(endpoint, handler, socketOptions);
    if (isIpc(endpoint)) guard = new AcceptGuard(server, () => refuseTakenPath(server.endpoint), onWarning);
    const close = server.close.bind(server);
    return Object.assign(server, {
      close() {
        guard?.close();
        refusals.flush();
        return close();
      },
    });
  } catch (error) {
    throw endpointError(error, 'invalid_argument', 'cannot listen', endpoint);
  }
}

/** libzmq removes whatever lies at the path that it listens on: a file with data in it, or the socket of a server, which is left without clients. */
async function refuseTakenPath(endpoint: string): Promise<void> {
  const address = addressOf(endpoint);
  if (address === null || 'host' in address) return;
  const found = await lstat(address.path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (found === null) return;
  const refuse = (what: string, reason: string): TerabagError =>
    new TerabagError(shortageOf(reason)?.code ?? 'invalid_argument', `cannot listen (${reason}: ${what}): ${endpoint}`, {
      endpoint,
      reason,
    });
  if (!found.isSocket()) throw refuse('the path is taken, and not by a socket', 'EEXIST');
  const reason = await whyUnreachable(endpoint);
  if (reason === null) throw refuse('another process does', 'EADDRINUSE');
  // Left behind by a process that was killed; or gone meanwhile.
  if (reason === 'ECONNREFUSED' || reason === 'ENOENT') return;
  throw refuse('whether another process does cannot be told', reason);
}
