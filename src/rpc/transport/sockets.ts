import { native } from '../../engine/native.js';
import { TerabagError } from '../../errors.js';
import { shortageOf } from '../../tables/file-error.js';
import { refuseFewDescriptors } from './descriptors.js';
import { connectNative, listenNative } from './native-sockets.js';
import { addressOf, systemReason, whyUnreachable } from './reasons.js';
import type { ClientHandlers, ClientTransport, ServerHandler, ServerTransport } from './transport.js';
import { connectZeromq, listenZeromq } from './zeromq.js';

/** The addon's sockets where it finds the libzmq of zeromq.js (Linux), else, or with TERABAG_SOCKETS=zeromq.js, those of zeromq.js itself. */
const isNative = process.env['TERABAG_SOCKETS'] !== 'zeromq.js' && native.socketsAvailable();

/** What the system says of an endpoint, in message and details; without file descriptors the endpoint is not to blame. */
function endpointError(error: unknown, code: 'bad_plan' | 'invalid_argument', what: string, endpoint: string): TerabagError {
  if (error instanceof TerabagError) return error;
  const reason = systemReason(error);
  const text = error instanceof Error ? error.message : String(error);
  const said = reason === null ? text : `${reason}: ${text}`;
  return new TerabagError(
    shortageOf(reason)?.code ?? code,
    `${what} (${said}): ${endpoint}`,
    { endpoint, ...(reason !== null && { reason }) },
    { cause: error },
  );
}

/**
 * Reconnects by itself, and queues nothing for a peer that is away. Throws bad_plan when the endpoint cannot be one, and overloaded when file
 * descriptors are short; details.reason is the system's.
 */
export function connectTo(endpoint: string, handlers: ClientHandlers): ClientTransport {
  try {
    refuseFewDescriptors(endpoint);
    return isNative ? connectNative(endpoint, handlers) : connectZeromq(endpoint, handlers);
  } catch (error) {
    throw endpointError(error, 'bad_plan', 'endpoint cannot be used', endpoint);
  }
}

/**
 * Throws invalid_argument when it cannot listen there, and overloaded when file descriptors are short; details.reason is the system's. The file of
 * a Unix socket that nobody listens on is taken over.
 */
export async function listenOn(endpoint: string, handler: ServerHandler): Promise<ServerTransport> {
  try {
    refuseFewDescriptors(endpoint);
    await refuseLiveSocketFile(endpoint);
    return isNative ? listenNative(endpoint, handler) : await listenZeromq(endpoint, handler);
  } catch (error) {
    throw endpointError(error, 'invalid_argument', 'cannot listen', endpoint);
  }
}

/** libzmq takes over the file of a Unix socket, and leaves the server that had it without clients. */
async function refuseLiveSocketFile(endpoint: string): Promise<void> {
  const address = addressOf(endpoint);
  if (address === null || 'host' in address || (await whyUnreachable(endpoint)) !== null) return;
  throw new TerabagError('invalid_argument', `cannot listen (EADDRINUSE: another process does): ${endpoint}`, {
    endpoint,
    reason: 'EADDRINUSE',
  });
}
