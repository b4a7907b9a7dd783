import { readFile } from 'node:fs/promises';
import { TerabagError } from '../../errors.js';

/** Paths of PEM files. */
export interface TlsOptions {
  /** The server's certificate, with those between it and its root. */
  readonly cert: string;
  readonly key: string;
  /** Roots of clients' certificates: those without one of these are refused. */
  readonly clientCa?: string | undefined;
}

/** As servers take them. */
export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca?: Buffer;
  readonly requestCert?: boolean;
  readonly rejectUnauthorized?: boolean;
  readonly minVersion: 'TLSv1.2';
}

/** Reads them; rejects (invalid_argument) with the file that cannot be read. */
export async function readTls({ cert, key, clientCa }: TlsOptions): Promise<TlsFiles> {
  const [certPem, keyPem, caPem] = await Promise.all([
    pem('tls.cert', cert),
    pem('tls.key', key),
    clientCa === undefined ? null : pem('tls.clientCa', clientCa),
  ]);
  return {
    ...{ cert: certPem, key: keyPem, minVersion: 'TLSv1.2' as const },
    ...(caPem !== null && { ca: caPem, requestCert: true, rejectUnauthorized: true }),
  };
}

async function pem(field: string, path: string): Promise<Buffer> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new TerabagError('invalid_argument', `${field} cannot be read: ${(error as Error).message}`, { field, path }, { cause: error });
  }
  if (bytes.includes('-----BEGIN ')) return bytes;
  throw new TerabagError('invalid_argument', `${field} has to be a PEM file: ${path}`, { field, path });
}
