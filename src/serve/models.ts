import { access, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TerabagError } from '../errors.js';

/** A version of a model on disk. */
export interface ModelFiles {
  readonly name: string;
  readonly version: string;
  /** The bundle's directory, or what it was published to. */
  readonly bundle: string;
  /** Of its shards; null: all tables are opened here. */
  readonly plan: string | null;
}

/** Beside model.json. */
const PLAN_FILE = 'plan.json';

/**
 * What a repository holds: DIR/NAME/VERSION/ is a bundle, or what one was published to, with plan.json if it has shards. Names that begin with a dot are
 * passed over. Throws invalid_argument of one that cannot be read.
 */
export async function modelsOfRepository(dir: string): Promise<ModelFiles[]> {
  const models: ModelFiles[] = [];
  for (const name of await subdirectories(dir))
    for (const version of await subdirectories(join(dir, name))) {
      const bundle = join(dir, name, version);
      const plan = join(bundle, PLAN_FILE);
      models.push({ name, version, bundle, plan: (await exists(plan)) ? plan : null });
    }
  return models;
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function subdirectories(dir: string): Promise<string[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true });
    // Versions are often put in their place by a link.
    return entries
      .filter((entry) => (entry.isDirectory() || entry.isSymbolicLink()) && !entry.name.startsWith('.'))
      .map(({ name }) => name);
  } catch (error) {
    throw new TerabagError(
      'invalid_argument',
      `the repository cannot be read: ${(error as Error).message}`,
      { path: dir },
      { cause: error },
    );
  }
}
