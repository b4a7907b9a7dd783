import { TerabagError } from '../errors.js';

/** What is wrong at a place of model.json. */
export const badModel = (path: string, what: string): TerabagError =>
  new TerabagError('bad_model', `model.json: ${path}: ${what}`, { path });
