const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ESCAPES[character] as string);

/** Markup that is placed as it is. Made by html`...`, which escapes, or by trusted() for what a library has escaped. */
export class Html {
  constructor(readonly markup: string) {}
}

export type Piece = Html | string | number | readonly Piece[];

const markupOf = (piece: Piece): string => {
  if (piece instanceof Html) return piece.markup;
  return Array.isArray(piece) ? piece.map(markupOf).join('') : escapeHtml(String(piece));
};

/** Markup of a template: all that is put in is escaped, in text and in quoted attributes alike, unless it is Html itself. */
export function html(template: TemplateStringsArray, ...pieces: readonly Piece[]): Html {
  return new Html(template.map((markup, n) => (n < pieces.length ? markup + markupOf(pieces[n] as Piece) : markup)).join(''));
}

export const trusted = (markup: string): Html => new Html(markup);
export const NOTHING = trusted('');
