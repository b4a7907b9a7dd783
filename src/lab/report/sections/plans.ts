import type { Characterisation, Configuration, PlanHolder } from '../characterisation.js';
import { planMap } from '../charts/plan-map.js';
import type { Charts } from '../charts.js';
import { html } from '../html.js';
import { formatBytes, formatNumber } from '../numbers.js';
import { type DataTable, dataBehind, panels, type Section } from '../page.js';

export function plansSection({ configurations }: Characterisation, charts: Charts): Section | null {
  const planned = distinctPlans(configurations.filter(({ plan }) => plan.length > 0));
  if (planned.length === 0) return null;
  const figures = planned.map(({ title, plan }) => ({
    title,
    description: `Plan ${title}: ${plan.map(({ name, bytes, tables }) => `${name} holds ${formatBytes(bytes)} in ${tables} tables`).join('; ')}.`,
    chart: planMap(plan),
  }));
  return {
    id: 'plans',
    heading: 'Plan map',
    content: [
      html`<p class="note">What each shard holds, as shares of the model's bytes, and the share of a mean request's lookups that falls on it.</p>`,
      panels(figures, charts),
      dataBehind(planned.map(({ title, plan }) => holdersTable(title, plan))),
    ],
  };
}

/** Configurations with the same plan, as those on slower networks, have one map. */
function distinctPlans(configurations: readonly Configuration[]): { readonly title: string; readonly plan: readonly PlanHolder[] }[] {
  const plans = new Map<string, { ids: string[]; plan: readonly PlanHolder[] }>();
  for (const { id, plan } of configurations) {
    const key = JSON.stringify(plan);
    const known = plans.get(key);
    if (known === undefined) plans.set(key, { ids: [id], plan });
    else known.ids.push(id);
  }
  return [...plans.values()].map(({ ids, plan }) => ({
    title: ids.length > 1 ? `${ids[0]}, and ${ids.length - 1} more` : (ids[0] ?? ''),
    plan,
  }));
}

export const holdersTable = (caption: string, holders: readonly PlanHolder[]): DataTable => ({
  caption,
  head: ['shard', 'bytes', 'tables', 'lookups per request', 'largest tables'],
  rows: holders.map(({ name, bytes, tables, lookupsPerRequest, largest }) => [
    name,
    formatBytes(bytes),
    String(tables),
    formatNumber(lookupsPerRequest),
    {
      kind: 'prose' as const,
      content: largest
        .map(({ table, bytes: held, parts }) => `${table} ${formatBytes(held)}${parts > 1 ? ` (1 of ${parts} parts)` : ''}`)
        .join(', '),
    },
  ]),
});
