import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { packBundle } from '../../src/index.js';
import { writeRequests } from '../../src/lab/requests/request-file.js';

/** Inputs of people who serve such models; they lie beside the repository, where they are at all. */
const FIELD = fileURLToPath(new URL('../../../shared/field/', import.meta.url));
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'terabag-field-'));
afterAll(() => rmSync(dir, { recursive: true }));

function terabag(args: string[], input?: string | Buffer): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { input, maxBuffer: 2 ** 26 });
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
}

interface Line {
  readonly scores?: number[];
  readonly error?: { code: string; message: string; line: number };
}

function predict(bundle: string, input?: string | Buffer, ...args: string[]): { status: number | null; stderr: string; lines: Line[] } {
  const requests = input === undefined ? join(bundle, 'requests.jsonl') : '-';
  const { status, stdout, stderr } = terabag(['predict', requests, '--bundle', bundle, ...args], input);
  return { status, stderr, lines: stdout.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as Line])) };
}

const fromField = describe.skipIf(!existsSync(FIELD));
if (!existsSync(FIELD)) console.warn(`the field cases are not here, and not tried: ${FIELD}`);

fromField('field cases', () => {
  const of = (name: string): string => join(FIELD, name);

  test.each(['one-file-f32', 'one-file-f16-table', 'one-file-with-counter'])('%s: tables beside the dense weights', (name) => {
    expect(predict(of(name))).toMatchObject({ status: 0, lines: [{ scores: [15, 15] }] });
  });

  test.each(['int8', 'int8_fp16', 'int4', 'fp16', 'bf16'] as const)(
    'one-file-f32 as %s opens, its scores within the error',
    async (format) => {
      for (const name of ['one-file-f32', 'one-file-with-counter']) {
        const out = join(dir, `${name}-${format}`);
        const [packed] = await packBundle(of(name), out, { format });
        copyFileSync(join(of(name), 'requests.jsonl'), join(out, 'requests.jsonl'));
        const { status, lines } = predict(out);
        expect(status).toBe(0);
        // Two rows of three values each, times ones.
        for (const score of lines[0]!.scores!) expect(Math.abs(score - 15)).toBeLessThanOrEqual(6 * packed!.maxError + 1e-5);
      }
    },
  );

  test('unused-f8-tensor: what nobody asks for may be of any dtype', () => {
    expect(predict(of('unused-f8-tensor'))).toMatchObject({ status: 0, lines: [{ scores: [0, 1, 2, 18, 20, 22] }] });
  });

  test('header-duplicate-key: refused, and the message says that the key stands twice', () => {
    const { status, stderr } = predict(of('header-duplicate-key'));
    expect(status).toBe(1);
    expect(stderr).toMatch(/key stands twice: "weight"/);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  test('nonfinite: scores without a number and weights beyond float32 are errors of their lines', () => {
    const { status, lines } = predict(of('nonfinite'));
    expect(status).toBe(1);
    expect(lines).toMatchObject([
      { error: { code: 'unsupported', line: 1, message: expect.stringMatching(/not finite: item 0, score 3, NaN|not finite: item 0/) } },
      { error: { code: 'invalid_argument', line: 2, message: expect.stringMatching(/weights.*position 0.*1e\+39/) } },
    ]);
    const { stderr } = predict(of('nonfinite'), undefined, '--compare');
    expect(stderr).toContain('not compared, scores are not finite: requests of lines 1');
    expect(stderr).not.toMatch(/difference NaN/);
  });

  test('line-separator: U+2028 ends no line', () => {
    expect(predict(of('line-separator'))).toMatchObject({ status: 0, lines: [{ scores: [9, 11, 13] }] });
  });

  test('name-proto: a bag has the name that it has', () => {
    const { status, lines } = predict(of('name-proto'));
    expect(status).toBe(1);
    expect(lines).toMatchObject([{ scores: [9, 11, 13, 7] }, { error: { message: expect.stringMatching(/missing: __proto__/) } }]);
  });
});

interface Tensor {
  readonly dtype: string;
  readonly shape: number[];
  readonly data: Buffer;
}

/** A safetensors file, written without the product's writer. */
function safetensors(tensors: readonly (readonly [string, Tensor])[]): Buffer {
  let at = 0;
  const entries = tensors.map(([name, { dtype, shape, data }]) => {
    const offsets = [at, at + data.length];
    at += data.length;
    return `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: offsets })}`;
  });
  const header = Buffer.from(`{${entries.join(',')}}`);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, ...tensors.map(([, { data }]) => data)]);
}

