import { expect, test } from 'vitest';
import { ByteBudget } from '../../../../src/byte-budget.js';
import { openApiDocument } from '../../../../src/serve/http/openapi.js';
import { protocolRoutes } from '../../../../src/serve/http/routes.js';
import { Repository } from '../../../../src/serve/repository.js';
import { Serving } from '../../../../src/serve/serving.js';

type Responses = Readonly<Record<string, { readonly $ref?: string }>>;
type Operations = Readonly<Record<string, { readonly parameters?: readonly { readonly $ref: string }[]; readonly responses: Responses }>>;
const document = openApiDocument() as {
  readonly paths: Readonly<Record<string, Operations>>;
  readonly components: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
};

test('the document has every route of the protocol, and no other', () => {
  const serving = new Serving(new Repository(async () => []), { repositoryControl: true });
  const routes = protocolRoutes(serving, { maxBytes: 1, budget: new ByteBudget(1) });
  const told = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
  );
  expect(told.sort()).toEqual(routes.map(({ method, path }) => `${method} ${path}`).sort());
});

test('what the document refers to is there, and all that is there is referred to', () => {
  const referred = new Set(
    [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g)].map(([, kind, name]) => `${kind}/${name}`),
  );
  const { securitySchemes: _, ...components } = document.components;
  const there = Object.entries(components).flatMap(([kind, named]) => Object.keys(named).map((name) => `${kind}/${name}`));
  expect(there.sort()).toEqual([...referred].sort());
});
