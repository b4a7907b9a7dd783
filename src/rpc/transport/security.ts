import { createPrivateKey, createPublicKey } from 'node:crypto';
import { closeSync, fstatSync, openSync, readFileSync, type Stats, statSync } from 'node:fs';
import { anObject, aPath, TerabagError } from '../../errors.js';

/**
 * Keys of the connections between main and shards, as files that terabag keygen makes. Without a key nothing is encrypted, whoever connects is let
 * in, and shards listen on loopback and Unix sockets only.
 */
export interface SecurityOptions {
  /** Key file of this end, which nobody else may read: of a shard, or of main. A new key in it is used for new connections. */
  readonly key?: string;
  /** Of a shard: file of the public keys of those who may connect, one a line; read anew when it changes. */
  readonly allow?: string;
  /** Of main: file of the public keys that its shards may have, one a line: two while keys are changed. */
  readonly shardKey?: string;
  /** Of a shard: listens where others can connect, without keys. */
  readonly insecure?: boolean;
}

const FIELDS: ReadonlySet<string> = new Set<keyof SecurityOptions>(['key', 'allow', 'shardKey', 'insecure']);

/** Refuses what is none (invalid_argument), for callers whose types nobody checks: a field that is misspelled would leave connections open to all. */
export function checkSecurity(security: SecurityOptions): void {
  for (const [name, value] of Object.entries(anObject('security', security))) {
    const field = `security.${name}`;
    if (!FIELDS.has(name))
      throw new TerabagError('invalid_argument', `security has fields ${[...FIELDS].join(', ')}, and no other: ${name}`, { field });
    if (name !== 'insecure' && value !== undefined) aPath(field, value);
  }
}

/** Keys of CURVE, as Z85. */
export interface KeyPair {
  readonly publicKey: string;
  readonly secretKey: string;
}

export interface ServerKeys {
  readonly pair: KeyPair;
  /** Public keys of those who are let in. */
  readonly allowed: readonly string[];
}

/** Of main for one connection: a pair, and the public key that the shard has to have. */
export interface ClientKeys extends KeyPair {
  readonly serverKey: string;
}

const KEY_BYTES = 32;
const KEY_LENGTH = 40;
const DIGITS = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#';
const MOST_BYTES = 1024 * 1024;
const OTHERS = 0o077;
const ALL_BUT_GROUP_READING = 0o037;

/** Z85 (rfc.zeromq.org/spec/32) of bytes whose number is a multiple of 4. */
export function toZ85(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let text = '';
  for (let at = 0; at < bytes.byteLength; at += 4)
    for (let digit = 4; digit >= 0; digit--) text += DIGITS[Math.floor(view.getUint32(at) / 85 ** digit) % 85];
  return text;
}

/** Null when it is none. */
export function fromZ85(text: string): Uint8Array | null {
  if (text.length % 5 !== 0) return null;
  const bytes = new DataView(new ArrayBuffer((text.length / 5) * 4));
  for (let at = 0; at < text.length; at += 5) {
    let value = 0;
    for (const digit of text.slice(at, at + 5)) {
      const found = DIGITS.indexOf(digit);
      if (found < 0) return null;
      value = value * 85 + found;
    }
    if (value >= 2 ** 32) return null;
    bytes.setUint32((at / 5) * 4, value);
  }
  return new Uint8Array(bytes.buffer);
}

const isKey = (text: string | undefined): text is string => text?.length === KEY_LENGTH && fromZ85(text)?.byteLength === KEY_BYTES;

/** What stands before the bytes of a secret key in PKCS #8 (RFC 8410). */
const PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex');

function publicKeyOf(secretKey: string): string {
  const der = Buffer.concat([PKCS8, fromZ85(secretKey) as Uint8Array]);
  const { x } = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })).export({ format: 'jwk' });
  return toZ85(Buffer.from(x as string, 'base64url'));
}

const refuse = (field: string, path: string, what: string): TerabagError =>
  new TerabagError('invalid_argument', `${field} ${what}: ${path}`, { field: `security.${field}`, path });

function readFile(field: string, path: string, check: (stats: Stats) => void): string {
  let descriptor: number | null = null;
  try {
    descriptor = openSync(path, 'r');
    const stats = fstatSync(descriptor);
    if (!stats.isFile() || stats.size > MOST_BYTES) throw refuse(field, path, 'is no file of keys');
    check(stats);
    return readFileSync(descriptor, 'utf8');
  } catch (error) {
    if (error instanceof TerabagError) throw error;
    throw refuse(field, path, `cannot be read (${(error as Error).message})`);
  } finally {
    if (descriptor !== null) closeSync(descriptor);
  }
}

/** A secret key is for its owner; one of root's, which some systems hand out so, may be for the group of the process. */
function checkOwner(field: string, path: string, { mode, uid }: Stats): void {
  if (process.platform === 'win32') return;
  if ((mode & (uid === 0 ? ALL_BUT_GROUP_READING : OTHERS)) !== 0)
    throw refuse(field, path, `may be read by others, mode ${(mode & 0o777).toString(8)}; chmod 600 it`);
}

/** Lines that say something. A comment starts with a number sign and a space: a key may start with the former. */
const linesOf = (text: string): string[][] =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && line !== '#' && !line.startsWith('# '))
    .map((line) => line.split(/\s+/));

