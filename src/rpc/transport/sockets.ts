import { native } from '../../engine/native.js';
import { TerabagError } from '../../errors.js';
import { connectNative, listenNative } from './native-sockets.js';
import type { ClientHandlers, ClientTransport, ServerHandler, ServerTransport } from './transport.js';
import { connectZeromq, listenZeromq } from './zeromq.js';

/** The addon's sockets where it finds the libzmq of zeromq.js (Linux), else, or with TERABAG_SOCKETS=zeromq.js, those of zeromq.js itself. */
const isNative = process.env['TERABAG_SOCKETS'] !== 'zeromq.js' && native.socketsAvailable();

/** Reconnects by itself, and queues nothing for a peer that is away. Throws bad_plan when the endpoint cannot be one. */
export function connectTo(endpoint: string, handlers: ClientHandlers): ClientTransport {
  try {
    return isNative ? connectNative(endpoint, handlers) : connectZeromq(endpoint, handlers);
  } catch (error) {
    throw new TerabagError('bad_plan', `endpoint cannot be used: ${endpoint}`, { endpoint }, { cause: error });
  }
}

/** Throws invalid_argument when it cannot listen there. */
export async function listenOn(endpoint: string, handler: ServerHandler): Promise<ServerTransport> {
  try {
    return isNative ? listenNative(endpoint, handler) : await listenZeromq(endpoint, handler);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new TerabagError(
      'invalid_argument',
      `cannot listen (is the port taken?): ${endpoint}, ${reason}`,
      { endpoint },
      { cause: error },
    );
  }
}
