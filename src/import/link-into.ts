import { constants, copyFile, link, realpath, rm } from 'node:fs/promises';

/**
 * Brings a file into a bundle without a copy of its bytes: a clone, which later writes to the original do not reach, where the filesystem has them
 * (Btrfs, XFS); else a hard link. Null when neither can be made, on another filesystem say.
 */
export async function linkInto(path: string, to: string): Promise<'cloned' | 'linked' | null> {
  // A link of a symbolic link would be one, to a path that it may not have from there.
  const real = await realpath(path);
  const attempt = (work: Promise<void>): Promise<boolean> =>
    work.then(
      () => true,
      () => false,
    );
  if (await attempt(copyFile(real, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL))) return 'cloned';
  await rm(to, { force: true });
  return (await attempt(link(real, to))) ? 'linked' : null;
}
