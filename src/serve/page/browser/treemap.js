/** @typedef {{ x: number, y: number, width: number, height: number }} Box */

/** Cuts a box into one for each weight, of an area in proportion and as square as rows of them allow (squarified: Bruls, Huizing, van Wijk).
 * @param {readonly number[]} weights above 0; descending, or nearly alike
 * @param {Box} box
 * @returns {Box[]} in the order of the weights
 */
export function treemap(weights, box) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const perWeight = (box.width * box.height) / total;
  /** @type {Box[]} */
  const boxes = [];
  let left = { ...box };
  for (let from = 0; from < weights.length; ) {
    const side = Math.min(left.width, left.height);
    let to = from + 1;
    let area = (weights[from] ?? 0) * perWeight;
    let worst = worstRatio(weights, from, to, area, perWeight, side);
    while (to < weights.length) {
      const more = area + (weights[to] ?? 0) * perWeight;
      const next = worstRatio(weights, from, to + 1, more, perWeight, side);
      if (next > worst) break;
      worst = next;
      area = more;
      to++;
    }
    left = layRow(weights.slice(from, to), area, perWeight, left, boxes);
    from = to;
  }
  return boxes;
}

/** Of the sides of a row's boxes.
 * @param {readonly number[]} weights
 * @param {number} from
 * @param {number} to
 * @param {number} area
 * @param {number} perWeight
 * @param {number} side
 */
function worstRatio(weights, from, to, area, perWeight, side) {
  const largest = (weights[from] ?? 0) * perWeight;
  const smallest = (weights[to - 1] ?? 0) * perWeight;
  return Math.max((side * side * largest) / (area * area), (area * area) / (side * side * smallest));
}

/** Lays a row along the shorter side; returns what is left.
 * @param {readonly number[]} row
 * @param {number} area
 * @param {number} perWeight
 * @param {Box} left
 * @param {Box[]} boxes
 */
function layRow(row, area, perWeight, left, boxes) {
  const isColumn = left.width >= left.height;
  const side = isColumn ? left.height : left.width;
  const thick = side > 0 ? area / side : 0;
  let at = isColumn ? left.y : left.x;
  for (const weight of row) {
    const length = thick > 0 ? (weight * perWeight) / thick : 0;
    boxes.push(isColumn ? { x: left.x, y: at, width: thick, height: length } : { x: at, y: left.y, width: length, height: thick });
    at += length;
  }
  return isColumn
    ? { ...left, x: left.x + thick, width: Math.max(0, left.width - thick) }
    : { ...left, y: left.y + thick, height: Math.max(0, left.height - thick) };
}
