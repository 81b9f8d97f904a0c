#!/bin/bash
# Fetches what the tests need and is not in .venv: Debian packages, and programs built from Go
# modules into a cache outside the tree. Says what it does; quick the second time.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" = 0 ]; then
	python3 tests/cluster/toolchain.py cluster images wire routers monitoring >/dev/null
else
	echo "prepare: not root: what needs network namespaces will be skipped, visibly" >&2
fi
python3 tests/cluster/toolchain.py helm helm-unittest kubeconform helm-docs containerd kubernetes helm4 chart-testing actionlint prometheus-operator >/dev/null
# The images' base and libraries, the demo's nginx: no test has to wait for the network.
[ "$(id -u)" != 0 ] || .venv/bin/python -m tests.cluster prepare
# Their test is skipped, visibly, where these cannot be had; in continuous integration that is a failure.
python3 tests/cluster/toolchain.py argo-cd flux-source-controller flux-helm-controller >/dev/null ||
	echo "prepare: without Flux and Argo CD: tests/e2e/test_chart_gitops.py will be skipped" >&2
