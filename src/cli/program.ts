import { Command } from 'commander';
import { further } from './help.js';
import { version } from './version.js';

/** In the order of --help. What runs one loads only that: others need rooms, of the lab say, that a daemon has no use for. */
const COMMANDS = {
  inspect: async () => (await import('./inspect.js')).inspectCommand,
  verify: async () => (await import('./verify.js')).verifyCommand,
  warm: async () => (await import('./warm.js')).warmCommand,
  import: async () => (await import('./import.js')).importCommand,
  pack: async () => (await import('./pack.js')).packCommand,
  profile: async () => (await import('./profile.js')).profileCommand,
  plan: async () => (await import('./plan.js')).planCommand,
  publish: async () => (await import('./publish.js')).publishCommand,
  calibrate: async () => (await import('./calibrate.js')).calibrateCommand,
  keygen: async () => (await import('./keygen.js')).keygenCommand,
  shard: async () => (await import('./shard.js')).shardCommand,
  up: async () => (await import('./up.js')).upCommand,
  serve: async () => (await import('./serve.js')).serveCommand,
  deploy: async () => (await import('./deploy.js')).deployCommand,
  predict: async () => (await import('./predict.js')).predictCommand,
  evaluate: async () => (await import('./evaluate.js')).evaluateCommand,
  synth: async () => (await import('./synth.js')).synthCommand,
  requests: async () => (await import('./requests.js')).requestsCommand,
  bench: async () => (await import('./bench.js')).benchCommand,
  characterise: async () => (await import('./characterise.js')).characteriseCommand,
  report: async () => (await import('./report.js')).reportCommand,
  demo: async () => (await import('./demo.js')).demoCommand,
} as const;

const newProgram = (): Command =>
  new Command('terabag')
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
  terabag import model.pt --like dlrm -o ./model
  terabag pack ./model -o ./model-int8 --format int8
  terabag profile ./model requests.jsonl -o profile.json
  terabag plan ./model --shards 4 -o plan.json
  terabag up plan.json --bundle ./model
  terabag serve ./model --plan plan.json
  terabag deploy kubernetes plan.json -o manifests
  terabag predict requests.jsonl --bundle ./model --plan plan.json
  terabag evaluate requests.jsonl --labels labels.jsonl --bundle ./model
  terabag bench --bundle ./model --plan plan.json --qps 25
  terabag characterise ./model -o ./results`),
    );

/** The command line of these words. What ends it early, help and wrong usage, is thrown: a CommanderError. */
export async function openProgram(words: readonly string[]): Promise<Command> {
  const [name = ''] = words;
  const loaders = Object.entries(COMMANDS).flatMap(([known, load]) => (known === name || !Object.hasOwn(COMMANDS, name) ? [load] : []));
  const program = newProgram();
  for (const command of await Promise.all(loaders.map((load) => load()))) {
    endEarly(command, `terabag ${command.name()}`);
    program.addCommand(command);
  }
  return program.exitOverride().showHelpAfterError('(terabag --help lists the commands)');
}

/** What ends a command early is thrown, of those below it too. */
function endEarly(command: Command, words: string): void {
  command.exitOverride();
  command.showHelpAfterError(`(${words} --help has examples)`);
  for (const below of command.commands) endEarly(below, `${words} ${below.name()}`);
}
