// Installs and builds what npm run bench -- SUITE --peers compares with, outside the checkout: node bench/peers/setup.mjs
// Python environments (several GB) for torch and for fbgemm, which has to match a version of PyTorch; onnxruntime-node; small C++ programs.
// What cannot be had here is said, and the bench says it again on that peer's lines.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const target = process.env.TERABAG_BENCH_PEERS ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'terabag', 'peers');
const missing = [];

function run(command, ...args) {
  console.log(`${command} ${args.join(' ')}`);
  return spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0;
}

function attempt(what, remedy, work) {
  if (work()) console.log(`${what}: ready`);
  else missing.push(`${what}: ${remedy}`);
}

function environment(name, ...packages) {
  return environmentOf('python3', name, ...packages);
}

function environmentOf(interpreter, name, ...packages) {
  const python = join(target, name, 'bin', 'python');
  if (!existsSync(python) && !run(interpreter, '-m', 'venv', join(target, name))) return false;
  return run(python, '-m', 'pip', 'install', '--quiet', ...packages);
}

/** What an environment does not have itself is that of torch's: PyTorch is several GB. */
function withTorch(name) {
  const packages = (of) => {
    const lib = join(target, of, 'lib');
    return join(lib, readdirSync(lib).find((entry) => entry.startsWith('python')) ?? '', 'site-packages');
  };
  writeFileSync(join(packages(name), 'torch-environment.pth'), `${packages('torch')}\n`);
  return true;
}

function build(name, source, ...flags) {
  return run('c++', '-std=c++17', '-O3', '-march=native', '-o', join(target, name), join(here, source), ...flags);
}

mkdirSync(target, { recursive: true });
attempt('limits', 'a C++ compiler is needed', () => build('limits', 'limits.cc'));
attempt('onednn', 'apt-get install libdnnl-dev', () => build('onednn', 'gemm_peer.cc', '-DPEER_ONEDNN', '-ldnnl'));
attempt('openblas', 'apt-get install libopenblas-dev', () => build('openblas', 'gemm_peer.cc', '-DPEER_OPENBLAS', '-lopenblas'));
attempt('flat_hash_map', 'apt-get install libabsl-dev', () =>
  build('flat_hash_map', 'flat_hash_map.cc', '-labsl_raw_hash_set', '-labsl_hash', '-labsl_city', '-labsl_low_level_hash'),
);
// Its install script fetches GPU libraries; the CPU's are in the package.
attempt('onnxruntime', 'npm has no onnxruntime-node for this platform', () =>
  run('npm', 'install', '--ignore-scripts', '--no-audit', '--prefix', join(target, 'ort'), 'onnxruntime-node'),
);
attempt('torch', 'apt-get install python3-venv', () =>
  environment('torch', 'torch', 'numpy', 'onnx', 'onnxscript', 'safetensors', 'fastapi', 'uvicorn[standard]'),
);
attempt('kserve', 'no kserve for this Python', () => environment('kserve', 'kserve') && withTorch('kserve'));
// Carries Triton's server, whose Python backend is linked to the system's libpython: only the same version has the standard library that it needs.
attempt(
  'pytriton',
  'no nvidia-pytriton for this platform, or no python3-venv',
  () =>
    environmentOf(existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3', 'pytriton', 'nvidia-pytriton') && withTorch('pytriton'),
);
// The library is built for one version of PyTorch, which its package does not name: 1.9 loads with 2.14.
attempt('fbgemm', 'no fbgemm-gpu-cpu and torch here that load together', () => {
  const packages = [
    'torch==2.14.1',
    'fbgemm-gpu-cpu==1.9.0',
    'numpy',
    'tensordict',
    'torchmetrics',
    'tqdm',
    'psutil',
    'iopath',
    'pyre-extensions',
  ];
  return (
    environment('fbgemm', ...packages) &&
    run(join(target, 'fbgemm', 'bin', 'python'), '-m', 'pip', 'install', '--quiet', '--no-deps', 'torchrec')
  );
});
for (const line of missing) console.error(`missing: ${line}`);
