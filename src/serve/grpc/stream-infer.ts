import { setMaxListeners } from 'node:events';
import type { handleBidiStreamingCall, ServerDuplexStream } from '@grpc/grpc-js';
import { TerabagError } from '../../errors.js';
import { remainingMs } from './call.js';
import type { Infer } from './infer.js';
import { writeInferAnswer, writeStreamError } from './infer-answer.js';
import { readInferRequest } from './infer-request.js';
import type { OpenCalls } from './open-calls.js';
import type { ReceivedMessage } from './received.js';
import { statusOf } from './status.js';

/** Requests of a stream that are answered at a time; further ones are left unread. */
const MOST_AT_A_TIME = 16;

/** An answer to each request, in their order, while those behind it are computed already. A request that fails ends no stream. */
export const streamHandler =
  (infer: Infer, open: OpenCalls): handleBidiStreamingCall<ReceivedMessage, Buffer> =>
  (call) => {
    const gone = new AbortController();
    // Each request that is answered listens.
    setMaxListeners(0, gone.signal);
    let ended = false;
    let unanswered = 0;
    let written = Promise.resolve();
    const finish = (failure?: TerabagError): void => {
      if (ended) return;
      ended = true;
      closed();
      call.pause();
      void written.then(() => (failure === undefined ? call.end() : call.emit('error', statusOf(failure))));
    };
    const closed = open.add(() => finish(new TerabagError('draining', 'the server is closing')));
    call.once('cancelled', () => {
      ended = true;
      closed();
      if (unanswered > 0) gone.abort();
    });
    call.on('data', (message: ReceivedMessage) => {
      if (ended) return;
      const answer = message.use((held) => answerOf(held, call, infer, gone.signal));
      if (++unanswered === MOST_AT_A_TIME) call.pause();
      written = written.then(async () => {
        const bytes = await answer;
        await new Promise<void>((resolve) => call.write(bytes, () => resolve()));
        if (unanswered-- === MOST_AT_A_TIME && !ended) call.resume();
      });
    });
    call.once('end', () => finish());
  };

/** Never rejects: what is wrong with the request is its answer. */
async function answerOf(
  message: ReceivedMessage,
  call: ServerDuplexStream<ReceivedMessage, Buffer>,
  infer: Infer,
  signal: AbortSignal,
): Promise<Buffer> {
  let id = '';
  try {
    const request = readInferRequest(message.bytes, (more) => message.hold(more));
    id = request.id;
    return writeInferAnswer({ ...request, streamed: true }, await infer(request, signal, remainingMs(call.getDeadline())));
  } catch (error) {
    return writeStreamError(id, statusOf(error).details);
  }
}
