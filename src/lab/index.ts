export { type CalibrateOptions, type Calibration, calibrate } from './calibrate/calibrate.js';
export type { Accuracy } from './evaluate/accuracy.js';
export type { BootstrapOptions, ConfidenceInterval } from './evaluate/bootstrap.js';
export { type Estimate, type Evaluation, evaluate } from './evaluate/evaluate.js';
export { type EvaluateOptions, type Scorer, scoreRequests } from './evaluate/evaluate-requests.js';
export type { ScoredItems, ScoreKind } from './evaluate/scored-items.js';
export type { NetworkCounters, NetworkOptions } from './hosts/host-network.js';
export {
  type EmulatedCluster,
  type EmulatedLaunchOptions,
  type EmulationSupport,
  emulationSupport,
  type HostOptions,
  launchOnHosts,
} from './hosts/hosts.js';
export { type ReadRequest, readRequests, writeRequests } from './requests/request-file.js';
export { type RecordOptions, type RequestRecorder, recordRequests } from './requests/request-recorder.js';
export { profileRequests, type SampledProfile, type SampleOptions } from './requests/request-sample.js';
