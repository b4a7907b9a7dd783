import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Argument, Command } from 'commander';
import { describeMachine, machineLine } from '../src/report/machine.js';
import { writeFileAtomic } from '../src/tables/atomic.js';
import { fcSuite } from './fc/suite.js';
import { poolSuite } from './pool/suite.js';
import { predictSuite } from './predict/suite.js';
import type { Row, Suite } from './suite.js';

const suites: readonly Suite[] = [poolSuite, fcSuite, predictSuite];
const SCRATCH = 'bench-output';

const figure = (value: string | number): string =>
  typeof value === 'number' && !Number.isInteger(value) ? value.toPrecision(4) : String(value);

await new Command('npm run bench --')
  .description('Measures, and prints what it ran on. Nothing else should run on the machine meanwhile.')
  .addArgument(
    new Argument('<suite>', suites.map(({ name, description }) => `${name}: ${description}`).join('; ')).choices(
      suites.map(({ name }) => name),
    ),
  )
  .option('--json <file>', 'write the rows as JSON')
  .option('--quick', 'smaller data and fewer rounds: shows that it works, not what it reaches')
  .addHelpText(
    'after',
    '\nTERABAG_ISA=scalar|avx2|avx512|neon chooses the kernels.\n\nExamples:\n  npm run bench -- pool\n  npm run bench -- predict --json predict.json\n  TERABAG_ISA=avx2 npm run bench -- fc --quick',
  )
  .action(async (name: string, { json, quick = false }: { json?: string; quick?: boolean }) => {
    const suite = suites.find((candidate) => candidate.name === name) as Suite;
    const ranOn = describeMachine();
    console.log(`${suite.name}: ${suite.description}\n${machineLine(ranOn)}${quick ? '\nquick: not for comparison' : ''}`);
    for (const [column, meaning] of Object.entries(suite.columns)) console.log(`  ${column}: ${meaning}`);
    await mkdir(SCRATCH, { recursive: true });
    const dir = await mkdtemp(join(SCRATCH, `${suite.name}-`));
    const rows: Row[] = [];
    try {
      for await (const row of suite.run({ quick, dir })) {
        rows.push(row);
        const figures = Object.entries(row).map(([column, value]) => `${column} ${figure(value)}`);
        console.log(`${figures.join('  ')}  | ${ranOn.cpu} x${ranOn.cores} ${ranOn.isa}`);
      }
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
    if (json !== undefined) {
      const lines = rows.map((row) => ({ ...row, ranOn }));
      await writeFileAtomic(
        json,
        `${JSON.stringify({ suite: suite.name, quick, at: new Date().toISOString(), columns: suite.columns, rows: lines }, null, 2)}\n`,
      );
    }
  })
  .parseAsync();
