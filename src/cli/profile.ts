import { Command } from 'commander';
import { profileRequests } from '../lab/requests/request-sample.js';
import { openModel } from '../model/open-model.js';
import { type Profile, writeProfile } from '../plan/profile/profile.js';
import { refuseUnwritable } from '../tables/atomic.js';
import { further } from './help.js';
import { positiveInteger } from './options.js';
import { refuseSameFile } from './output-files.js';
import { withProgress } from './progress.js';
import { numeric, printTable, text } from './table.js';
import { warn } from './warn.js';

/** Requests that are sampled where nothing else is said. */
export const SAMPLED_REQUESTS = 1000;

interface ProfileOptions {
  readonly output?: string;
  readonly requests: number;
  readonly json?: boolean;
}

export const profileCommand = new Command('profile')
  .description('sample a file of requests: what they ask of each table, for terabag plan')
  .argument('<bundle>', 'directory of the model')
  .argument('<requests>', 'requests.jsonl or requests.safetensors, as terabag predict takes them; - is stdin')
  .option('-o, --output <file>', 'the profile file to write')
  .option('--requests <n>', 'how many are sampled, from all over the file', positiveInteger, SAMPLED_REQUESTS)
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Per request, of each table: bags, ids (lookups), rows that differ, the ids of bags that are given once for the user, and the share of all
sampled lookups that goes to the 1 % of the sampled rows that are looked up most.

Examples:
  terabag profile ./model requests.jsonl
  terabag profile ./model requests.jsonl --requests 10000 -o profile.json
  terabag plan ./model --strategy load-balanced --shards 4 --profile profile.json -o plan.json`),
  )
  .action(async (bundle: string, path: string, options: ProfileOptions, command: Command) => {
    await refuseSameFile(command, { '--output': options.output }, { '<requests>': path });
    if (options.output !== undefined) await refuseUnwritable('--output', options.output);
    const profile = await sampleProfile(bundle, path, options.requests);
    if (options.output !== undefined) await writeProfile(options.output, profile);
    if (options.json) console.log(JSON.stringify(profile));
    else print(profile);
  });

/** Samples a file of requests with progress; bad ones are told of on stderr. */
export async function sampleProfile(bundleDir: string, path: string, requests: number): Promise<Profile> {
  const model = await openModel(bundleDir);
  const { profile, bad } = await withProgress('reading requests', 'bytes', (onProgress) =>
    profileRequests(model, path, { requests, onProgress }),
  );
  if (bad.first !== null) warn(`${bad.count} of the sampled requests are left out, the first for: ${bad.first.message}`);
  return profile;
}

const rounded = (value: number): number => Number(value.toFixed(2));

function print({ requests, items, tables }: Profile): void {
  console.log(`${requests} requests sampled; items: mean ${rounded(items.mean)}, P50 ${items.p50}, P99 ${items.p99}`);
  printTable(tables, [
    text('table', ({ table }) => table),
    numeric('bags', ({ bags }) => bags, 2),
    numeric('lookups', ({ lookups }) => lookups, 2),
    numeric('unique rows', ({ uniqueRows }) => uniqueRows, 2),
    numeric('of the user', ({ userLookups }) => userLookups, 2),
    numeric('hot share, %', ({ hotShare }) => 100 * hotShare, 1),
  ]);
}