const f32 = (shape: number[], values: number[]): Tensor => ({ dtype: 'F32', shape, data: Buffer.from(Float32Array.from(values).buffer) });

/** A table of rows [3 r, 3 r + 1, 3 r + 2], whose pooled row is the scores. */
function bundleOf(names: { bag: string; table: string; tensor: string; file: string }, beside: [string, Tensor][] = [], bom = ''): string {
  const bundle = mkdtempSync(join(dir, 'bundle-'));
  const table = f32([4, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  const contents = new Map([
    ['dense.safetensors', safetensors(names.file === 'dense.safetensors' ? [[names.tensor, table], ...beside] : beside)],
  ]);
  if (names.file !== 'dense.safetensors') contents.set(names.file, safetensors([...beside, [names.tensor, table]]));
  for (const [file, bytes] of contents) {
    mkdirSync(dirname(join(bundle, file)), { recursive: true });
    writeFileSync(join(bundle, file), bytes);
  }
  const files = Object.fromEntries(
    [...contents].map(([file, bytes]) => [file, { bytes: bytes.length, crc32: [crc32(bytes).toString(16).padStart(8, '0')] }]),
  );
  const layers = [
    { type: 'embedding_bag', name: names.bag, table: names.table },
    { type: 'concat', name: 'scores', inputs: [names.bag] },
  ];
  const tables = [{ name: names.table, rows: 4, dim: 3, format: 'fp32', file: names.file, tensor: names.tensor }];
  const model = { terabag: 1, name: 'm', version: '1', dense: [], tables, nets: [{ name: 'n', layers }], output: 'scores', files };
  writeFileSync(join(bundle, 'model.json'), bom + JSON.stringify(model));
  return bundle;
}

const request = (bag: string): string => JSON.stringify({ sparse: { [bag]: { indices: [0, 3], offsets: [0, 2] } } });
const SCORES = [{ scores: [9, 11, 13] }];
const PLAIN = { bag: 'bag', table: 't', tensor: 'weight', file: 'tables/t.safetensors' };

const DTYPES = ['F8_E4M3', 'F8_E5M2', 'I8', 'F64', 'X9', '__proto__', 'constructor'];

test('tensors that nobody asks for may be of any dtype and shape, beside a table and beside the dense weights', async () => {
  const bits = new Map([
    ['F64', 64],
    ['X9', 72],
  ]);
  const beside = DTYPES.map((dtype): [string, Tensor] => [
    `unused ${dtype}`,
    { dtype, shape: [2], data: Buffer.alloc((bits.get(dtype) ?? 8) / 4) },
  ]);
  const others: [string, Tensor][] = [
    ['counter', { dtype: 'I64', shape: [], data: Buffer.alloc(8) }],
    ['fours', { dtype: 'F4', shape: [4], data: Buffer.alloc(2) }],
    ['complex', { dtype: 'C64', shape: [1], data: Buffer.alloc(8) }],
    ['nothing', { dtype: 'F32', shape: [0, 7], data: Buffer.alloc(0) }],
  ];
  for (const file of [PLAIN.file, 'dense.safetensors']) {
    const bundle = bundleOf({ ...PLAIN, file }, [...beside, ...others]);
    expect(predict(bundle, request('bag'))).toMatchObject({ status: 0, lines: SCORES });
    const packed = join(bundle, 'packed');
    await packBundle(bundle, packed, { format: 'bf16' });
    expect(predict(packed, request('bag'))).toMatchObject({ status: 0, lines: SCORES });
  }
});

test.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'a\u2028b', 'a\u2029b', 'a\u0085b', 'a\nb', 'a\rb', '\uFEFFa', '0'])(
  'a bag, a table, a tensor and a file may be called %j',
  async (name) => {
    const bundle = bundleOf({ bag: name, table: name, tensor: name, file: name });
    // A computed key is an own property, __proto__ too.
    const line = request(name);
    expect(predict(bundle, line)).toMatchObject({ status: 0, lines: SCORES });
    expect(predict(bundle, '{"sparse":{}}')).toMatchObject({
      status: 1,
      lines: [{ error: { message: expect.stringContaining('missing') } }],
    });
    const asked = { dense: {}, sparse: { [name]: { indices: [0, 3], offsets: [0, 2] } } };
    const archive = join(bundle, 'requests.safetensors');
    await writeRequests(archive, [asked, asked]);
    expect(JSON.parse(terabag(['predict', archive, '--bundle', bundle]).stdout.split('\n')[1]!)).toMatchObject(SCORES[0]!);
    const one = join(bundle, 'one.safetensors');
    writeFileSync(
      one,
      safetensors([
        [`sparse.${name}.indices`, { dtype: 'I64', shape: [2], data: Buffer.from(BigInt64Array.of(0n, 3n).buffer) }],
        [`sparse.${name}.offsets`, { dtype: 'I64', shape: [2], data: Buffer.from(BigInt64Array.of(0n, 2n).buffer) }],
      ]),
    );
    expect(terabag(['predict', one, '--bundle', bundle, '-o', join(bundle, 'scores.safetensors')])).toMatchObject({
      status: 0,
      stderr: '',
    });
  },
);

