/** What the processes of a server ask one another: what each counted, or to load a model. Questions and answers travel as structured clones. */
export type Answering = (question: string, argument: string) => Promise<unknown>;

/** All processes of a server, this one included. */
export interface Peers {
  /** The answers of all that gave one in time; rejects with the first error that one gave. */
  ask(question: string, argument?: string): Promise<readonly unknown[]>;
}

/** A server of one process. */
export const alone = (answer: Answering): Peers => ({
  ask: async (question, argument = '') => [await answer(question, argument)],
});
