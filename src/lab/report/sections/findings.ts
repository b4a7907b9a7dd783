import type { Characterisation, Finding } from '../characterisation.js';
import { type Html, html } from '../html.js';
import type { Section } from '../page.js';

export const verdict = ({ held }: Pick<Finding, 'held'>): { readonly name: string; readonly kind: string } => {
  if (held === null) return { name: 'not measured', kind: 'unmeasured' };
  return held ? { name: 'held', kind: 'held' } : { name: 'not held', kind: 'refuted' };
};

export function findingsSection({ findings }: Characterisation): Section | null {
  if (findings.length === 0) return null;
  const count = (name: string): number => findings.filter((finding) => verdict(finding).name === name).length;
  const item = (finding: Finding): Html => {
    const { name, kind } = verdict(finding);
    return html`<li id="finding-${finding.id}"><span class="badge ${kind}">${name}</span><div><p>${finding.statement}</p><p class="note">${finding.numbers}</p></div></li>`;
  };
  return {
    id: 'findings',
    heading: 'Findings',
    content: html`<p class="note">Hypotheses about scale-out inference, each decided by figures of this run alone: ${count('held')} held, ${count('not held')} not held, ${count('not measured')} not measured.</p>
<ul class="findings">${findings.map(item)}</ul>`,
  };
}
