import type { Case } from '../case.js';
import { ANSWERS } from './answers.js';
import { CRASHES } from './crashes.js';
import { FILES } from './files.js';
import { KEYS } from './keys.js';
import { LINKS } from './links.js';
import { NAMES } from './names.js';
import { OPERATIONS } from './operations.js';
import { OVERLOAD } from './overload.js';
import { REQUESTS } from './requests.js';
import { STRANGERS } from './strangers.js';
import { VERSIONS } from './versions.js';

/** In the order in which they run. */
export const CASES: readonly Case[] = [
  ...CRASHES,
  ...LINKS,
  ...ANSWERS,
  ...STRANGERS,
  ...REQUESTS,
  ...FILES,
  ...VERSIONS,
  ...KEYS,
  ...NAMES,
  ...OPERATIONS,
  ...OVERLOAD,
];
