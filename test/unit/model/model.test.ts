import { cp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TerabagError } from '../../../src/errors.js';
import { finishBundle, openBundle, readModelSpec, verifyBundle, writeModelJson } from '../../../src/model/bundle.js';
import { modelHash } from '../../../src/model/hash.js';
import type { ModelSpec } from '../../../src/model/spec.js';
import { readSafetensorsHeader, readTensor, type TensorToWrite, writeSafetensors } from '../../../src/tables/safetensors.js';
import { type SmallModel, writeSmallModel } from '../../reference/small-model.js';

let model: SmallModel;
let json: string;
beforeAll(async () => {
  model = await writeSmallModel(71);
  json = await readFile(join(model.dir, 'model.json'), 'utf8');
});
afterAll(() => rm(model.dir, { recursive: true }));

type Path = readonly (string | number)[];
function changed(path: Path, value: unknown): unknown {
  const root = JSON.parse(json);
  let at = root;
  for (const key of path.slice(0, -1)) at = at[key];
  const last = path.at(-1) as string;
  if (value === undefined) delete at[last];
  else at[last] = value;
  return root;
}

const FILES = ['files', 'tables/t1.safetensors'] as const;

test.each<[string, Path, unknown, string]>([
  ['another format version', ['terabag'], 2, 'terabag'],
  ['no name', ['name'], undefined, 'name'],
  ['no rows', ['tables', 1, 'rows'], 0, 'tables[1].rows'],
  ['rows beyond 2^53', ['tables', 1, 'rows'], 2 ** 60, 'tables[1].rows'],
  ['a dim that is too large', ['tables', 2, 'dim'], 65_537, 'tables[2].dim'],
  ['an unknown row format', ['tables', 0, 'format'], 'int3', 'tables[0].format'],
  ['an unknown layer type', ['nets', 0, 'layers', 3, 'type'], 'conv', 'nets[0].layers[3].type'],
  ['a field that does not exist', ['nets', 0, 'layers', 0, 'pool'], 'sum', 'nets[0].layers[0]'],
  ['a net without layers', ['nets', 0, 'layers'], [], 'nets[0].layers'],
  ['an unknown table', ['nets', 0, 'layers', 1, 'table'], 'nope', 'nets[0].layers[1].table'],
  ['a name used twice', ['nets', 0, 'layers', 1, 'name'], 'sum', 'nets[0].layers[1].name'],
  ['a layer that reads a later one', ['nets', 0, 'layers', 3, 'input'], 'top', 'nets[0].layers[3]'],
  ['a weight that is missing', ['nets', 0, 'layers', 3, 'weight'], 'nope', 'nets[0].layers[3].weight'],
  ['a bias of another length', ['nets', 0, 'layers', 3, 'bias'], 'top.bias', 'nets[0].layers[3].bias'],
  ['inputs of different dims', ['nets', 0, 'layers', 4, 'inputs'], ['dense', 'sum'], 'nets[0].layers[4].inputs'],
  ['an output that is a bag', ['output'], 'sum', 'output'],
  ['a mean of more ids than a request can have', ['nets', 0, 'layers', 0, 'poolingFactor'], 1e308, 'nets[0].layers[0].poolingFactor'],
  ['tables of one name', ['tables', 1, 'name'], 't0', 'tables'],
  ['a checksum that is no hex', [...FILES, 'crc32', 0], 'XYZ', '.crc32[0]'],
])('%s is refused with its place in model.json', async (_, path, value, place) => {
  await writeFile(join(model.dir, 'model.json'), JSON.stringify(changed(path, value)));
  const error = await openBundle(model.dir, { verify: 'size' }).then(
    () => expect.fail('opened'),
    (thrown: unknown) => thrown,
  );
  expect(error).toMatchObject({ code: 'bad_model', message: expect.stringContaining('model.json: ') });
  expect(error).toMatchObject({ message: expect.stringContaining(place) });
  const { message } = error as TerabagError;
  await expect(finishBundle(model.dir, changed(path, value) as ModelSpec)).rejects.toMatchObject({ code: 'bad_model', message });
});

