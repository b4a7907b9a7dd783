import { TerabagError } from '../errors.js';
import { badCheckpoint, type Checkpoint, type CheckpointTensor } from './checkpoint.js';
import { checkImportSpec, type ImportSpec } from './import-spec.js';

/** Models whose tensors are named by a known program, so that the names and shapes say what the model is. */
export const LIKES = ['dlrm', 'torchrec-dlrm', 'torchrec-dcn'] as const;
export type Like = (typeof LIKES)[number];

export interface LikeOptions {
  readonly name: string;
  readonly modelVersion: string;
  /** Names of the tables in the order of the model. */
  readonly order?: readonly string[];
}

export interface ModelLike {
  readonly spec: ImportSpec;
  /** As in ImportOptions. */
  readonly columns: ReadonlyMap<string, readonly number[]>;
  /** What names and shapes do not say, and was assumed. */
  readonly notes: readonly string[];
}

interface Table {
  readonly name: string;
  /** The layer that reads it: the key of a request. */
  readonly bag: string;
  readonly tensor: CheckpointTensor;
}

interface Linear {
  readonly weight: CheckpointTensor;
  readonly bias: CheckpointTensor;
}

type Layer = Readonly<Record<string, unknown>> & { readonly name: string };

export function specLike(like: Like, checkpoint: Checkpoint, options: LikeOptions): ModelLike {
  return READERS[like](new Names(like, checkpoint), options);
}

const READERS: Readonly<Record<Like, (names: Names, options: LikeOptions) => ModelLike>> = {
  dlrm: readDlrm,
  'torchrec-dlrm': readTorchrecDlrm,
  'torchrec-dcn': readTorchrecDcn,
};

/** The tensors of one model in a checkpoint, named without what is around them. */
class Names {
  #prefix = '';

  constructor(
    readonly like: Like,
    readonly checkpoint: Checkpoint,
  ) {}

  refuse(what: string): TerabagError {
    return badCheckpoint(this.checkpoint.path, `not a model like ${this.like}: ${what}; use --spec`);
  }

  /** What matches a pattern of whole names, by its first group; all have to have one prefix, which the other names then have too. */
  all(pattern: string): [string, CheckpointTensor][] {
    const matcher = new RegExp(`^(?<prefix>(?:.*\\.)?)${pattern}$`);
    const found = [...this.checkpoint.tensors].flatMap(([name, tensor]) => {
      const match = matcher.exec(name);
      return match === null ? [] : [{ prefix: match.groups?.['prefix'] ?? '', key: match[2] ?? '', tensor }];
    });
    const prefixes = new Set(found.map(({ prefix }) => prefix));
    if (prefixes.size > 1)
      throw this.refuse(
        `there are several: ${[...prefixes]
          .slice(0, 3)
          .map((prefix) => JSON.stringify(prefix))
          .join(', ')}`,
      );
    this.#prefix = found[0]?.prefix ?? this.#prefix;
    return found.map(({ key, tensor }) => [key, tensor]);
  }

