import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { resolveModel } from '../../../src/model/graph.js';
import { modelSchema } from '../../../src/model/spec.js';

type Schema = z.core.JSONSchema.JSONSchema;
const page = readFileSync(new URL('../../../docs/model-json.md', import.meta.url), 'utf8');
const root = z.toJSONSchema(modelSchema, {
  io: 'input',
  unrepresentable: 'any',
  // Maps by name are objects in the file.
  override: ({ zodSchema, jsonSchema }) => {
    const { def } = zodSchema._zod;
    if (def.type !== 'map') return;
    jsonSchema.type = 'object';
    jsonSchema.additionalProperties = z.toJSONSchema(def.valueType, { io: 'input' }) as z.core.JSONSchema.BaseSchema;
  },
}) as Schema;

/** Objects of the schema by the heading that describes them; layers by their type. */
function objects(schema: Schema, heading: string): [string, Schema][] {
  const inner = schema.type === 'array' ? schema.items : schema.additionalProperties;
  if (schema.type === 'object' && schema.properties) {
    const below = Object.entries(schema.properties).flatMap(([name, property]) =>
      objects(property as Schema, heading === 'model.json' ? name : `${heading}.${name}`),
    );
    return [[heading, schema], ...below];
  }
  const kinds = (inner as Schema | undefined)?.oneOf;
  if (kinds) return (kinds as Schema[]).map((kind) => [String((kind.properties?.['type'] as Schema | undefined)?.const), kind]);
  return typeof inner === 'object' ? objects(inner as Schema, schema.type === 'array' ? `${heading}[]` : `${heading}.*`) : [];
}

const code = (value: unknown): string => `\`${String(value)}\``;

function written(schema: Schema): string {
  if (schema.const !== undefined) return code(schema.const);
  if (schema.enum) return schema.enum.map(code).join(', ');
  if (schema.anyOf) return schema.anyOf.map((kind) => written(kind as Schema)).join(' or ');
  const each = schema.type === 'array' ? (schema.items as Schema | undefined) : undefined;
  if (each?.pattern !== undefined) return 'list of hex digits';
  if (each?.type === 'string') return `names, ${schema.minItems} or more`;
  if (schema.type === 'array') return Array.isArray(schema.prefixItems) ? `${schema.prefixItems.length} names` : 'list';
  if (schema.type === 'object') return 'object';
  if (schema.type === 'string' && schema.pattern !== undefined) return schema.pattern.includes('\\d') ? 'digits' : 'hex digits';
  if (schema.type === 'string') return schema.maxLength === undefined ? 'text' : 'name';
  if (schema.type !== 'integer' && schema.type !== 'number') return String(schema.type);
  if (schema.minimum === Number.MIN_SAFE_INTEGER) return schema.type;
  const most = schema.maximum === undefined || schema.maximum === Number.MAX_SAFE_INTEGER ? ' or more' : ` to ${schema.maximum}`;
  return `${schema.type}, ${schema.minimum}${most}`;
}

function rowsOf(schema: Schema): string[] {
  return Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const value = property as Schema;
    // The schema of a map does not tell that it is required.
    const required = schema.required?.includes(name) || (value.additionalProperties && !value.properties);
    const left = required ? 'required' : value.default === undefined ? 'none' : code(value.default);
    return `| ${code(name)} | ${written(value)} | ${left} |`;
  });
}

/** The first table under a heading without its last column, which says what a field means, and without padding. */
function documented(heading: string): string[] {
  const section = page.split(/^##+ /m).find((text) => text.startsWith(`\`${heading}\`\n`)) ?? '';
  const lines = /(?:^\|.*\n)+/m.exec(section)?.[0].trim().split('\n') ?? [];
  const cells = lines.map((line) => line.split('|').map((cell) => cell.trim()));
  for (const [, name, , , meaning] of cells) expect(meaning, `${heading}: ${name} has a meaning`).toBeTruthy();
  return cells.slice(2).map((row) => `| ${row.slice(1, 4).join(' | ')} |`);
}

test.each(objects(root, 'model.json'))('docs/model-json.md has the fields of %s, their values and defaults', (heading, schema) => {
  expect(documented(heading)).toEqual(rowsOf(schema));
});

test('docs/model-json.md has no section for what model.json does not have', () => {
  const sections = [...page.matchAll(/^##+ `(.+)`$/gm)].map(([, heading]) => heading);
  expect(sections.toSorted()).toEqual(
    objects(root, 'model.json')
      .map(([heading]) => heading)
      .sort(),
  );
});

test('the model of docs/model-json.md is one', () => {
  const [, text = ''] = /```json\n([^`]*)```/.exec(page) ?? [];
  const spec = modelSchema.parse(JSON.parse(text));
  const shapes = new Map([
    ['bottom.weight', [8, 2]],
    ['bottom.bias', [8]],
    ['top.weight', [1, 11]],
    ['top.bias', [1]],
  ]);
  expect(resolveModel(spec, shapes).outputDim).toBe(1);
});
