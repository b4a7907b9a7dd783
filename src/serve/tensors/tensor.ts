/** Numeric datatypes of the Open Inference Protocol v2 that Terabag reads or writes. */
export type Datatype = 'INT8' | 'UINT8' | 'INT16' | 'UINT16' | 'INT32' | 'UINT32' | 'INT64' | 'UINT64' | 'FP32';

export type TensorData =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | readonly (number | bigint | string)[];

/** A named tensor of a request or an answer, row-major; data has as many values as shape says, and is not copied. */
export interface Tensor {
  readonly name: string;
  readonly datatype: Datatype;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

export const isIntegerType = (datatype: string): boolean => /^U?INT(8|16|32|64)$/.test(datatype);
