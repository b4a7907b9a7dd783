/** The number that decimal digits are, with a fraction or without; NaN of other notations that Number takes: 0x2, 1e1, +3, and spaces. */
export const decimal = (text: string): number => (/^\d*\.?\d+$/.test(text) ? Number(text) : Number.NaN);
