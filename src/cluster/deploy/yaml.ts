import { Items, type Node, type NodeMap, type Plain, Setting, When } from './document.js';

/** How a document is written: with the defaults of its settings, or as a template that takes them from a chart's values. */
export interface Dialect {
  /** Null where the default stands for it. */
  setting(setting: Setting): string | null;
  /** What stands before and after one element, which `element` stands for; null where the defaults stand for them. */
  items(items: Items): { readonly before: string; readonly element: string; readonly after: string } | null;
  /** What stands around a field; true or false where it is there or not. */
  when(when: When): { readonly before: string; readonly after: string } | boolean;
  /** Text as it has to be written to be read as it is. */
  text(text: string): string;
}

/** Words that YAML 1.1 reads as something else than text. */
const NO_TEXT = /^(?:true|false|yes|no|on|off|y|n|null)$/i;
const PLAIN = /^[A-Za-z_/][A-Za-z0-9_./-]*$/;
const INDENT = '  ';
/** Begins lines that are no YAML, which are not indented; no line of YAML has it. */
const DIRECTIVE = '\0';

/** A document of YAML, in the subset that 1.1 and 1.2 read alike. */
export const toYaml = (node: Node, dialect: Dialect): string =>
  blockLines(node, dialect)
    .map((line) => `${line.startsWith(DIRECTIVE) ? line.slice(DIRECTIVE.length) : line}\n`)
    .join('');

/** Lines of text are written as they are where nothing of them would get lost. */
const isBlock = (text: string): boolean => /^[!-~][\t\n -~]*[!-~]\n$/.test(text) && text.trimEnd().includes('\n') && !/[\t ]\n/.test(text);

/** In one line. */
export const textOf = (text: string, dialect: Pick<Dialect, 'text'>): string =>
  PLAIN.test(text) && !NO_TEXT.test(text) ? text : dialect.text(JSON.stringify(text).replace(BREAKS, escaped));

/** Ends of lines, and what is no text, which JSON need not escape. */
const BREAKS = /[\x7f-\x9f\u2028\u2029\ufeff]/g;
const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

/** What stands behind a key or a dash; null where the node needs lines of its own. */
function inline(node: Node, dialect: Dialect): string | null {
  if (node instanceof Setting) return dialect.setting(node) ?? inline(node.value, dialect);
  if (typeof node === 'string') return isBlock(node) ? null : textOf(node, dialect);
  if (node === null || typeof node !== 'object') return String(node);
  if (Array.isArray(node)) return node.length === 0 ? '[]' : null;
  return Object.values(node).every((part) => part === undefined) ? '{}' : null;
}

function blockLines(node: Node, dialect: Dialect): string[] {
  const short = inline(node, dialect);
  if (short !== null) return [short];
  if (node instanceof Setting) return blockLines(node.value, dialect);
  if (typeof node === 'string') return ['|', ...dialect.text(node).trimEnd().split('\n').map(indented)];
  if (Array.isArray(node)) return (node as readonly Node[]).flatMap((part) => elementLines(part, dialect));
  return Object.entries(node as NodeMap).flatMap(([key, value]) => (value === undefined ? [] : fieldLines(key, value, dialect)));
}

function elementLines(node: Node, dialect: Dialect): string[] {
  if (node instanceof Items) {
    const written = dialect.items(node);
    if (written === null) return node.setting.value.flatMap((item: Plain) => elementLines(item, dialect));
    return [DIRECTIVE + written.before, `- ${written.element}`, DIRECTIVE + written.after];
  }
  const [first = '', ...rest] = blockLines(node, dialect);
  return [`- ${first}`, ...rest.map(indented)];
}

function fieldLines(key: string, value: Node | When, dialect: Dialect): string[] {
  if (value instanceof When) {
    const around = dialect.when(value);
    if (typeof around === 'boolean') return around ? fieldLines(key, value.node, dialect) : [];
    return [DIRECTIVE + around.before, ...fieldLines(key, value.node, dialect), DIRECTIVE + around.after];
  }
  const name = textOf(key, dialect);
  const lines = blockLines(value, dialect);
  const [first = '', ...rest] = lines;
  if (inline(value, dialect) !== null || first === '|') return [`${name}: ${first}`, ...rest];
  return [`${name}:`, ...lines.map(indented)];
}

const indented = (line: string): string => (line === '' || line.startsWith(DIRECTIVE) ? line : INDENT + line);
