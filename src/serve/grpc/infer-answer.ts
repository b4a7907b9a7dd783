import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { answerParameters, type InferAnswer } from '../inference.js';
import { rawBytes } from '../tensors/raw-tensor.js';

/** How an answer is written. */
export interface AnswerForm {
  readonly id: string;
  readonly raw: boolean;
  /** One of a stream, where clients ask for a sign that no further answer of the request comes. */
  readonly streamed?: boolean;
}

const DELIMITED = 2;
const tag = (field: number): number => (field << 3) | DELIMITED;

/** A ModelInferResponse, or a ModelStreamInferResponse with one. Values are copied once. */
export function writeInferAnswer(form: AnswerForm, answer: InferAnswer): Buffer {
  const writer = new BinaryWriter();
  if (form.streamed === true) writer.uint32(tag(2)).fork();
  writeResponse(writer, form, answer);
  if (form.streamed === true) writer.join();
  return finished(writer);
}

/** Of a stream: the failure of one request, and which it was. */
export function writeStreamError(id: string, message: string): Buffer {
  const writer = new BinaryWriter().uint32(tag(1)).string(message);
  if (id !== '') writer.uint32(tag(2)).fork().uint32(tag(3)).string(id).join();
  return finished(writer);
}

function writeResponse(writer: BinaryWriter, { id, raw, streamed }: AnswerForm, { model, prediction, outputs }: InferAnswer): void {
  writer.uint32(tag(1)).string(model.name).uint32(tag(2)).string(model.version);
  if (id !== '') writer.uint32(tag(3)).string(id);
  for (const [name, value] of Object.entries(answerParameters(prediction) ?? {})) writeParameter(writer, name, value);
  if (streamed === true) writeParameter(writer, 'triton_final_response', true);
  for (const { name, shape, data } of outputs) {
    writer.uint32(tag(5)).fork().uint32(tag(1)).string(name).uint32(tag(2)).string('FP32');
    writer.uint32(tag(3)).fork().int64(shape[0]).int64(shape[1]).join();
    // Packed floats are what they are in memory.
    if (!raw) writer.uint32(tag(5)).fork().uint32(tag(6)).bytes(rawBytes(data)).join();
    writer.join();
  }
  if (raw) for (const { data } of outputs) writer.uint32(tag(6)).bytes(rawBytes(data));
}

/** An entry of a map of InferParameter. */
function writeParameter(writer: BinaryWriter, name: string, value: boolean | string): void {
  writer.uint32(tag(4)).fork().uint32(tag(1)).string(name).uint32(tag(2)).fork();
  if (typeof value === 'boolean') writer.uint32(1 << 3).bool(value);
  else writer.uint32(tag(3)).string(value);
  writer.join().join();
}

function finished(writer: BinaryWriter): Buffer {
  const { buffer, byteOffset, byteLength } = writer.finish();
  return Buffer.from(buffer, byteOffset, byteLength);
}
