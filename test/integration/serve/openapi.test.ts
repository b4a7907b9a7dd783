import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ServeProcess } from '../../reference/serve-process.js';
import { type SmallModel, writeSmallModel } from '../../reference/small-model.js';
import { startReady } from './served-cluster.js';

/** Where scripts/test-clients.mjs installs schemathesis; tests without it are skipped. */
const CLIENTS = process.env['TERABAG_CLIENTS'] ?? '';
if (CLIENTS === '') console.warn('tests of the OpenAPI file are skipped: npm run test:clients installs schemathesis and runs them');
/** How long schemathesis makes requests; by hand longer: TERABAG_SCHEMATHESIS_SECONDS=2400 is some 10^5 of them. */
const SECONDS = Number(process.env['TERABAG_SCHEMATHESIS_SECONDS'] ?? 45);

const program = (name: string): string => join(CLIENTS, 'openapi', 'bin', name);
const script = fileURLToPath(new URL('clients/schemathesis_run.py', import.meta.url));
const run = promisify(execFile);
let dir: string;
let model: SmallModel;
let served: ServeProcess;

/** 500 is a fault; these are what the moment or the server's kind answers with. */
const CONFIG = `[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501", "503", "504"]
`;
const CHECKS = [
  ...['not_a_server_error', 'status_code_conformance', 'content_type_conformance', 'response_headers_conformance'],
  ...['response_schema_conformance', 'unsupported_method', 'allow_header_conformance'],
];

interface Document {
  readonly paths: Readonly<Record<string, unknown>>;
  readonly components: {
    readonly parameters: Record<string, { schema: object }>;
    readonly schemas: Record<string, { properties: Record<string, object> }>;
  };
}

/** The document in which names are mostly of what is served: others end at a 404, or at the first input. */
function withServedNames(document: Document, inputs: readonly string[]): Document {
  const { components } = document;
  const mostly = (names: readonly string[], otherwise: object) => ({ anyOf: [...names.map((name) => ({ const: name })), otherwise] });
  for (const [parameter, names] of [
    ['model', ['small', 'small']],
    ['version', ['1']],
  ] as const) {
    const own = components.parameters[parameter] as { schema: object };
    own.schema = mostly(names, own.schema);
  }
  const input = components.schemas['InferInput'] as { properties: Record<string, object> };
  input.properties['name'] = mostly(inputs, input.properties['name'] as object);
  return document;
}

beforeAll(async () => {
  if (CLIENTS === '') return;
  dir = await mkdtemp(join(tmpdir(), 'terabag-openapi-'));
  model = await writeSmallModel(5);
  served = await startReady(`small=${model.dir}`, '--allow-repository-control', '--max-body', '1MiB', '--deadline', '5s');
});
afterAll(async () => {
  await served?.end();
  for (const each of [dir, model?.dir]) if (each !== undefined) await rm(each, { recursive: true });
});

const read = async (path: string): Promise<unknown> => (await fetch(`${served.url}${path}`)).json();

test.skipIf(CLIENTS === '')('the OpenAPI file is one', async () => {
  const file = join(dir, 'openapi.json');
  await writeFile(file, JSON.stringify(await read('/openapi.json')));
  const { stdout } = await run(program('openapi-spec-validator'), ['--schema', '3.1', file]);
  expect(stdout).toMatch(/OK/);
});

test.skipIf(CLIENTS === '')(
  'schemathesis finds no status, body or header that the OpenAPI file does not tell, no 500, and nothing that hangs',
  { timeout: (SECONDS + 120) * 1000 },
  async () => {
    const { inputs } = (await read('/v2/models/small')) as { inputs: readonly { name: string }[] };
    const document = withServedNames(
      (await read('/openapi.json')) as Document,
      inputs.map(({ name }) => name),
    );
    await writeFile(join(dir, 'narrowed.json'), JSON.stringify(document));
    await writeFile(join(dir, 'schemathesis.toml'), CONFIG);
    const stdout = await run(
      program('python'),
      [
        script,
        ...['--config-file', join(dir, 'schemathesis.toml'), 'run', join(dir, 'narrowed.json'), '--url', `${served.url}`],
        ...['--checks', CHECKS.join(','), '--phases', 'coverage,fuzzing', '--request-timeout', '10', '--warnings', 'off'],
        ...[
          '--max-examples',
          SECONDS > 60 ? '1000' : '50',
          '--max-time',
          String(SECONDS),
          '--workers',
          '2',
          '--generation-database',
          'none',
        ],
      ],
      { cwd: dir, maxBuffer: 2 ** 26 },
    ).then(
      (ended) => ended.stdout,
      (failed: { stdout: string }) => failed.stdout,
    );
    expect(stdout.slice(-20_000)).toMatch(/No issues found/);
    console.info(stdout.match(/\d+ generated[^\n]*/)?.[0]);
    // It still serves what it did before.
    expect(await read('/v2/health/live')).toEqual({ live: true });
  },
);
