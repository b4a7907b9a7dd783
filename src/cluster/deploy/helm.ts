import type { Plan } from '../../plan/file/plan.js';
import { type DeployFile, type Setting, settingsOf } from './document.js';
import { filesOf } from './kubernetes.js';
import { manifestsOf } from './manifests.js';
import { MONITORING_DIR } from './network.js';
import type { KubernetesOptions } from './options.js';
import { type Dialect, textOf, toYaml } from './yaml.js';

/** Where a setting is in a template. Names of shards need not be names of fields. */
const expressionOf = ({ path }: Setting): string =>
  path.every((name) => /^[A-Za-z]\w*$/.test(name))
    ? `.Values.${path.join('.')}`
    : `(index .Values ${path.map((name) => JSON.stringify(name)).join(' ')})`;

/** What a template would read as its own. */
const asText = (text: string): string => text.replaceAll('{{', '{{ "{{" }}');

/** JSON is YAML: a value of any kind stands in one line. Elements are arguments, which --set would take for numbers. */
const TEMPLATE: Dialect = {
  setting: (setting) => `{{ ${expressionOf(setting)} | toJson }}`,
  items: ({ setting }) => ({
    before: `{{- range ${expressionOf(setting)} }}`,
    element: '{{ . | toString | toJson }}',
    after: '{{- end }}',
  }),
  when: ({ setting, is }) => ({ before: `{{- if ${is ? '' : 'not '}${expressionOf(setting)} }}`, after: '{{- end }}' }),
  text: asText,
};

/** A chart of the same manifests: what may differ from cluster to cluster are its values. */
export function helmFiles(plan: Plan, options: KubernetesOptions): DeployFile[] {
  // The namespace is the release's.
  const manifests = manifestsOf(plan, { ...options, namespace: null });
  const settings = manifests.flatMap(({ object, when }) => [...(when === undefined ? [] : [when]), ...settingsOf(object)]);
  const templates = filesOf(manifests, ({ object, when }) => {
    const text = toYaml(object, TEMPLATE);
    return when === undefined ? text : `{{- if ${expressionOf(when)} }}\n${text}{{- end }}\n`;
  });
  const { name, version } = options;
  return [
    { path: 'Chart.yaml', text: chartOf(plan, options) },
    { path: 'values.yaml', text: valuesText(settings) },
    ...templates.map((file) => ({ ...file, path: `templates/${file.path.replace(`${MONITORING_DIR}/`, '')}` })),
    {
      path: 'templates/NOTES.txt',
      text: asText(
        `Terabag ${version} serves ${plan.model.name} ${plan.model.version} once ${name}-main is ready: kubectl rollout status deployment/${name}-main\n`,
      ),
    },
  ];
}

/** Of files that are no templates. */
const LITERAL: Dialect = { ...TEMPLATE, text: (text) => text };

function chartOf({ model, shards }: Plan, { name, version }: KubernetesOptions): string {
  const chart = {
    apiVersion: 'v2',
    name,
    description: `Terabag serves ${model.name} ${model.version} on ${shards.length} sparse shards`,
    type: 'application',
    version,
    appVersion: version,
    annotations: { 'terabag/model': model.hash },
  };
  return toYaml(chart, LITERAL);
}

interface Group {
  readonly entries: Map<string, Group | Setting>;
}

/** Each setting once, where its path says, with its comment above. */
function valuesText(settings: readonly Setting[]): string {
  const root: Group = { entries: new Map() };
  for (const setting of settings) {
    const groups = setting.path.slice(0, -1);
    const group = groups.reduce<Group>((at, name) => {
      const found = at.entries.get(name) ?? { entries: new Map() };
      at.entries.set(name, found);
      if (!('entries' in found)) throw new Error(`a setting has settings below it: ${setting.path.join('.')}`);
      return found;
    }, root);
    group.entries.set(setting.path.at(-1) as string, setting);
  }
  return `# Values of a chart that terabag deploy helm made of a plan: where shards and main run, and how many of them.\n${groupText(root, '')}`;
}

function groupText({ entries }: Group, indent: string): string {
  return [...entries]
    .map(([key, entry]) => {
      if ('entries' in entry) return `${indent}${textOf(key, LITERAL)}:\n${groupText(entry, `${indent}  `)}`;
      const comment = entry.comment === '' ? '' : `${indent}# ${entry.comment}\n`;
      return comment + toYaml({ [key]: entry.value }, LITERAL).replace(/^(?=.)/gm, indent);
    })
    .join('');
}
