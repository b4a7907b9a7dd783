import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../../..', import.meta.url));
/** What is written by hand: no build, no packages, no pages of the API. */
const files = readdirSync(root, { withFileTypes: true }).flatMap((entry) =>
  !entry.isDirectory()
    ? [entry.name]
    : ['src', 'native', 'test', 'bench', 'scripts', 'docs', 'examples', 'python'].includes(entry.name)
      ? readdirSync(join(root, entry.name), { recursive: true, encoding: 'utf8' }).map((path) => `${entry.name}/${path}`)
      : [],
);
const pages = files.filter((path) => path.endsWith('.md') && !/^(native\/build|docs\/api)/.test(path));

/** As hosts of Markdown make anchors of headings. */
const anchors = (path: string): string[] =>
  [...readFileSync(join(root, path), 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );

test.each(pages)('%s links to files and headings that are there', (page) => {
  const text = readFileSync(join(root, page), 'utf8').replace(/```[\s\S]*?```/g, '');
  const links = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link = '']) => link).filter((link) => !/^https?:/.test(link));
  const broken = links.filter((link) => {
    const [path = '', anchor] = link.split('#');
    const target = path === '' ? page : join(dirname(page), path);
    if (!existsSync(join(root, target))) return true;
    return anchor !== undefined && !anchors(target).includes(anchor);
  });
  expect(broken).toEqual([]);
});

// Paths without a room are those of src/; in a table, a file may follow the folder of the one before it.
test.each(['ARCHITECTURE.md', 'CONTRIBUTING.md'])('%s names files that are there', (page) => {
  const text = readFileSync(join(root, page), 'utf8');
  const named = [...text.matchAll(/`([\w./-]+\.(?:ts|cc|h|mjs|cjs|md))`/g)]
    .map(([, path = '']) => path)
    .filter((path) => !path.includes('NAME'));
  expect(named.length).toBeGreaterThan(20);
  const missing = named.filter((path) => !files.some((file) => file === path || file.endsWith(`/${path}`)));
  expect(missing).toEqual([]);
});

test.each(['ARCHITECTURE.md', 'CONTRIBUTING.md'])('%s names folders that are there', (page) => {
  const text = readFileSync(join(root, page), 'utf8').replace(/```[\s\S]*?```/g, '');
  const named = [...text.matchAll(/`([a-z]+(?:\/[\w-]+)+)\/?`/g)].map(([, path = '']) => path).filter((path) => !path.includes('NAME'));
  expect(named.length).toBeGreaterThan(1);
  const folders = new Set(files.map((file) => dirname(file)));
  const missing = named.filter((path) => ![...folders].some((folder) => folder === path || folder.endsWith(`/${path}`)));
  // What is built, and a name for import.
  expect(missing.filter((path) => path !== 'docs/api' && path !== 'terabag/lab')).toEqual([]);
});

const handwritten = pages.filter((page) => page !== 'CHANGELOG.md');

test.each(handwritten)('%s names files of the repository that are there', (page) => {
  const text = readFileSync(join(root, page), 'utf8');
  const named = [...text.matchAll(/(?<![\w./-])(?:src|native|test|bench|scripts)\/[\w./-]+\.(?:tsx?|cc|h|mjs|cjs|py|md)\b/g)].map(
    ([path]) => path,
  );
  expect(named.filter((path) => !path.includes('NAME') && !files.includes(path))).toEqual([]);
});

test.each(handwritten)('%s imports what the package exports', (page) => {
  const text = readFileSync(join(root, page), 'utf8');
  const sources = { terabag: 'src/index.ts', 'terabag/lab': 'src/lab/index.ts' };
  for (const [, names = '', from = ''] of text.matchAll(/^import (?:type )?\{([^}]*)\} from '(terabag(?:\/lab)?)';$/gm)) {
    const exported = readFileSync(join(root, sources[from as keyof typeof sources]), 'utf8').match(/\w+/g) ?? [];
    for (const name of names.split(',').map((word) => word.trim().replace(/^type /, '')))
      if (name !== '') expect(exported, `${from} ${name}`).toContain(name);
  }
});
