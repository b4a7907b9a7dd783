// npm run docs:cli: writes docs/cli.md, which is what the commands say of themselves with --help.
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { openProgram } from '../src/cli/program.js';

const WIDTH = 80;

function helpOf(command: Command): string {
  let help = '';
  command.configureOutput({ writeOut: (text) => (help += text), getOutHelpWidth: () => WIDTH, getOutHasColors: () => false });
  command.outputHelp();
  return help.trim();
}

const program = await openProgram([]);

export function cliReference(): string {
  const section = (title: string, command: Command): string => `## ${title}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`;
  const sectionsOf = (parent: Command, words = 'terabag'): string[] =>
    parent.commands.flatMap((command) => {
      const name = `${words} ${command.name()}`;
      return [section(name, command), ...sectionsOf(command, name)];
    });
  return [
    '# Commands',
    '',
    'What each command says with `--help`. This page is generated: `npm run docs:cli` writes it, and a test holds it against the commands.',
    'Sizes are numbers with a unit in powers of 1024 (`0B`, `512KiB`, `64MiB`, `1.5GiB`, `2TiB`), times likewise (`500us`, `20ms`, `10s`, `2m`), in all of them.',
    '',
    section('terabag', program),
    ...sectionsOf(program),
  ].join('\n');
}

const path = fileURLToPath(new URL('../docs/cli.md', import.meta.url));
if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(path, cliReference());
