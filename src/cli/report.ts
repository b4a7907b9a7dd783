import { resolve } from 'node:path';
import { Command } from 'commander';
import { readCharacterisation } from '../lab/report/characterisation.js';
import { renderCharacterisation } from '../lab/report/characterisation-report.js';
import { Charts } from '../lab/report/charts.js';
import { refuseUnwritable, writeFileAtomic } from '../tables/atomic.js';
import { further } from './help.js';
import { refuseSameFile } from './output-files.js';

interface ReportOptions {
  readonly output: string;
  readonly json?: boolean;
}

export const reportCommand = new Command('report')
  .description('draw the results of characterise as one HTML file that needs nothing else')
  .argument('<results>', 'JSON file that characterise wrote; of one that has not ended, what there is')
  .requiredOption('-o, --output <file>', 'HTML file to write')
  .option('--json', 'say as JSON where it was written')
  .addHelpText('after', further('\nExamples:\n  terabag report results.json -o report.html'))
  .action(async (path: string, options: ReportOptions, command: Command) => {
    await refuseSameFile(command, { '--output': options.output }, { '<results>': path });
    await refuseUnwritable('--output', options.output);
    const charts = await Charts.load();
    const results = await readCharacterisation(path);
    const page = renderCharacterisation(results, charts);
    await writeFileAtomic(options.output, page);
    const report = resolve(options.output);
    console.log(options.json ? JSON.stringify({ report, complete: results.endedAt !== null }) : `report: ${report}`);
  });
