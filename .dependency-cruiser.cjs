// Holds the rooms of src/ to the levels of ARCHITECTURE.md: a room imports its own level and those below, without cycles.
const levels = [
  ['cli'],
  ['lab'],
  ['cluster', 'pack', 'import', 'serve'],
  ['predictor', 'shard'],
  ['observe', 'rpc', 'endpoints', 'plan', 'engine'],
  ['model'],
  ['tables'],
];

const downwards = levels.slice(1).map((rooms, level) => ({
  name: `${rooms.join('-')}-import-downwards`,
  severity: 'error',
  from: { path: `^src/(${rooms.join('|')})/` },
  to: {
    path: `^src/((${levels
      .slice(0, level + 1)
      .flat()
      .join('|')})/|index\\.ts$)`,
  },
}));

module.exports = {
  forbidden: [
    ...downwards,
    { name: 'predictor-not-shard', severity: 'error', from: { path: '^src/predictor/' }, to: { path: '^src/shard/' } },
    { name: 'shard-not-predictor', severity: 'error', from: { path: '^src/shard/' }, to: { path: '^src/predictor/' } },
    {
      name: 'what-serves-needs-no-lab',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(lab|cli)/' },
      to: { path: '^src/lab/' },
    },
    { name: 'engine-not-rpc', severity: 'error', from: { path: '^src/engine/' }, to: { path: '^src/(rpc|plan|observe)/' } },
    {
      name: 'messages-not-sockets',
      severity: 'error',
      from: { path: '^src/rpc/(messages|codec)\\.ts$' },
      to: { path: '^src/rpc/transport/' },
    },
    { name: 'errors-import-nothing', severity: 'error', from: { path: '^src/errors\\.ts$' }, to: { path: '^src/' } },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-orphans', severity: 'error', from: { orphan: true, path: '^src/' }, to: {} },
    {
      // Addons are loaded by a require of their own.
      name: 'only-the-loader-loads-addons',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/engine/load-addon\\.ts$' },
      to: { path: '^(node:)?module$' },
    },
    {
      name: 'transports-know-no-engine',
      severity: 'error',
      from: { path: '^src/rpc/transport/' },
      to: { path: '^src/engine/', pathNot: '^src/engine/native\\.ts$' },
    },
    {
      name: 'sockets-only-in-the-transport',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/rpc/transport/(zeromq|zap)\\.ts$' },
      to: { path: 'node_modules/zeromq' },
    },
    {
      name: 'no-undeclared-packages',
      severity: 'error',
      from: { path: '^src/' }, // ECharts is an optional peer: charts.ts says so when it is missing.
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown'], pathNot: 'node_modules/echarts/' },
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
  },
};
