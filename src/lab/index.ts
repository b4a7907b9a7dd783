export { type CalibrateOptions, type Calibration, calibrate } from './calibrate/calibrate.js';
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
