import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

/**
 * The logs of the Open Bandit sample as requests, and a float64 reference of the model that PyTorch trained on them. Shares no code
 * with src/ and none with the program that wrote the fixture: what both say has to agree.
 */
export const FIXTURE = fileURLToPath(new URL('../fixtures/open-bandit/', import.meta.url));
const DATA = process.env['TERABAG_OPEN_BANDIT'] ?? fileURLToPath(new URL('../../../shared/data/open-bandit/', import.meta.url));
const LOGS = ['bts-men', 'bts-women', 'random-men', 'random-women'];
const USER_BAGS = ['user_feature_0', 'user_feature_1', 'user_feature_2', 'user_feature_3', 'position'] as const;
const ITEM_CATEGORIES = ['item_feature_1', 'item_feature_2', 'item_feature_3'] as const;
const ITEM_BAGS = ['item_id', ...ITEM_CATEGORIES] as const;

/** The files that the requests are made of and that are not there. */
export function missingData(): string[] {
  return LOGS.flatMap((log) => [`${log}.csv.gz`, `${log}-items.csv`])
    .map((name) => join(DATA, name))
    .filter((path) => !existsSync(path));
}

export interface Bags {
  readonly indices: Int32Array;
  readonly offsets: Uint32Array;
  readonly weights?: Float32Array;
}

export interface Impression {
  readonly log: string;
  readonly clicked: boolean;
  /** The shown item's position among the request's candidates. */
  readonly shown: number;
  /** One user, all items of the campaign as candidates. */
  readonly request: { readonly dense: Readonly<Record<string, Float32Array>>; readonly sparse: Readonly<Record<string, Bags>> };
}

type UserBag = (typeof USER_BAGS)[number];
type ItemBag = (typeof ITEM_BAGS)[number];
/** Values of the CSVs to rows of the tables: by value for users; by campaign, then by item_id for items. */
export type Vocabulary = { readonly logs: readonly { readonly log: string; readonly campaign: string }[] } & {
  readonly item_feature_0: { readonly mean: number; readonly std: number };
} & Readonly<Record<UserBag, Readonly<Record<string, number>>>> &
  Readonly<Record<ItemBag, Readonly<Record<string, readonly number[]>>>>;

export async function readVocabulary(): Promise<Vocabulary> {
  return JSON.parse(await readFile(join(FIXTURE, 'vocab.json'), 'utf8')) as Vocabulary;
}

export interface Metrics {
  readonly impressions: number;
  readonly clicks: number;
  readonly auc: number;
  readonly logs: Readonly<Record<string, { readonly impressions: number; readonly clicks: number; readonly auc: number }>>;
}

export async function readMetrics(): Promise<Metrics> {
  return JSON.parse(await readFile(join(FIXTURE, 'metrics.json'), 'utf8')) as Metrics;
}

type Row = (column: string) => string;

/** No value of these files has a comma or a quote in it; one that had is refused. */
function parseCsv(text: string, path: string): Row[] {
  if (text.includes('"')) throw new Error(`quoted values are not read here: ${path}`);
  const [header = '', ...lines] = text.trimEnd().split('\n');
  const columns = new Map(header.split(',').map((name, index) => [name, index]));
  return lines.map((line) => {
    const values = line.split(',');
    if (values.length !== columns.size) throw new Error(`line of ${values.length} values, expected ${columns.size}: ${path}`);
    return (column) => {
      const value = values[columns.get(column) ?? -1];
      if (value === undefined) throw new Error(`no such column: ${column}: ${path}`);
      return value;
    };
  });
}

async function readItems(log: string): Promise<Row[]> {
  const path = join(DATA, `${log}-items.csv`);
  return parseCsv(await readFile(path, 'utf8'), path).sort((a, b) => Number(a('item_id')) - Number(b('item_id')));
}

/** All impressions of the four logs, in their order. */
export async function readImpressions(vocabulary: Vocabulary): Promise<Impression[]> {
  const impressions: Impression[] = [];
  for (const { log, campaign } of vocabulary.logs) {
    const { mean, std } = vocabulary.item_feature_0;
    const item_feature_0 = Float32Array.from(await readItems(log), (item) => (Number(item('item_feature_0')) - mean) / std);
    const itemRows = vocabulary.item_id[campaign] ?? [];
    const perItem = Uint32Array.from({ length: itemRows.length + 1 }, (_, item) => item);
    const ofItems = ITEM_BAGS.map((name): [string, Bags] => [
      name,
      { indices: Int32Array.from(vocabulary[name][campaign] ?? []), offsets: perItem },
    ]);
    const path = join(DATA, `${log}.csv.gz`);
    for (const row of parseCsv(gunzipSync(await readFile(path)).toString('utf8'), path)) {
      const ofUser = USER_BAGS.map((name): [string, Bags] => [
        name,
        { indices: Int32Array.of(vocabulary[name][row(name)] ?? 0), offsets: Uint32Array.of(0, 1) },
      ]);
      const counts = itemRows.map((_, item) => Number(row(`user-item_affinity_${item}`)));
      const past: Bags = {
        indices: Int32Array.from(itemRows.filter((_, item) => (counts[item] as number) > 0)),
        offsets: Uint32Array.of(0, counts.filter((count) => count > 0).length),
        weights: Float32Array.from(counts.filter((count) => count > 0)),
      };
      impressions.push({
        log,
        clicked: row('click') === '1',
        shown: Number(row('item_id')),
        request: { dense: { item_feature_0 }, sparse: Object.fromEntries([...ofUser, ['past_clicks', past], ...ofItems]) },
      });
    }
  }
  return impressions;
}