test('JSONL is framed by \\n alone: \\r before it, within a line, a byte order mark at the start, no line end at the last', () => {
  const bundle = bundleOf(PLAIN, [], '\uFEFF');
  const line = request('bag');
  for (const text of [`${line}\r\n`, line, `\uFEFF${line}\n`, `\r\n \t\n${line}`, line.replace(',', ',\r'), `${line}\n\n`])
    expect(predict(bundle, text), JSON.stringify(text)).toMatchObject({ status: 0, lines: SCORES });
  const broken = Buffer.concat([
    Buffer.from(`${line}\n{"sparse":{"`),
    Buffer.of(0xff),
    Buffer.from(`":{}}}\n${line}\n\u2028\n\uFEFF${line}`),
  ]);
  const { status, lines } = predict(bundle, broken);
  expect(status).toBe(1);
  expect(lines).toMatchObject([
    SCORES[0]!,
    { error: { code: 'invalid_argument', line: 2, message: 'line 2: not UTF-8' } },
    SCORES[0]!,
    { error: { line: 4 } },
    { error: { line: 5 } },
  ]);
});

test('numbers keep their digits in messages, and 64-bit ids are strings', () => {
  const bundle = bundleOf(PLAIN);
  const asked = (indices: string): string => `{"sparse":{"bag":{"indices":[${indices}],"offsets":[0,2]}}}\n`;
  const { lines } = predict(bundle, asked('"0","3"') + asked('0,9007199254740993') + asked('"9223372036854775807",1') + asked('1e400,1'));
  expect(lines).toMatchObject([
    SCORES[0]!,
    { error: { line: 2, message: expect.stringContaining('9007199254740993') } },
    { error: { line: 3, code: 'index_out_of_range', message: expect.stringContaining('9223372036854775807') } },
    { error: { line: 4, message: expect.stringContaining('1e400') } },
  ]);
});

test('a duplicate key, a fraction in a shape and bytes that are no UTF-8 are refused wherever JSON is read', () => {
  const bundle = bundleOf(PLAIN);
  const path = join(bundle, 'model.json');
  const text = readFileSync(path, 'utf8');
  for (const [damaged, message] of [
    [text.replace('"name":"m"', '"name":"m","name":"n"'), /key stands twice: "name"/],
    [text.replace('"dim":3', '"dim":3,"d\\u0069m":3'), /key stands twice/],
    [Buffer.concat([Buffer.from(text.slice(0, -1)), Buffer.of(0xff), Buffer.from('}')]), /model\.json is not UTF-8/],
  ] as const) {
    writeFileSync(path, damaged);
    const { status, stderr } = predict(bundle, request('bag'));
    expect(status).toBe(1);
    expect(stderr).toMatch(message);
  }
});

