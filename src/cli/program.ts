import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { benchCommand } from './bench.js';
import { calibrateCommand } from './calibrate.js';
import { characteriseCommand } from './characterise.js';
import { demoCommand } from './demo.js';
import { further } from './help.js';
import { inspectCommand } from './inspect.js';
import { packCommand } from './pack.js';
import { planCommand } from './plan.js';
import { predictCommand } from './predict.js';
import { profileCommand } from './profile.js';
import { publishCommand } from './publish.js';
import { reportCommand } from './report.js';
import { requestsCommand } from './requests.js';
import { shardCommand } from './shard.js';
import { synthCommand } from './synth.js';
import { upCommand } from './up.js';
import { verifyCommand } from './verify.js';
import { warmCommand } from './warm.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

/** The command line. What ends it early, help and wrong usage, is thrown: a CommanderError. */
export const program = new Command('terabag')
  .description('Serves deep learning recommendation models whose embedding tables outgrow one machine.')
  .version(version)
  .configureHelp({ subcommandTerm: (command) => command.name() })
  .addHelpText(
    'after',
    further(`
Exit codes: 0 done, 1 it went wrong (one line on stderr says what), 2 wrong usage.

Examples:
  terabag demo
  terabag inspect ./model
  terabag pack ./model -o ./model-int8 --format int8
  terabag profile ./model requests.jsonl -o profile.json
  terabag plan ./model --shards 4 -o plan.json
  terabag up plan.json --bundle ./model
  terabag predict requests.jsonl --bundle ./model --plan plan.json
  terabag bench --bundle ./model --plan plan.json --qps 25
  terabag characterise ./model -o ./results`),
  );
for (const command of [
  inspectCommand,
  verifyCommand,
  warmCommand,
  packCommand,
  profileCommand,
  planCommand,
  publishCommand,
  calibrateCommand,
  shardCommand,
  upCommand,
  predictCommand,
  synthCommand,
  requestsCommand,
  benchCommand,
  characteriseCommand,
  reportCommand,
  demoCommand,
]) {
  command.exitOverride();
  command.showHelpAfterError(`(terabag ${command.name()} --help has examples)`);
  program.addCommand(command);
}
program.exitOverride();
program.showHelpAfterError('(terabag --help lists the commands)');
