import { expect, test } from 'vitest';
import { parseWhatIf } from '../../../src/cli/what-if.js';

test('changes are read, sizes and names in their units', () => {
  expect(parseWhatIf('shards=16,format=int8')).toEqual({ shards: 16, format: 'int8' });
  expect(parseWhatIf(' items = 256 , cores=own')).toEqual({ items: 256, cores: null });
  expect(parseWhatIf('memory-limit=1.5GiB,local=0B,strategy=auto,objective=cpu')).toEqual({
    memoryLimitBytes: 1.5 * 2 ** 30,
    localBytes: 0,
    strategy: 'auto',
    objective: 'cpu',
  });
  expect(parseWhatIf('rpc=paper,batch-items=32,cores=4')).toEqual({ rpc: 'paper', batchItems: 32, cores: 4 });
});

test.each([
  ['shard=16', 'shard', /no such key, there are strategy, .*shards/],
  ['toString=1', 'toString', /no such key/],
  ['', '', /no such key/],
  ['shards', 'shards', /KEY=VALUE/],
  ['shards=4=5', 'shards', /KEY=VALUE/],
  ['shards=0', 'shards', /integer, 1 or more: shards=0/],
  ['format=int2', 'format', /one of fp32, fp16/],
  ['memory-limit=4G', 'memory-limit', /4GiB: memory-limit=4G/],
  ['local=0', 'local', /0B: local=0/],
  ['shards=2,shards=4', 'shards', /given twice/],
  ['batch-items=4', 'batch-items', /needs rpc=paper: batch-items=4/],
  ['batch-items=4,rpc=coalesced', 'batch-items', /needs rpc=paper/],
])('%s is refused with the key', (text, field, reason) => {
  expect(() => parseWhatIf(text)).toThrow(reason);
  expect(() => parseWhatIf(text)).toThrow(expect.objectContaining({ code: 'invalid_argument', details: { field } }));
});
