import { TerabagError } from '../errors.js';
import { type ModelSource, type ModelState, ServedModel } from './served-model.js';

/** What a repository has at the moment: every version of every model. */
export type FindModels = () => Promise<readonly ModelSource[]>;

/** A model version as the index of the repository extension tells it. */
export interface ModelEntry {
  readonly name: string;
  readonly version: string;
  readonly state: ModelState;
  readonly reason: string;
}

/** Models by name and version, opened and closed while requests are answered. */
export class Repository {
  /** By name; the latest version first. */
  readonly #models = new Map<string, ServedModel[]>();
  #closed = false;

  /** findModels is asked at open and at each load. onFailure is told of models that cannot be opened. */
  constructor(
    private readonly findModels: FindModels,
    private readonly onFailure: (model: ServedModel, error: TerabagError) => void = () => undefined,
  ) {}

  /** Opens every model that there is, side by side. Those that cannot be opened are UNAVAILABLE. Rejects when the repository cannot be read. */
  async open(): Promise<void> {
    await Promise.all((await this.findModels()).map((source) => this.#openOne(source)));
  }

  async #openOne(source: ModelSource): Promise<TerabagError | null> {
    const model = this.#modelOf(source);
    try {
      await model.open(source);
      return null;
    } catch (thrown) {
      const error = TerabagError.from(thrown);
      if (!this.#closed) this.onFailure(model, error);
      return error;
    }
  }

  #modelOf(source: ModelSource): ServedModel {
    const { name, version } = source;
    const versions = this.#models.get(name) ?? [];
    const known = versions.find((model) => model.version === version);
    if (known !== undefined) return known;
    const model = new ServedModel(source);
    this.#models.set(
      name,
      [...versions, model].sort((a, b) => compareVersions(b.version, a.version)),
    );
    return model;
  }

  /** Of all models: they are there, each has a version, and every table has a live replica. */
  get ready(): boolean {
    const models = [...this.#models.values()];
    return (
      models.length > 0 &&
      models.every(
        (versions) =>
          versions.every((model) => model.state === 'UNAVAILABLE' || model.readiness().ready) &&
          versions.some((model) => model.readiness().ready),
      )
    );
  }

  /** All versions, the models in the order of their names, the latest version first. */
  get models(): readonly ServedModel[] {
    return [...this.#models.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, versions]) => versions);
  }

  /** The versions of a model, the latest first. Throws not_found. */
  versions(name: string): readonly ServedModel[] {
    const versions = this.#models.get(name);
    if (versions !== undefined) return versions;
    const known = [...this.#models.keys()].sort().join(', ');
    throw new TerabagError('not_found', `no model is named ${quoted(name)}; there are: ${known || 'none'}`, { model: cut(name) });
  }

  /** A version of a model; without one, the latest that is READY, or the latest. Undefined when there is none. */
  find(name: string, version = ''): ServedModel | undefined {
    const versions = this.#models.get(name) ?? [];
    if (version !== '') return versions.find((model) => model.version === version);
    return versions.find(({ state }) => state === 'READY') ?? versions[0];
  }

  /** As find; throws not_found. */
  model(name: string, version = ''): ServedModel {
    const found = this.find(name, version);
    if (found !== undefined) return found;
    const known = this.versions(name)
      .map((model) => model.version)
      .join(', ');
    const details = { model: cut(name), version: cut(version) };
    throw new TerabagError('not_found', `model ${quoted(name)} has no version ${quoted(version)}; it has: ${known}`, details);
  }

  /** Also of what could be loaded. */
  async index(): Promise<ModelEntry[]> {
    const found = await this.findModels();
    const loaded = this.models.map(({ name, version, state, reason }) => ({ name, version, state, reason }));
    const more = found.filter(({ name, version }) => !loaded.some((entry) => entry.name === name && entry.version === version));
    return [...loaded, ...more.map(({ name, version }) => ({ name, version, state: 'UNAVAILABLE' as const, reason: 'not loaded' }))];
  }

  /** Opens all versions of a model that there are now, and closes those that are no more. Rejects with the first failure. */
  async load(name: string): Promise<void> {
    const sources = (await this.findModels()).filter((source) => source.name === name);
    if (sources.length === 0) throw new TerabagError('not_found', `the repository has no model ${quoted(name)}`, { model: cut(name) });
    const failures = await Promise.all(sources.map((source) => this.#openOne(source)));
    const failure = failures.find((error) => error !== null);
    if (failure !== undefined) throw failure;
    const gone = this.versions(name).filter(({ version }) => !sources.some((source) => source.version === version));
    await this.#remove(name, gone);
  }

  /** Requests in flight are answered, later ones find no model. */
  async unload(name: string): Promise<void> {
    await this.#remove(name, this.versions(name));
  }

  async #remove(name: string, removed: readonly ServedModel[]): Promise<void> {
    const left = (this.#models.get(name) ?? []).filter((model) => !removed.includes(model));
    if (left.length === 0) this.#models.delete(name);
    else this.#models.set(name, left);
    await Promise.all(removed.map((model) => model.close()));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.models.map((model) => model.close()));
  }
}

/** Names of clients are cut in messages, which they may be as long as. */
const cut = (name: string): string => (name.length > 100 ? `${name.slice(0, 100)}…` : name);
const quoted = (name: string): string => JSON.stringify(cut(name));

/** Numbers by value, also within words: 9 before 10, v9 before v10. */
const compareVersions = (a: string, b: string): number => a.localeCompare(b, 'en', { numeric: true });
