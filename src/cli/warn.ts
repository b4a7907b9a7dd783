/** Tells of what is amiss, though the command goes on; on stderr, as stdout is for results. */
export const warn = (message: string): void => void process.stderr.write(`terabag: warning: ${message}\n`);
