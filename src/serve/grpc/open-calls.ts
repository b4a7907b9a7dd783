/** Calls that last until their clients end them, which the server does when it closes. */
export class OpenCalls {
  readonly #ends = new Set<() => void>();

  /** Ends it when the server closes; gives what takes it out, once it has ended. */
  add(end: () => void): () => void {
    this.#ends.add(end);
    return () => void this.#ends.delete(end);
  }

  end(): void {
    for (const end of this.#ends) end();
    this.#ends.clear();
  }
}
