import type { AddHelpTextContext, Help } from 'commander';

const DEFAULT_COLUMNS = 80;
/** A command line in what --help shows. */
const COMMAND = /^ {2}terabag /;

/**
 * What --help says after the options: paragraphs, which are wrapped to the terminal; indented lines "  name  description", which hang; and command
 * lines, which are continued as a shell takes them.
 */
export const further =
  (text: string) =>
  ({ command, error }: AddHelpTextContext): string => {
    const { getErrHelpWidth, getOutHelpWidth } = command.configureOutput();
    const width = (error ? getErrHelpWidth : getOutHelpWidth)?.() ?? DEFAULT_COLUMNS;
    const help = command.createHelp();
    return text
      .trim()
      .split(/\n\n+/)
      .map((part) => `\n${wrapPart(part, width, help)}`)
      .join('\n');
  };

function wrapPart(part: string, width: number, help: Help): string {
  const wrapped: string[] = [];
  let paragraph: string[] = [];
  const endParagraph = (): void => {
    if (paragraph.length > 0) wrapped.push(help.boxWrap(paragraph.join(' '), width));
    paragraph = [];
  };
  for (const line of part.split('\n')) {
    if (!line.startsWith('  ')) {
      paragraph.push(line);
      continue;
    }
    endParagraph();
    wrapped.push(COMMAND.test(line) ? continued(line, width) : hanging(line, width, help));
  }
  endParagraph();
  return wrapped.join('\n');
}

/** Lines of a command, broken before an option or a word that does not fit. */
function continued(line: string, width: number): string {
  const lines: string[] = [];
  // An option stays with its value.
  for (const words of line.trim().split(/ (?=[-|&>])/)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + words.length <= width - ' \\'.length) lines[lines.length - 1] = `${last} ${words}`;
    else lines.push(last === undefined ? `  ${words}` : `    ${words}`);
  }
  return lines.join(' \\\n');
}

function hanging(line: string, width: number, help: Help): string {
  const [, term = '', description = ''] = /^( {2}\S+(?: \S+)* {2,})(.*)$/.exec(line) ?? [];
  if (term === '') return line;
  const [first = '', ...rest] = help.boxWrap(description, width - term.length).split('\n');
  return [term + first, ...rest.map((more) => ' '.repeat(term.length) + more)].join('\n');
}
