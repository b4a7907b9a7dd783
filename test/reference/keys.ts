import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { curveKeyPair } from 'zeromq';

/** A key of libzmq's own making, in the files that terabag keygen would make of it. */
export function writeKey(dir: string, name: string): { readonly key: string; readonly pub: string; readonly publicKey: string } {
  const { publicKey, secretKey } = curveKeyPair();
  const key = join(dir, `${name}.key`);
  const pub = join(dir, `${name}.pub`);
  writeFileSync(key, `public ${publicKey}\nsecret ${secretKey}\n`, { mode: 0o600 });
  writeFileSync(pub, `${publicKey} ${name}\n`);
  return { key, pub, publicKey };
}
