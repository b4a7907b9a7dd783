import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { readTorchSave } from '../../../src/import/readers/torch-save.js';
import { entryExtent, readEntry, readZip, type Zip } from '../../../src/import/zip.js';
import { FilesInMemory } from '../../reference/files-in-memory.js';
import { pickleOf, tensor } from '../../reference/pickle.js';
import { type WrittenZip, zipOf } from '../../reference/zip.js';

const filesOf = (bytes: Uint8Array): FilesInMemory => new FilesInMemory(new Map([['a.pt', bytes]]));
const read = (bytes: Uint8Array, from = 0, length = bytes.length): Promise<Zip> => readZip(filesOf(bytes), 'a.pt', { from, bytes: length });
const text = (content: string): Uint8Array => Buffer.from(content);
const TWO = [
  { name: 'a/x', data: text('first') },
  { name: 'a/y', data: text('second one') },
];
const bad = expect.objectContaining({ code: 'bad_checkpoint' });

test('entries of any content read back, with and without 64-bit records, alone and within a file', async () => {
  const entry = fc.record({ name: fc.stringMatching(/^[a-z]{1,9}(\/[a-z]{1,9}){0,2}$/), data: fc.uint8Array({ maxLength: 300 }) });
  const entries = fc.uniqueArray(entry, { maxLength: 6, selector: ({ name }) => name });
  await fc.assert(
    fc.asyncProperty(entries, fc.boolean(), fc.uint8Array({ maxLength: 40 }), async (written, wide, before) => {
      const zip = zipOf({ entries: written, wide });
      const whole = Buffer.concat([before, zip, before]);
      const found = await read(whole, before.length, zip.length);
      expect([...found.entries.keys()]).toEqual(written.map(({ name }) => name));
      for (const { name, data } of written) {
        const listed = found.entries.get(name) as NonNullable<ReturnType<typeof found.entries.get>>;
        const { from, bytes } = await entryExtent(filesOf(whole), found, listed);
        expect((from - before.length) % 64).toBe(0);
        expect(Uint8Array.from(whole.subarray(from, from + bytes))).toEqual(data);
        expect((await readEntry(filesOf(whole), found, listed, 300)).known).toBe(true);
      }
    }),
  );
});

test.each<[string, WrittenZip]>([
  ['two entries in one place', { entries: [TWO[0]!, { ...TWO[1]!, offset: 0 }] }],
  ['an entry that reaches into the next', { entries: [{ ...TWO[0]!, bytes: 90, stored: 90 }, TWO[1]!] }],
  ['an entry that reaches into the directory', { entries: [TWO[0]!, { ...TWO[1]!, bytes: 900, stored: 900 }] }],
  ['an entry behind the end', { entries: [TWO[0]!, { ...TWO[1]!, offset: 5000 }] }],
  ['an entry with two lengths', { entries: [{ ...TWO[0]!, bytes: 2 ** 31 }] }],
  ['an entry of 2^60 bytes', { entries: [{ ...TWO[0]!, bytes: 2 ** 60, stored: 2 ** 60 }], wide: true }],
  ['two entries of one name', { entries: [TWO[0]!, TWO[0]!] }],
  ['a name that leads upwards', { entries: [{ ...TWO[0]!, name: 'a/../../x' }] }],
  ['a name that leads upwards with the other slash', { entries: [{ ...TWO[0]!, name: 'a\\..\\x' }] }],
  ['an absolute name', { entries: [{ ...TWO[0]!, name: '/etc/passwd' }] }],
  ['a name of a drive', { entries: [{ ...TWO[0]!, name: 'C:x' }] }],
  ['a name with a zero', { entries: [{ ...TWO[0]!, name: 'a\0b' }] }],
  ['an encrypted entry', { entries: [{ ...TWO[0]!, flags: 1 }] }],
  ['more entries than there are', { entries: TWO, count: 3 }],
  ['fewer entries than there are', { entries: TWO, count: 1 }],
  ['a directory elsewhere', { entries: TWO, directoryOffset: 0 }],
])('%s is refused', async (_, written) => {
  await expect(read(zipOf(written))).rejects.toThrow(bad);
});

