/** Writes the protobuf of ONNX models, by the field numbers of onnx.proto; as plain as can be. */

const varint = (value: number | bigint): number[] => {
  const bytes: number[] = [];
  let left = BigInt.asUintN(64, BigInt(value));
  for (; left >= 128n; left >>= 7n) bytes.push(Number(left & 127n) | 128);
  return [...bytes, Number(left)];
};

/** A field of a message: its bytes. */
export type Field = readonly number[];

export const number = (field: number, value: number | bigint): Field => [...varint(field * 8), ...varint(value)];
export const bytes = (field: number, content: readonly number[]): Field => [
  ...varint(field * 8 + 2),
  ...varint(content.length),
  ...content,
];
export const text = (field: number, value: string): Field => bytes(field, [...Buffer.from(value)]);
export const message = (field: number, ...fields: readonly Field[]): Field => bytes(field, fields.flat());

/** A dim is a number, named, or left open. */
export type Dim = number | string | null;

export const valueInfo = (field: number, name: string, elementType: number, shape: readonly Dim[] | null): Field =>
  message(
    field,
    text(1, name),
    message(
      2,
      message(
        1,
        number(1, elementType),
        ...(shape === null
          ? []
          : [
              message(
                2,
                ...shape.map((dim) => message(1, ...(dim === null ? [] : [typeof dim === 'number' ? number(1, dim) : text(2, dim)]))),
              ),
            ]),
      ),
    ),
  );

export const tensor = (field: number, name: string, dims: readonly number[], ...more: readonly Field[]): Field =>
  message(field, ...dims.map((dim) => number(1, dim)), number(2, 1), text(8, name), ...more);

export const node = (op: string, inputs: readonly string[], ...more: readonly Field[]): Field =>
  message(1, ...inputs.map((input) => text(1, input)), text(2, 'out'), text(4, op), ...more);

export const model = (...graph: readonly Field[]): Uint8Array => Uint8Array.from([...number(1, 8), ...message(7, ...graph)]);
