import type { DescMessage, DescService } from '@bufbuild/protobuf';
import { type DescMethodUnary, fromBinary, fromJson, type JsonValue, type MessageShape, toBinary } from '@bufbuild/protobuf';
import type { handleUnaryCall, MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import { TerabagError } from '../../errors.js';
import type { ReceivedMessage } from './received.js';
import { statusOf } from './status.js';

/** What grpc-js knows of a service: messages are read and written by the handlers, which say what is wrong with them. */
export function definitionOf(service: DescService): ServiceDefinition {
  const definition: Record<string, MethodDefinition<Buffer, Buffer>> = {};
  for (const { name, methodKind } of service.methods)
    definition[name] = {
      path: `/${service.typeName}/${name}`,
      requestStream: methodKind === 'client_streaming' || methodKind === 'bidi_streaming',
      responseStream: methodKind === 'server_streaming' || methodKind === 'bidi_streaming',
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    };
  return definition;
}

const same = (bytes: Buffer): Buffer => bytes;

/** Of all messages but those with tensors: none has more than some names. */
const MOST_BYTES = 64 * 1024;

/** Reads a message other than those with tensors. Throws invalid_argument. */
export function readMessage<Message extends DescMessage>(schema: Message, { bytes }: ReceivedMessage): MessageShape<Message> {
  if (bytes.length > MOST_BYTES)
    throw new TerabagError('invalid_argument', `the message may have ${MOST_BYTES} bytes: ${bytes.length}`, { field: 'message' });
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false });
  } catch (error) {
    const message = `the message is no ${schema.name}: ${(error as Error).message}`;
    throw new TerabagError('invalid_argument', message, { field: 'message' }, { cause: error });
  }
}

/** Writes what other protocols tell as JSON; what the message has no field for is left out. */
export function writeMessage(schema: DescMessage, value: unknown): Buffer {
  const { buffer, byteOffset, byteLength } = toBinary(schema, fromJson(schema, value as JsonValue, { ignoreUnknownFields: true }));
  return Buffer.from(buffer, byteOffset, byteLength);
}

/** Aborted by the signal when the client goes, or its deadline has passed. */
export type Answer = (message: ReceivedMessage, signal: AbortSignal, deadlineMs: () => number | undefined) => Buffer | Promise<Buffer>;

/** A handler of grpc-js; what answer throws becomes a status. */
export const unaryHandler =
  (answer: Answer): handleUnaryCall<ReceivedMessage, Buffer> =>
  (call, callback) => {
    const gone = new AbortController();
    let ended = false;
    // Also told of calls that are answered.
    call.once('cancelled', () => {
      if (!ended) gone.abort();
    });
    call.request
      .use((message) => answer(message, gone.signal, () => remainingMs(call.getDeadline())))
      .then(
        (bytes) => {
          ended = true;
          callback(null, bytes);
        },
        (error: unknown) => {
          ended = true;
          callback(statusOf(error));
        },
      );
  };

/** Of a method whose answer other protocols tell as JSON. */
export const jsonHandler = <Input extends DescMessage, Output extends DescMessage>(
  { input, output }: DescMethodUnary<Input, Output>,
  answer: (request: MessageShape<Input>) => unknown,
): handleUnaryCall<ReceivedMessage, Buffer> =>
  unaryHandler(async (message) => writeMessage(output, await answer(readMessage(input, message))));

/** What is left of a deadline; one that has passed still counts. */
export function remainingMs(deadline: Date | number): number | undefined {
  const at = Number(deadline);
  return at === Number.POSITIVE_INFINITY ? undefined : Math.max(at - Date.now(), LEAST_MS);
}

const LEAST_MS = 0.001;