test('a full disk and a pipe that nobody reads are one line with the path, and leave nothing half-written', () => {
  const bundle = bundleOf(PLAIN);
  const requests = join(bundle, 'requests.jsonl');
  writeFileSync(requests, `${request('bag')}\n`.repeat(5000));
  const shell = (command: string) => spawnSync('bash', ['-c', command], { encoding: 'utf8' });
  const cli = `'${process.execPath}' '${main}'`;
  const run = `${cli} predict '${requests}' --bundle '${bundle}'`;
  for (const [command, message] of [
    [`${run} > /dev/full`, /^terabag: no room left.*ENOSPC.*stdout/],
    [`${run} -o /dev/full`, /^terabag: no room left.*ENOSPC.*\/dev\/full/],
    [`${cli} inspect '${bundle}' --json > /dev/full`, /^terabag: no room left.*ENOSPC.*stdout/],
    [`set -o pipefail; ${run} | head -c 10 > /dev/null`, /^terabag: nobody reads.*EPIPE.*stdout/],
    [`ulimit -f 8; ${run} -o '${bundle}/scores.jsonl'`, /^terabag: no room left.*EFBIG.*scores\.jsonl/],
  ] as const) {
    const { status, stderr } = shell(command);
    expect(stderr, command).toMatch(message);
    expect(stderr.trim().split('\n'), command).toHaveLength(1);
    expect(status, command).toBe(1);
  }
  expect(readdirSync(bundle).filter((name) => name.includes('scores'))).toEqual([]);
  expect(shell(`${run} -o /dev/null && test -c /dev/null`).status).toBe(0);
});

test('a process without file descriptors is told so, and the file is not blamed', () => {
  const bundle = bundleOf(PLAIN);
  const crowded = join(bundle, 'crowded.mjs');
  const source = fileURLToPath(new URL('../../dist/', import.meta.url));
  writeFileSync(
    crowded,
    `import { openSync } from 'node:fs';
import { openLocal } from '${source}index.js';
import { readPlan } from '${source}plan/file/plan.js';
import { readSafetensorsHeader } from '${source}tables/safetensors.js';
try { for (;;) openSync('/dev/null'); } catch {}
const told = [];
for (const open of [() => openLocal('${bundle}'), () => readPlan('${bundle}/model.json'), () => readSafetensorsHeader('${bundle}/dense.safetensors')])
  await open().catch(({ code, message, details }) => told.push({ code, message, reason: details.reason }));
console.log(JSON.stringify(told));`,
  );
  const { stdout } = spawnSync('bash', ['-c', `ulimit -n 400; '${process.execPath}' '${crowded}'`], { encoding: 'utf8' });
  const told = JSON.parse(stdout) as { code: string; message: string; reason: string }[];
  expect(told).toHaveLength(3);
  for (const one of told)
    expect(one).toMatchObject({ code: 'overloaded', reason: 'EMFILE', message: expect.stringMatching(/EMFILE.*ulimit -n/) });
});

test('a layer that reads a tensor which is a table too keeps the table from being packed, before anything is written', async () => {
  const bundle = join(dir, 'shared-tensor');
  cpSync(bundleOf({ ...PLAIN, file: 'dense.safetensors' }), bundle, { recursive: true });
  const path = join(bundle, 'model.json');
  const model = JSON.parse(readFileSync(path, 'utf8')) as { output: string; nets: { layers: object[] }[] };
  model.nets[0]!.layers.push({ type: 'fc', name: 'top', input: 'bag', weight: 'weight' });
  model.output = 'top';
  writeFileSync(path, JSON.stringify(model));
  const out = join(dir, 'shared-tensor-packed');
  await expect(packBundle(bundle, out, { format: 'int8' })).rejects.toThrow(/a dense layer reads its tensor too: t/);
  expect(existsSync(out)).toBe(false);
});
