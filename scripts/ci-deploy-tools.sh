#!/usr/bin/env bash
# Installs what the tests of terabag deploy hold its files against, where it is not there yet: kubernetes-validate and helm, outside of the checkout, and
# systemd-analyze, of systemd, which need not run. A tool that cannot be installed is told; its tests are skipped then.
# helm takes minutes of two cores to compile: it is left out with --quick.
set -uo pipefail
dir=${TERABAG_DEPLOY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/terabag-deploy-tools}
helm=helm.sh/helm/v3/cmd/helm@v3.22.0
validate=kubernetes-validate==1.37.0
mkdir -p "$dir"
failed=0
missing() {
  echo "cannot be installed: $1" >&2
  failed=1
}
if [ ! -x "$dir/venv/bin/kubernetes-validate" ]; then
  { python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "$validate"; } || missing kubernetes-validate
fi
if ! command -v systemd-analyze > /dev/null; then
  { command -v apt-get > /dev/null && apt-get install -y --no-install-recommends systemd > /dev/null; } || missing systemd-analyze
fi
if [ "${1:-}" != --quick ] && [ ! -x "$dir/bin/helm" ] && ! command -v helm > /dev/null; then
  { command -v go > /dev/null && GOBIN="$dir/bin" go install "$helm"; } || missing helm
fi
exit "$failed"
