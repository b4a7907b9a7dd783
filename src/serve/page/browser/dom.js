/** An element with attributes and children; texts are texts, whatever they hold.
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children);
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 * @param {...Node} children
 * @returns {SVGElement}
 */
export function svg(name, attributes, ...children) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG, name));
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children);
  return element;
}

/** @param {string} id */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no ${id}`);
  return element;
}

/** Untouched where nothing changes: selections and screen readers stay where they are.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {string} value
 */
export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** @type {WeakMap<Element, Map<string, Element>>} */
const kept = new WeakMap();

/** Keeps a child for each item, by its key: makes those that are new, updates all, and removes those that are gone.
 * @template T
 * @param {Element} parent
 * @param {readonly T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => Element} make
 * @param {(element: Element, item: T, position: number) => void} update
 */
export function each(parent, items, keyOf, make, update) {
  const before = kept.get(parent) ?? new Map();
  /** @type {Map<string, Element>} */
  const now = new Map();
  for (const [position, item] of items.entries()) {
    let key = keyOf(item);
    while (now.has(key)) key += '+';
    const element = before.get(key) ?? make(item);
    now.set(key, element);
    update(element, item, position);
    if (parent.children[position] !== element) parent.insertBefore(element, parent.children[position] ?? null);
  }
  while (parent.children.length > items.length) parent.lastElementChild?.remove();
  kept.set(parent, now);
}

/** What tells of health beside its colour: each has a shape of its own.
 * @param {string} health
 */
export function healthIcon(health) {
  const shapes = /** @type {Record<string, string>} */ ({
    up: 'M6 1.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 0 1 0-9z',
    slow: 'M6 1l5.2 9.5H.8z',
    ejected: 'M6 .8L11.2 6 6 11.2.8 6z',
    draining: 'M6 1.5a4.5 4.5 0 1 1 0 9zM6 2.6a3.4 3.4 0 0 0 0 6.8z',
    down: 'M2.6 1.2L6 4.6l3.4-3.4 1.4 1.4L7.4 6l3.4 3.4-1.4 1.4L6 7.4l-3.4 3.4-1.4-1.4L4.6 6 1.2 2.6z',
  });
  return svg(
    'svg',
    { viewBox: '0 0 12 12', class: `icon ${health}`, 'aria-hidden': 'true' },
    svg('path', { d: shapes[health] ?? shapes['up'] ?? '' }),
  );
}
