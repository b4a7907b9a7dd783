import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = new URL('../../..', import.meta.url);
const main = fileURLToPath(new URL('dist/cli/main.js', root));
const page = readFileSync(new URL('docs/serving.md', root), 'utf8');

/** Free at the moment. */
const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });

const MISSING = ['curl', 'openssl'].filter((tool) => spawnSync(tool, ['--version']).error !== undefined);

test.skipIf(MISSING.length > 0)(
  `every command of docs/serving.md does what the page says (skipped without: ${MISSING.join(', ') || 'nothing'})`,
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'terabag-page-'));
    copyFileSync(new URL('test/fixtures/checkpoints/dlrm.pt', root), join(dir, 'model.pt'));
    const [http, grpc, metrics] = (await Promise.all([freePort(), freePort(), freePort()])).map(String) as [string, string, string];
    const blocks = [...page.matchAll(/^```sh\n(.*?)^```/gms)].map(([, text]) => text);
    expect(blocks.length).toBeGreaterThan(8);
    // Ports of the page may be taken here; gRPC's and HTTP's are the defaults, which are said.
    const commands = blocks
      .join('')
      .replaceAll(/^terabag serve /gm, `terabag serve --http 127.0.0.1:${http} --grpc 127.0.0.1:${grpc} `)
      .replaceAll(':8000', `:${http}`)
      .replaceAll(':9400', `:${metrics}`)
      .replaceAll(/^terabag plan (.*)$/gm, `terabag plan $1\nterabag_free_ports`);
    // Ports of shards likewise: those of the plan are moved to free ones.
    const ports = await Promise.all(Array.from({ length: 4 }, freePort));
    const script = `set -eu -o pipefail
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
mkdir bin
printf '#!/bin/sh\\nexec "%s" "%s" "$@"\\n' '${process.execPath}' '${main}' > bin/terabag
chmod +x bin/terabag
export PATH="$PWD/bin:$PATH"
terabag_free_ports() {
  sed -i ${ports.map((port, at) => `-e 's/:740${at}"/:${port}"/'`).join(' ')} plan.json
}
${commands}`;
    writeFileSync(join(dir, 'page.sh'), script);
    const child = spawn('bash', ['page.sh'], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said += chunk));
    const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
    expect(code, said).toBe(0);
    const answers = [...said.matchAll(/"scores":(\[[^\]]*\])/g)].map(([, scores]) => JSON.parse(scores as string) as number[]);
    expect(answers.length).toBe(4);
    for (const scores of answers) expect(scores).toEqual(answers[0]);
    expect(answers[0]).toHaveLength(2);
    const outputs = [...said.matchAll(/"name":"scores"[^}]*"data":(\[[^\]]*\])/g)].map(
      ([, scores]) => JSON.parse(scores as string) as number[],
    );
    expect(outputs).toEqual([answers[0], answers[0]]);
    expect(readFileSync(join(dir, 'headers.txt'), 'utf8')).toMatch(/server-timing: .*predict;dur=/i);
    for (const rendered of ['manifests', 'chart', 'units']) expect(readdirSync(join(dir, rendered)).length).toBeGreaterThan(2);
    rmSync(dir, { recursive: true });
  },
);