  has(name: string): boolean {
    return this.checkpoint.tensors.has(this.#prefix + name);
  }

  get(name: string): CheckpointTensor {
    const tensor = this.checkpoint.tensors.get(this.#prefix + name);
    if (tensor === undefined) throw this.refuse(`no tensor ${this.#prefix}${name}`);
    return tensor;
  }

  linear(name: string): Linear {
    return { weight: this.get(`${name}.weight`), bias: this.get(`${name}.bias`) };
  }

  /** Layers numbered from 0 by `step`, as far as there are some; at least one. */
  linears(nameOf: (n: number) => string, step: number): Linear[] {
    const found: Linear[] = [];
    for (let n = 0; this.has(`${nameOf(n)}.weight`); n += step) found.push(this.linear(nameOf(n)));
    if (found.length === 0) throw this.refuse(`no tensor ${this.#prefix}${nameOf(0)}.weight`);
    return found;
  }
}

/** facebookresearch/dlrm: emb_l.N, bot_l and top_l, whose odd numbers are the activations between. */
function readDlrm(names: Names, options: LikeOptions): ModelLike {
  const found = names.all('emb_l\\.(\\d+)\\.weight').sort(([a], [b]) => Number(a) - Number(b));
  const missing = found.findIndex(([key], at) => Number(key) !== at);
  if (found.length === 0 || missing >= 0) throw names.refuse(`no tensor emb_l.${Math.max(0, missing)}.weight`);
  if (names.has('v_W_l.0')) throw names.refuse('it weighs each id with a weight of its own (v_W_l), which no layer does');
  const tables = found.map(([key, tensor]) => ({ name: `emb_l.${key}`, bag: `emb_l.${key}`, tensor }));
  const bottom = names.linears((n) => `bot_l.${n}`, 2);
  const top = names.linears((n) => `top_l.${n}`, 2);
  const dim = commonDim(names, tables);
  const bags = tables.map(({ bag }) => bag);
  const vectors = ['bot_l', ...bags];
  const width = top[0]?.weight.shape[1] ?? 0;
  const pairs = (vectors.length * (vectors.length - 1)) / 2;
  const fitting = [
    { wide: dim + pairs, layer: { type: 'dot_interaction', name: 'interaction', inputs: vectors }, says: 'dot' },
    {
      wide: dim + pairs + vectors.length,
      layer: { type: 'dot_interaction', name: 'interaction', inputs: vectors, diagonal: true },
      says: 'dot with itself',
    },
    { wide: dim * vectors.length, layer: { type: 'concat', name: 'interaction', inputs: vectors }, says: 'cat' },
  ].filter(({ wide }) => wide === width);
  const [interaction] = fitting;
  if (interaction === undefined || fitting.length > 1)
    throw names.refuse(
      `top_l.0.weight has ${width} columns, which is ${interaction === undefined ? 'no interaction' : 'more than one interaction'} of ${vectors.length} vectors of ${dim}`,
    );
  const layers = [...mlp('bot_l', 'dense', bottom, 'relu'), interaction.layer, ...mlp('top_l', 'interaction', top, 'sigmoid')];
  const notes = [
    `assumed, as dlrm_s_pytorch.py does it: bags are summed, ReLU after each layer, a sigmoid after the last; interaction by the shapes: ${interaction.says}`,
  ];
  return { spec: specOf(options, tables, bottom, layers, 'top_l'), columns: new Map(), notes };
}

function readTorchrecDlrm(names: Names, options: LikeOptions): ModelLike {
  const { tables, bottom, over, dim } = torchrecParts(names, options);
  const count = tables.length + 1;
  const first = (over[0] as Linear).weight;
  const width = dim + (count * (count - 1)) / 2;
  if (first.shape[1] !== width)
    throw names.refuse(
      `${first.name} has ${first.shape[1]} columns, expected ${width} of ${tables.length} tables of dim ${dim}, each read by one feature`,
    );
  const layers = [
    ...mlp('dense_arch', 'dense', bottom, 'relu'),
    { type: 'dot_interaction', name: 'inter_arch', inputs: ['dense_arch', ...tables.map(({ bag }) => bag)] },
    ...mlp('over_arch', 'inter_arch', over, 'none'),
  ];
  return {
    spec: specOf(options, tables, bottom, layers, 'over_arch'),
    columns: new Map([[first.name, torchrecPairs(count, dim)]]),
    notes: torchrecNotes(tables),
  };
}

function readTorchrecDcn(names: Names, options: LikeOptions): ModelLike {
  const { tables, bottom, over, dim } = torchrecParts(names, options);
  const first = (over[0] as Linear).weight;
  const width = dim * (tables.length + 1);
  if (first.shape[1] !== width)
    throw names.refuse(
      `${first.name} has ${first.shape[1]} columns, expected ${width} of ${tables.length} tables of dim ${dim}, each read by one feature`,
    );
  const crosses: Layer[] = [];
  for (let n = 0; names.has(`inter_arch.crossnet.W_kernels.${n}`); n++) {
    const kernel = (kind: string): string => names.get(`inter_arch.crossnet.${kind}.${n}`).name;
    const inputs = ['inter_arch', n === 0 ? 'inter_arch' : `inter_arch.${n - 1}`];
    crosses.push({
      type: 'cross',
      name: `inter_arch.${n}`,
      inputs,
      weightU: kernel('W_kernels'),
      weightV: kernel('V_kernels'),
      bias: kernel('bias'),
    });
  }
  if (crosses.length === 0) throw names.refuse('no tensor inter_arch.crossnet.W_kernels.0');
  const layers = [
    ...mlp('dense_arch', 'dense', bottom, 'relu'),
    { type: 'concat', name: 'inter_arch', inputs: ['dense_arch', ...tables.map(({ bag }) => bag)] },
    ...crosses,
    ...mlp('over_arch', `inter_arch.${crosses.length - 1}`, over, 'none'),
  ];
  return { spec: specOf(options, tables, bottom, layers, 'over_arch'), columns: new Map(), notes: torchrecNotes(tables) };
}

/** What DLRM and DLRM_DCN of torchrec.models.dlrm have alike. */
function torchrecParts(names: Names, options: LikeOptions): { tables: Table[]; bottom: Linear[]; over: Linear[]; dim: number } {
  const found = names.all('sparse_arch\\.embedding_bag_collection\\.embedding_bags\\.([^.]+)\\.weight');
  if (found.length === 0) throw names.refuse('no tensor sparse_arch.embedding_bag_collection.embedding_bags.NAME.weight');
  const tables = inModelOrder(names, found, options.order).map(([name, tensor]) => ({ name, bag: name.replace(/^t_(?=.)/, ''), tensor }));
  const bottom = names.linears((n) => `dense_arch.model._mlp.${n}._linear`, 1);
  const hidden = names.linears((n) => `over_arch.model.0._mlp.${n}._linear`, 1);
  return { tables, bottom, over: [...hidden, names.linear('over_arch.model.1')], dim: commonDim(names, tables) };
}

/** A wrong order would give wrong scores: it is that of the checkpoint where that keeps it, or of the numbers in the names, or has to be given. */
function inModelOrder(
  names: Names,
  found: readonly [string, CheckpointTensor][],
  order: readonly string[] | undefined,
): readonly [string, CheckpointTensor][] {
  if (order !== undefined) {
    const byName = new Map(found);
    const wrong = order.find((name) => !byName.has(name)) ?? found.find(([name]) => !order.includes(name))?.[0];
    if (wrong !== undefined || order.length !== found.length)
      throw new TerabagError(
        'invalid_argument',
        `--order has to name each table once: ${wrong ?? order.join(',')}; they are ${found.map(([name]) => name).join(',')}`,
        { field: '--order' },
      );
    return order.map((name) => [name, byName.get(name) as CheckpointTensor]);
  }
  if (names.checkpoint.inModelOrder || found.length === 1) return found;
  const numbered = found.map(([name, tensor]) => ({ name, tensor, match: /^(.*?)(\d+)$/.exec(name) }));
  const [first] = numbered;
  if (numbered.some(({ match }) => match === null || match[1] !== first?.match?.[1]))
    throw new TerabagError(
      'invalid_argument',
      `the checkpoint does not keep the order of the tables; give it with --order, which decides on the scores: ${found.map(([name]) => name).join(',')}`,
      {
        field: '--order',
      },
    );
  return numbered.sort((a, b) => Number(a.match?.[2]) - Number(b.match?.[2])).map(({ name, tensor }) => [name, tensor]);
}

const torchrecNotes = (tables: readonly Table[]): string[] => [
  'assumed, as torchrec.models.dlrm does it: bags are summed, ReLU after each layer but the last; scores are logits',
  `order of the tables: ${tables.map(({ name }) => name).join(', ')}`,
];

/** torchrec puts the pairs (i, j), i < j, by i; a dot interaction here by j. Where each column of ours is in torchrec's. */
export function torchrecPairs(vectors: number, dim: number): number[] {
  const order = Array.from({ length: dim }, (_, column) => column);
  for (let j = 1; j < vectors; j++) for (let i = 0; i < j; i++) order.push(dim + i * vectors - (i * (i + 1)) / 2 + (j - i - 1));
  return order;
}

function commonDim(names: Names, tables: readonly Table[]): number {
  const dims = new Set(tables.map(({ tensor }) => tensor.shape[1] ?? 0));
  if (dims.size !== 1) throw names.refuse(`tables have several dims: ${[...dims].join(', ')}`);
  return [...dims][0] as number;
}

/** Fully connected layers; the last has the name alone, and its own activation. */
const mlp = (name: string, input: string, layers: readonly Linear[], last: string): Layer[] =>
  layers.map(({ weight, bias }, n) => {
    const isLast = n === layers.length - 1;
    return {
      type: 'fc',
      name: isLast ? name : `${name}.${n}`,
      input: n === 0 ? input : `${name}.${n - 1}`,
      weight: weight.name,
      bias: bias.name,
      activation: isLast ? last : 'relu',
    };
  });

function specOf(
  { name, modelVersion }: LikeOptions,
  tables: readonly Table[],
  bottom: readonly Linear[],
  layers: readonly Layer[],
  output: string,
): ImportSpec {
  const bags = tables.map((table) => ({ type: 'embedding_bag', name: table.bag, table: table.name }));
  return checkImportSpec('--like', {
    terabag: 1,
    name,
    version: modelVersion,
    dense: [{ name: 'dense', dim: bottom[0]?.weight.shape[1] ?? 0 }],
    tables: tables.map((table) => ({ name: table.name, tensor: table.tensor.name })),
    nets: [{ name: 'net', layers: [...bags, ...layers] }],
    output,
  });
}
