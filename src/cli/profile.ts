import { Command } from 'commander';
import { profileRequests } from '../lab/requests/request-sample.js';
import { openBundle } from '../model/bundle.js';
import { type Profile, writeProfile } from '../plan/profile/profile.js';
import { refuseUnwritable } from '../tables/atomic.js';
import { positiveInteger } from './options.js';
import { withProgress } from './progress.js';
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
    `
Per request, of each table: bags, ids (lookups), rows that differ, the ids of bags that are given once for the user, and the share of all
sampled lookups that goes to the 1 % of the sampled rows that are looked up most.

Examples:
  terabag profile ./model requests.jsonl
  terabag profile ./model requests.jsonl --requests 10000 -o profile.json
  terabag plan ./model --strategy load-balanced --shards 4 --profile profile.json -o plan.json`,
  )
  .action(async (bundle: string, path: string, options: ProfileOptions) => {
    if (options.output !== undefined) await refuseUnwritable(options.output);
    const profile = await sampleProfile(bundle, path, options.requests);
    if (options.output !== undefined) await writeProfile(options.output, profile);
    if (options.json) console.log(JSON.stringify(profile));
    else print(profile);
  });

/** Samples a file of requests with progress; bad ones are told of on stderr. */
export async function sampleProfile(bundleDir: string, path: string, requests: number): Promise<Profile> {
  const bundle = await openBundle(bundleDir, { verify: 'later', tables: new Set() });
  const { profile, bad } = await withProgress('reading requests', 'bytes', (onProgress) =>
    profileRequests(bundle, path, { requests, onProgress }),
  );
  if (bad.first !== null) warn(`${bad.count} of the sampled requests are left out, the first for: ${bad.first.message}`);
  return profile;
}

const rounded = (value: number): number => Number(value.toFixed(2));

function print({ requests, items, tables }: Profile): void {
  console.log(`${requests} requests sampled; items: mean ${rounded(items.mean)}, P50 ${items.p50}, P99 ${items.p99}`);
  console.table(
    tables.map(({ table, bags, lookups, uniqueRows, userLookups, hotShare }) => ({
      table,
      bags: rounded(bags),
      lookups: rounded(lookups),
      'unique rows': rounded(uniqueRows),
      'of the user': rounded(userLookups),
      'hot share': `${(100 * hotShare).toFixed(1)} %`,
    })),
  );
}
