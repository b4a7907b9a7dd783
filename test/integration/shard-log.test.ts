import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';

const log = new URL('../../dist/cluster/shard-log.js', import.meta.url).href;
const script = `
  import { shardLog } from ${JSON.stringify(log)};
  const log = shardLog('shard-0', 'info');
  // Many times what a pipe holds.
  for (let n = 0; n < 20000; n++) log.warn({ n }, 'a line that a reader who does not read leaves in the pipe');
  process.exit(7);`;

test('a reader that does not read the log does not keep a shard from ending', async () => {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'ignore', 'pipe'] });
  child.stderr.pause();
  const exited = once(child, 'exit');
  const ended = await Promise.race([exited, sleep(30_000, null)]);
  child.kill('SIGKILL');
  expect(ended).toEqual([7, null]);
});

test('a reader that reads gets every line', async () => {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script.replace('20000', '200')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
  });
  await once(child, 'close');
  const lines = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { n: number; name: string });
  expect(lines.map(({ n }) => n)).toEqual(Array.from({ length: 200 }, (_, n) => n));
  expect(lines[0]?.name).toBe('shard-0');
});
