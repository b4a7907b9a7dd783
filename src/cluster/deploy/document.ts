/** A file that is rendered, by its path below the directory of all. */
export interface DeployFile {
  readonly path: string;
  readonly text: string;
  /** It holds secrets: for its owner alone. */
  readonly secret?: boolean;
}

/** Plain data of a manifest. */
export type Plain = string | number | boolean | null | readonly Plain[] | { readonly [key: string]: Plain };

/** What a manifest is made of: plain data, and places where whoever installs a chart may put something else. */
export type Node = Plain | Setting | Items | readonly Node[] | NodeMap;
export interface NodeMap {
  /** What is undefined is left out. */
  readonly [key: string]: Node | When | undefined;
}

/** A value of a chart's values.yaml: in manifests, its default. */
export class Setting<T extends Plain = Plain> {
  constructor(
    readonly path: readonly string[],
    readonly value: T,
    readonly comment: string,
  ) {}
}

/** Elements of a list which a setting has. */
export class Items {
  constructor(readonly setting: Setting<readonly Plain[]>) {}
}

/** A field that is there when a setting is as it is here. */
export class When {
  constructor(
    readonly setting: Setting<boolean>,
    readonly is: boolean,
    readonly node: Node,
  ) {}
}

/** An object of Kubernetes. */
export interface Manifest {
  /** The file that it is in; several may be in one. */
  readonly file: string;
  readonly object: NodeMap;
  /** It is there when this is true. */
  readonly when?: Setting<boolean>;
  readonly secret?: boolean;
}

/** Every setting in a node, in order, some more than once. */
export function settingsOf(node: Node | When | undefined): Setting[] {
  if (node instanceof Setting) return [node];
  if (node instanceof Items) return [node.setting];
  if (node instanceof When) return [node.setting, ...settingsOf(node.node)];
  if (node === null || typeof node !== 'object') return [];
  return Object.values(node).flatMap((part: Node | When | undefined) => settingsOf(part));
}
