import { generateKeyPairSync } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Command } from 'commander';
import { TerabagError } from '../errors.js';
import { type KeyPair, keyFileText, toZ85 } from '../rpc/transport/security.js';
import { fileError } from '../tables/file-error.js';
import { further } from './help.js';

/** For CURVE, whose keys are those of X25519. */
function newKey(): KeyPair {
  const { x, d } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' });
  const z85 = (part: string | undefined): string => toZ85(Buffer.from(part as string, 'base64url'));
  return { publicKey: z85(x), secretKey: z85(d) };
}

/** Never over what is there: a key that is lost shuts out whoever has it. */
async function writeNew(path: string, text: string, mode: number): Promise<void> {
  try {
    await writeFile(path, text, { flag: 'wx', mode, flush: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST')
      throw new TerabagError('invalid_argument', `the file is there already; a key is never overwritten: ${path}`, { path });
    throw fileError(error, 'cannot write a key', path, 'invalid_argument');
  }
}

export const keygenCommand = new Command('keygen')
  .description('make a key of a shard or of a main shard, for encrypted connections')
  .argument('<name>', 'path of the files without their endings: NAME.key is secret, NAME.pub is for the others')
  .addHelpText(
    'after',
    further(`
NAME.key is for its owner alone (mode 600). NAME.pub is a line for files that say whose keys are let in (--allow), or which keys a shard may have
(--shard-key): several make one file, one line each.

Examples:
  terabag keygen keys/shards && terabag keygen keys/main
  terabag up plan.json --bundle ./model --key keys/shards.key --allow keys/main.pub
  terabag predict requests.jsonl --bundle ./model --plan plan.json --key keys/main.key --shard-key keys/shards.pub
  cat keys/main-old.pub keys/main-new.pub > keys/allowed`),
  )
  .action(async (name: string) => {
    const key = newKey();
    await mkdir(dirname(name), { recursive: true });
    await writeNew(`${name}.key`, keyFileText(key), 0o600);
    await writeNew(`${name}.pub`, `${key.publicKey} ${name.replace(/^.*\//, '')}\n`, 0o644).catch(async (error: unknown) => {
      await rm(`${name}.key`);
      throw error;
    });
    console.log(`${name}.key: secret, for this end alone`);
    console.log(`${name}.pub: ${key.publicKey}`);
  });