test.each<[string, Path, unknown, string, RegExp]>([
  ['a file without an entry', [...FILES], undefined, 'bad_model', /no entry for tables\/t1/],
  ['a path out of the bundle', ['tables', 1, 'file'], '../t1.safetensors', 'bad_model', /t1/],
  ['another length than said', [...FILES, 'bytes'], 7, 'bad_table', /t1.*expected 7/],
  ['more checksums than chunks', [...FILES, 'crc32', 1], '00000000', 'bad_model', /t1.*2, expected 1/],
  ['another checksum', [...FILES, 'crc32', 0], '00000000', 'checksum_mismatch', /damaged.*t1.*chunk 0/],
  ['other rows than the file has', ['tables', 1, 'rows'], 8, 'bad_table', /table t1: tensor is 7x12, model.json says 8x12/],
  ['another row format than the file has', ['tables', 1, 'format'], 'bf16', 'bad_table', /table t1: tensor is F32/],
  ['a tensor that is not in the file', ['tables', 1, 'tensor'], 'nope', 'bad_table', /table t1: no tensor nope/],
])('%s is refused with the reason', async (_, path, value, code, reason) => {
  await writeFile(join(model.dir, 'model.json'), JSON.stringify(changed(path, value)));
  await expect(openBundle(model.dir)).rejects.toThrow(reason);
  await expect(openBundle(model.dir)).rejects.toMatchObject({ code });
  if (code === 'checksum_mismatch') expect(await verifyBundle(model.dir)).toEqual([expect.stringMatching(reason)]);
});

test('dense weights that are not finite are refused with tensor and position; those that no layer names may be anything', async () => {
  const { dir } = await writeSmallModel(72);
  const file = join(dir, 'dense.safetensors');
  const header = await readSafetensorsHeader(file);
  const spec = await readModelSpec(dir);
  const open = async (change: (name: string, values: Float32Array) => void): Promise<unknown> => {
    const tensors: TensorToWrite[] = [
      { name: 'unused', dtype: 'F32', shape: [1], data: new Uint8Array(Float32Array.of(Number.NaN).buffer) },
    ];
    for (const [name, info] of header.tensors) {
      const values = new Float32Array((await readTensor(header, info)).buffer);
      change(name, values);
      tensors.push({ name, dtype: info.dtype, shape: info.shape, data: new Uint8Array(values.buffer) });
    }
    const changedFile = join(dir, 'changed');
    const entry = await writeSafetensors(changedFile, tensors);
    const bundle = `${dir}-changed`;
    await cp(dir, bundle, { recursive: true });
    await rename(join(bundle, 'changed'), join(bundle, 'dense.safetensors'));
    await writeModelJson(bundle, { ...spec, files: { ...spec.files, 'dense.safetensors': entry } });
    const problems = await verifyBundle(bundle);
    const thrown = await openBundle(bundle, { verify: 'size' }).then(
      () => null,
      (error: unknown) => error,
    );
    expect(problems).toEqual(thrown === null ? [] : [(thrown as Error).message]);
    await rm(bundle, { recursive: true });
    return thrown;
  };
  for (const [tensor, position, value] of [
    ['top.weight', 17, Number.NaN],
    ['bottom.weight', 59, Number.POSITIVE_INFINITY],
    ['bottom.bias', 0, Number.NEGATIVE_INFINITY],
    ['top.bias', 0, 1e39],
  ] as const) {
    const error = await open((name, values) => {
      if (name === tensor) values[position] = value;
    });
    expect(error).toMatchObject({
      code: 'bad_model',
      message: expect.stringMatching(new RegExp(`${tensor} .*position ${position}, -?(NaN|Infinity): .*dense\\.safetensors`)),
      details: { tensor, position, value: String(Math.fround(value)) },
    });
  }
  expect(await open((_name, values) => values.set([-0, -3.4e38, 1e-45].slice(0, values.length)))).toBe(null);
  await rm(dir, { recursive: true });
});