/** The lines of a key file, as readKeyFile reads them. */
export const keyFileText = ({ publicKey, secretKey }: KeyPair): string =>
  `# A key of terabag: keep it secret.\npublic ${publicKey}\nsecret ${secretKey}\n`;

/** Reads a key file; refuses one that others may read, and keys that do not belong together (invalid_argument). */
export function readKeyFile(path: string, field = 'key'): KeyPair {
  const lines = linesOf(readFile(field, path, (stats) => checkOwner(field, path, stats)));
  const key = (name: string): string => {
    const [line, ...more] = lines.filter(([word]) => word === name);
    if (more.length > 0 || line?.length !== 2 || !isKey(line[1]))
      throw refuse(field, path, `has to have one line "${name} KEY", whose key is ${KEY_LENGTH} characters of Z85 (terabag keygen)`);
    return line[1];
  };
  const pair = { publicKey: key('public'), secretKey: key('secret') };
  if (publicKeyOf(pair.secretKey) !== pair.publicKey) throw refuse(field, path, 'has a public key that is not that of its secret key');
  return pair;
}

/** Reads public keys, one a line, each with a name behind it or none (invalid_argument). */
export function readPublicKeys(path: string, field: string): string[] {
  const keys = linesOf(readFile(field, path, () => undefined)).map(([key], at) => {
    if (!isKey(key))
      throw refuse(field, path, `has to have a public key of ${KEY_LENGTH} characters of Z85 in each line, not in line ${at + 1} of them`);
    return key;
  });
  return [...new Set(keys)];
}

const needs = (field: string, other: string, why: string): TerabagError =>
  new TerabagError('invalid_argument', `security.${other} needs security.${field}: ${why}`, { field: `security.${field}` });

/** Keys of a shard; null when it has none. Warns of a file that lets nobody in. */
export function readServerKeys({ key, allow }: SecurityOptions, onWarning: (message: string) => void = () => undefined): ServerKeys | null {
  if (key === undefined && allow === undefined) return null;
  if (key === undefined) throw needs('key', 'allow', 'without a key of its own a shard cannot tell who connects');
  if (allow === undefined) throw needs('allow', 'key', 'a shard with a key lets in those whose public keys it is told');
  const keys = { pair: readKeyFile(key), allowed: readPublicKeys(allow, 'allow') };
  if (keys.allowed.length === 0) onWarning(`allow has no public key, nobody is let in: ${allow}`);
  return keys;
}

/** Keys of main; null when it has none. */
export function readClientKeys({
  key,
  shardKey,
}: SecurityOptions): { readonly pair: KeyPair; readonly shardKeys: readonly string[] } | null {
  if (key === undefined && shardKey === undefined) return null;
  if (key === undefined) throw needs('key', 'shardKey', 'shards with keys let in keys that they know');
  if (shardKey === undefined) throw needs('shardKey', 'key', 'with a key, main connects to shards whose public keys it is told');
  const shardKeys = readPublicKeys(shardKey, 'shardKey');
  if (shardKeys.length === 0) throw refuse('shardKey', shardKey, 'has no public key');
  return { pair: readKeyFile(key), shardKeys };
}

/** What tells one state of a file from another; the same for files that are not there. */
function stateOf(path: string | undefined): string {
  if (path === undefined) return '';
  try {
    const { mtimeMs, ino, size, mode } = statSync(path);
    return `${mtimeMs} ${ino} ${size} ${mode}`;
  } catch {
    return '';
  }
}

/** What is read of files, and read anew when one of them has changed. What cannot be read anew stays as it was. */
export class ReadFiles<T> {
  value: T;
  #state: string;

  /** Throws what read throws. */
  constructor(
    private readonly paths: readonly (string | undefined)[],
    private readonly read: () => T,
    private readonly onWarning: (message: string) => void,
  ) {
    this.#state = this.#states();
    this.value = read();
  }

  /** Whether there is a new value. */
  refresh(): boolean {
    const state = this.#states();
    if (state === this.#state) return false;
    this.#state = state;
    try {
      this.value = this.read();
      return true;
    } catch (error) {
      this.onWarning(`keys stay as they were: ${(error as Error).message}`);
      return false;
    }
  }

  #states(): string {
    return this.paths.map(stateOf).join('|');
  }
}

/** Keys of main for one connection after another: read anew when their files have changed, each public key of the shard in turn. */
export class ClientKeyring {
  readonly #files: ReadFiles<ReturnType<typeof readClientKeys>>;
  #turn = 0;
  #failures = 0;

  /** Throws what readClientKeys throws. */
  constructor(security: SecurityOptions, onWarning: (message: string) => void) {
    this.#files = new ReadFiles([security.key, security.shardKey], () => readClientKeys(security), onWarning);
  }

  /** Of the next connection. */
  next(): ClientKeys | null {
    this.#files.refresh();
    const keys = this.#files.value;
    return keys === null ? null : { ...keys.pair, serverKey: keys.shardKeys[this.#turn % keys.shardKeys.length] as string };
  }

  /** The handshake succeeded. */
  succeeded(): void {
    this.#failures = 0;
  }

  /** The handshake failed: the shard may have another of its keys. Whether one is left that was not tried since the last success. */
  failed(): boolean {
    this.#turn++;
    return ++this.#failures % (this.#files.value?.shardKeys.length ?? 1) !== 0;
  }
}