test('a compressed entry is refused when it is read, one whose header differs too; damage is told by the checksum', async () => {
  const open = async (written: WrittenZip): Promise<unknown> => {
    const bytes = zipOf(written);
    const zip = await read(bytes);
    return readEntry(filesOf(bytes), zip, [...zip.entries.values()][0]!, 100);
  };
  await expect(open({ entries: [{ ...TWO[0]!, method: 8, bytes: 2 ** 31 }] })).rejects.toThrow('entry is compressed (method 8)');
  await expect(open({ entries: [{ ...TWO[0]!, localName: 'a/z' }] })).rejects.toThrow('another name');
  await expect(open({ entries: [{ ...TWO[0]!, crc32: 5 }] })).rejects.toThrow('entry is damaged: a/x');
  await expect(open({ entries: [{ ...TWO[0]!, crc32: 0 }] })).resolves.toMatchObject({ known: false });
  await expect(open({ entries: [{ ...TWO[0]!, data: Buffer.alloc(101) }] })).rejects.toThrow('entry of 101 bytes, the limit is 100');
});

const STATE = { values: 12, shape: [3, 4], strides: [4, 1] };
const checkpoint = (more: Partial<Record<string, Uint8Array>> = {}): Buffer => {
  const pickle = pickleOf({ dict: [['table', tensor('0', STATE)]] });
  const parts = { 'm/data.pkl': pickle, 'm/byteorder': text('little'), 'm/data/0': new Uint8Array(48), 'm/version': text('3\n'), ...more };
  return zipOf({ entries: Object.entries(parts).flatMap(([name, data]) => (data === undefined ? [] : [{ name, data }])) });
};
const opened = (bytes: Uint8Array) => readTorchSave(filesOf(bytes), 'a.pt');

test('a storage that is missing or of another length, big-endian values, and a zip of something else are refused', async () => {
  const { tensors } = await opened(checkpoint());
  const [piece] = await tensors.get('table')!.pieces();
  expect(piece).toMatchObject({ sizes: [3, 4], strides: [4, 1], known: { bytes: 48 } });
  await expect(opened(checkpoint({ 'm/data/0': undefined }))).rejects.toThrow('storage is missing: 0');
  await expect(opened(checkpoint({ 'm/data/0': new Uint8Array(44) }))).rejects.toThrow('44 bytes, expected 48');
  await expect(opened(checkpoint({ 'm/byteorder': text('big') }))).rejects.toThrow('another order of bytes: big');
  await expect(opened(checkpoint({ 'n/data.pkl': text('x') }))).rejects.toThrow('a zip that torch.save did not write');
  await expect(opened(zipOf({ entries: TWO }))).rejects.toThrow('a zip that torch.save did not write');
});

test('every truncation and any change of some bytes gives the tensors within the file, or a bad_checkpoint', async () => {
  const whole = checkpoint();
  for (let length = 0; length < whole.length; length++) await expect(opened(whole.subarray(0, length))).rejects.toThrow(bad);
  const change = fc.record({ at: fc.nat(whole.length - 1), byte: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
      const bytes = Buffer.from(whole);
      for (const { at, byte } of changes) bytes[at] = byte;
      try {
        for (const { dtype, pieces } of (await opened(bytes)).tensors.values()) {
          const [piece] = await pieces();
          const { byteOffset, sizes, strides } = piece!;
          const values = sizes.includes(0) ? 0 : 1 + sizes.reduce((sum, size, dim) => sum + (size - 1) * strides[dim]!, 0);
          expect(byteOffset).toBeGreaterThanOrEqual(0);
          expect(
            byteOffset + values * (dtype === 'F64' || dtype === 'I64' ? 8 : dtype === 'F32' || dtype === 'I32' ? 4 : 1),
          ).toBeLessThanOrEqual(bytes.length);
        }
      } catch (error) {
        if (!(error instanceof TerabagError)) throw error;
        expect(error.code).toBe('bad_checkpoint');
      }
    }),
    { numRuns: 3000 },
  );
});