test('model.json that is missing, or no JSON, is refused', async () => {
  await writeFile(join(model.dir, 'model.json'), json.slice(0, 100));
  await expect(openBundle(model.dir)).rejects.toMatchObject({ code: 'bad_model' });
  await rm(join(model.dir, 'model.json'));
  await expect(openBundle(model.dir)).rejects.toThrow(/no bundle here.*ENOENT/);
});

/** The same value with the keys of every object in another order. */
function shuffled(value: unknown, next: () => number): unknown {
  if (Array.isArray(value)) return value.map((entry) => shuffled(entry, next));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, entry]) => ({ key, entry: shuffled(entry, next), order: next() }));
  return Object.fromEntries(entries.sort((a, b) => a.order - b.order).map(({ key, entry }) => [key, entry]));
}

test('the hash of a model does not depend on the order of keys, and does on every value', async () => {
  await writeFile(join(model.dir, 'model.json'), json);
  const spec = await readModelSpec(model.dir);
  const hash = modelHash(spec);
  fc.assert(
    fc.property(fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (stream) => {
      expect(modelHash(shuffled(spec, () => stream.next().value as number) as ModelSpec)).toBe(hash);
    }),
    { numRuns: 50 },
  );
  const others: [Path, unknown][] = [
    [['version'], '2'],
    [['nets', 0, 'layers', 1, 'pooling'], 'sum'],
    [[...FILES, 'crc32', 0], '00000000'],
    [['tables', 0, 'rows'], 51],
  ];
  for (const [path, value] of others) expect(modelHash(changed(path, value) as ModelSpec), path.join('.')).not.toBe(hash);
});

test('dense weights of every dtype of floats become float32; what that does not hold is refused with tensor and position', async () => {
  const { dir } = await writeSmallModel(73);
  const file = join(dir, 'dense.safetensors');
  const header = await readSafetensorsHeader(file);
  const spec = await readModelSpec(dir);
  const eighths = (length: number): number[] => Array.from({ length }, (_, at) => ((at * 5) % 17) / 8 - 1);
  const halfBits = (value: number): number => {
    if (value === 0) return 0;
    const exponent = Math.floor(Math.log2(Math.abs(value)));
    return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | Math.round((Math.abs(value) / 2 ** exponent - 1) * 1024);
  };
  const encode: Record<string, (values: number[]) => { buffer: ArrayBuffer }> = {
    F32: (values) => Float32Array.from(values),
    F64: (values) => Float64Array.from(values),
    F16: (values) => Uint16Array.from(values, halfBits),
    BF16: (values) => Uint16Array.from(values, (value) => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16),
  };
  const open = async (dtype: string, change: (name: string, values: number[]) => void = () => undefined) => {
    const tensors = [...header.tensors].map(([name, { shape }]): TensorToWrite => {
      const values = eighths(shape.reduce((product, dim) => product * dim, 1));
      change(name, values);
      return { name, dtype, shape, data: new Uint8Array((encode[dtype] ?? encode['F32']!)(values).buffer) };
    });
    const entry = await writeSafetensors(file, tensors);
    await writeModelJson(dir, { ...spec, files: { ...spec.files, 'dense.safetensors': entry } });
    return openBundle(dir, { tables: new Set() });
  };
  for (const dtype of ['F32', 'F64', 'F16', 'BF16']) {
    const { dense } = await open(dtype);
    expect(dense.size).toBeGreaterThan(3);
    for (const { data } of dense.values()) expect(Array.from(data)).toEqual(eighths(data.length));
  }
  await expect(
    open('F64', (name, values) => {
      if (name === 'top.weight') values[5] = -1e39;
    }),
  ).rejects.toMatchObject({
    code: 'bad_model',
    message: expect.stringMatching(/dense weights have to be within what float32 holds: top\.weight .*position 5, -1e\+39: /),
    details: { tensor: 'top.weight', position: 5, value: '-1e+39' },
  });
  await expect(open('I32')).rejects.toMatchObject({
    code: 'bad_model',
    message: expect.stringMatching(/dense weights have to be F32, F16, BF16, F64: .* is I32/),
  });
  await rm(dir, { recursive: true });
});
