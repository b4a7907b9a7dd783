// Makes src/serve/grpc/proto/*_pb.ts of the .proto files beside them: node scripts/generate-proto.mjs [--check]
// --check writes nothing, and exits with 1 when they differ; with 3 when buf, which npx gets from the registry, is not there.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './prepare.mjs';

const NO_BUF = 3;
const PROTO = join(root, 'src', 'serve', 'grpc', 'proto');
/** Later versions of protoc-gen-es need Node 22. */
const PACKAGES = ['@bufbuild/buf@1.75.0', '@bufbuild/protoc-gen-es@2.13.0'];

const check = process.argv.includes('--check');
const out = check ? mkdtempSync(join(tmpdir(), 'terabag-proto-')) : PROTO;
const template = { version: 'v2', plugins: [{ local: 'protoc-gen-es', out, opt: ['target=ts', 'import_extension=js'] }] };
const npx = ['--yes', ...PACKAGES.map((name) => `--package=${name}`), 'buf'];
try {
  if (spawnSync('npx', [...npx, '--version'], { cwd: PROTO, stdio: 'ignore' }).status !== 0) {
    console.error(`generate-proto: npx cannot get ${PACKAGES.join(' and ')}`);
    process.exitCode = NO_BUF;
  } else {
    const { status } = spawnSync('npx', [...npx, 'generate', '.', '--template', JSON.stringify(template)], {
      cwd: PROTO,
      stdio: 'inherit',
    });
    process.exitCode = status ?? 1;
    if (check && status === 0) compare();
  }
} finally {
  if (check) rmSync(out, { recursive: true });
}

function compare() {
  const generated = (dir) => readdirSync(dir).filter((name) => name.endsWith('_pb.ts'));
  const names = new Set([...generated(out), ...generated(PROTO)]);
  const textOf = (dir, name) => (generated(dir).includes(name) ? readFileSync(join(dir, name), 'utf8') : null);
  const stale = [...names].filter((name) => textOf(out, name) !== textOf(PROTO, name));
  if (stale.length === 0) return;
  console.error(`generate-proto: not what the .proto files say: ${stale.join(', ')}; run node scripts/generate-proto.mjs`);
  process.exitCode = 1;
}
