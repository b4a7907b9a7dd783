import { type Plan, planHashOf } from '../../plan/file/plan.js';
import type { NodeMap } from './document.js';
import type { KubernetesOptions } from './options.js';

export const metadata = (name: string, labels: NodeMap, { namespace, version }: KubernetesOptions): NodeMap => ({
  name,
  namespace: namespace ?? undefined,
  labels: { ...labels, 'app.kubernetes.io/version': version },
});

/** Pods of another plan are other pods. */
export const planAnnotation = (plan: Plan): NodeMap => ({ 'terabag/plan': planHashOf(plan), 'terabag/model': plan.model.hash });
