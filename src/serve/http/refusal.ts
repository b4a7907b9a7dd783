/** A request that HTTP itself refuses, before any model is asked. */
export class Refusal extends Error {
  constructor(
    readonly status: 401 | 403 | 404 | 405 | 411 | 413 | 415,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message);
  }
}