/** Rows of the items' categories, numbered again from one policy's file: by first appearance, the second campaign after the first. */
export async function categoryRows(policy: string): Promise<Record<string, Record<string, number[]>>> {
  const rows: Record<string, Record<string, number[]>> = {};
  for (const feature of ITEM_CATEGORIES) {
    const ofCampaigns: Record<string, number[]> = {};
    let next = 1;
    for (const campaign of ['men', 'women']) {
      const seen = new Map<string, number>();
      ofCampaigns[campaign] = (await readItems(`${policy}-${campaign}`)).map((item) => {
        const value = item(feature);
        if (!seen.has(value)) seen.set(value, next++);
        return seen.get(value) as number;
      });
    }
    rows[feature] = ofCampaigns;
  }
  return rows;
}

/** Area under the ROC curve: over all pairs of a click and no click, how often the click scores higher; ties count one half. */
export function auc(scores: ArrayLike<number>, clicked: readonly boolean[]): number {
  const order = Array.from(clicked, (_, index) => index).sort((a, b) => (scores[a] as number) - (scores[b] as number));
  let wins = 0;
  let below = 0;
  for (let at = 0; at < order.length; ) {
    const score = scores[order[at] as number];
    const tied = { clicks: 0, others: 0 };
    for (; at < order.length && scores[order[at] as number] === score; at++) tied[clicked[order[at] as number] ? 'clicks' : 'others']++;
    wins += tied.clicks * (below + tied.others / 2);
    below += tied.others;
  }
  return wins / (below * (clicked.length - below));
}

interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

const READERS: Readonly<Record<string, { readonly bytes: number; readonly read: (view: DataView, at: number) => number }>> = {
  F32: { bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  F16: { bytes: 2, read: (view, at) => halfToNumber(view.getUint16(at, true)) },
  BF16: { bytes: 2, read: (view, at) => bfloat16ToNumber(view.getUint16(at, true)) },
};

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1024;
  return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
}

function bfloat16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 7) & 0xff;
  const fraction = (bits & 0x7f) / 128;
  return sign * (exponent === 0 ? fraction * 2 ** -126 : (1 + fraction) * 2 ** (exponent - 127));
}

/** Reads all tensors of a safetensors file of the fixture. */
export async function readTensors(file: string): Promise<Map<string, Tensor>> {
  const bytes = await readFile(join(FIXTURE, file));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const dataStart = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(bytes.toString('utf8', 8, dataStart)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    const reader = READERS[dtype];
    if (name === '__metadata__' || reader === undefined) continue;
    const length = shape.reduce((product, count) => product * count, 1);
    const data = Float64Array.from({ length }, (_, index) => reader.read(view, dataStart + offsets[0] + index * reader.bytes));
    tensors.set(name, { shape, data });
  }
  return tensors;
}

/** The DLRM that train_open_bandit.py describes, one plain loop a layer, all in float64. */
export class ReferenceModel {
  private constructor(
    private readonly tables: ReadonlyMap<string, Tensor>,
    private readonly dense: ReadonlyMap<string, Tensor>,
  ) {}

  static async read(): Promise<ReferenceModel> {
    const tables = new Map<string, Tensor>();
    for (const name of [...USER_BAGS, ...ITEM_BAGS]) {
      const [[tensor, table] = []] = [...(await readTensors(`tables/${name}.safetensors`))];
      if (tensor !== `tables.${name}` || table === undefined) throw new Error(`no table in the file: ${name}`);
      tables.set(name, table);
    }
    return new ReferenceModel(tables, await readTensors('dense.safetensors'));
  }

  /** The score of one candidate. */
  score({ dense, sparse }: Impression['request'], item: number): number {
    const bag = (name: string, table = name): Float64Array => this.#pool(table, sparse[name] as Bags, item);
    const feature = Float64Array.of(dense['item_feature_0']?.[item] as number);
    const bottom = this.#fc('bottom', feature).map((value) => Math.max(0, value));
    const vectors = [bottom, ...USER_BAGS.map((name) => bag(name)), bag('past_clicks', 'item_id'), ...ITEM_BAGS.map((name) => bag(name))];
    const interaction = [...bottom];
    for (let i = 1; i < vectors.length; i++) {
      for (let j = 0; j < i; j++) interaction.push(dot(vectors[i] as Float64Array, vectors[j] as Float64Array, 0));
    }
    const first = this.#fc('top.0', Float64Array.from(interaction)).map((value) => Math.max(0, value));
    const second = this.#fc('top.1', first).map((value) => Math.max(0, value));
    return 1 / (1 + Math.exp(-(this.#fc('top.2', second)[0] as number)));
  }

  #pool(name: string, { indices, offsets, weights }: Bags, item: number): Float64Array {
    const { shape, data } = this.tables.get(name) as Tensor;
    const dim = shape[1] as number;
    const bag = offsets.length === 2 ? 0 : item;
    const pooled = new Float64Array(dim);
    for (let i = offsets[bag] as number; i < (offsets[bag + 1] as number); i++) {
      const row = (indices[i] as number) * dim;
      for (let d = 0; d < dim; d++) pooled[d] = (pooled[d] as number) + (weights?.[i] ?? 1) * (data[row + d] as number);
    }
    return pooled;
  }

  #fc(name: string, input: Float64Array): Float64Array {
    const { data } = this.dense.get(`${name}.weight`) as Tensor;
    const bias = (this.dense.get(`${name}.bias`) as Tensor).data;
    return bias.map((start, out) => start + dot(data, input, out * input.length));
  }
}

/** The dot product of b with the values of a from a position on. */
function dot(a: Float64Array, b: Float64Array, start: number): number {
  let sum = 0;
  for (let k = 0; k < b.length; k++) sum += (a[start + k] as number) * (b[k] as number);
  return sum;
}
