/** A way to store a table, or tables of one tensor. */
export interface Choice {
  readonly bytes: number;
  /** What it costs, relative to what all cost as they are; 0 as it is. */
  readonly loss: number;
}

/** From one choice of a unit to a smaller one. */
export interface Step {
  readonly unit: number;
  /** Position in the unit's choices. */
  readonly to: number;
  readonly savedBytes: number;
  readonly loss: number;
}

/**
 * The steps that save most bytes for what they lose, best first. Each unit's are those of its convex hull, where every further byte costs more than the one
 * before: what lies below is no better than a mixture, and in any order of units a unit's steps come in its own. A choice that measured better than
 * as it is counts as no loss: it is noise, which must pay for no other's loss. The first choice of a unit is as it is.
 */
export function orderedSteps(units: readonly (readonly Choice[])[]): Step[] {
  const steps = units.flatMap((choices, unit) => {
    const hull = convexHull(choices);
    return hull.slice(1).map(({ to, bytes, loss }, at): Step => {
      const before = hull[at] as (typeof hull)[number];
      return { unit, to, savedBytes: before.bytes - bytes, loss: loss - before.loss };
    });
  });
  // A stable sort: steps of one unit have falling ratios.
  return steps.sort((a, b) => ratio(b) - ratio(a) || b.savedBytes - a.savedBytes);
}

const ratio = ({ savedBytes, loss }: Step): number => (loss === 0 ? Number.MAX_VALUE : savedBytes / loss);

interface Point extends Choice {
  readonly to: number;
}

/** From the first choice to the smallest, those that no two others enclose. */
function convexHull(choices: readonly Choice[]): Point[] {
  const points = choices.map(({ bytes, loss }, to): Point => ({ bytes, loss: to === 0 ? 0 : Math.max(0, loss), to }));
  const hull: Point[] = [points[0] as Point];
  const others = points.slice(1).sort((a, b) => a.loss - b.loss || a.bytes - b.bytes);
  for (const point of others) {
    if (point.bytes >= (hull.at(-1) as Point).bytes) continue;
    while (hull.length > 1 && gain(hull.at(-2) as Point, hull.at(-1) as Point) <= gain(hull.at(-2) as Point, point)) hull.pop();
    hull.push(point);
  }
  return hull;
}

const gain = (from: Point, to: Point): number =>
  to.loss === from.loss ? Number.MAX_VALUE : (from.bytes - to.bytes) / (to.loss - from.loss);

/** Steps by their position in the order; a unit's later ones come with its earlier ones. */
export type Selection = readonly number[];

/** The steps that fit when losses add up: one that does not ends its unit's, and others go on. */
export function selectSteps(steps: readonly Step[], bound: number): Selection {
  const ended = new Set<number>();
  const selected: number[] = [];
  let lost = 0;
  steps.forEach(({ unit, loss }, at) => {
    if (ended.has(unit)) return;
    if (lost + loss > bound) {
      ended.add(unit);
      return;
    }
    lost += loss;
    selected.push(at);
  });
  return selected;
}

/** The choice of each unit. */
export function choicesOf(steps: readonly Step[], selection: Selection, units: number): number[] {
  const choices = new Array<number>(units).fill(0);
  for (const at of selection) {
    const { unit, to } = steps[at] as Step;
    choices[unit] = to;
  }
  return choices;
}

/** Steps that are tried beyond those that were expected to fit, and found not to. */
const MOST_FAILED = 4;

export interface FoundSelection {
  readonly selection: Selection;
  /** As it was measured. */
  readonly loss: number;
}

/**
 * The selection whose measured loss is within the bound: losses of several units at once are not just their sum. Steps back from what was expected to fit, worst
 * first, while it does not; then tries more while there is room.
 */
export async function fitSelection(
  steps: readonly Step[],
  bound: number,
  measure: (selection: Selection) => Promise<number>,
): Promise<FoundSelection> {
  let selection = selectSteps(steps, bound);
  let loss = selection.length === 0 ? 0 : await measure(selection);
  while (loss > bound) {
    selection = stepBack(steps, selection, loss - bound);
    loss = selection.length === 0 ? 0 : await measure(selection);
  }
  const ended = new Set<number>();
  let failed = 0;
  for (const [at, { unit, loss: expected }] of steps.entries()) {
    if (failed === MOST_FAILED) break;
    if (selection.includes(at) || ended.has(unit)) continue;
    // It could only fit by chance, and its unit's next ones neither.
    const more = [...selection, at].sort((a, b) => a - b);
    const measured = loss + expected > 2 * bound ? Number.POSITIVE_INFINITY : await measure(more);
    if (measured <= bound) {
      selection = more;
      loss = measured;
    } else {
      ended.add(unit);
      if (measured !== Number.POSITIVE_INFINITY) failed++;
    }
  }
  return { selection, loss };
}

/** Without the last steps, as many as are expected to cost the excess; at least one of those that cost something. */
function stepBack(steps: readonly Step[], selection: Selection, excess: number): Selection {
  const left = [...selection];
  let regained = 0;
  while (left.length > 0 && regained < excess) {
    regained += (steps[left.pop() as number] as Step).loss;
  }
  return left;
}
