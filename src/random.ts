/** Where chance comes from, in [0, 1); tests and simulations put a seeded one in its place. */
export type Random = () => number;

export const systemRandom: Random = Math.random;
