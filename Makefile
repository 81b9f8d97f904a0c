# Thin targets; each is one command of the project's own tools. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := .venv/bin/python
PYTEST := $(PY) -m pytest
CLUSTER := $(PY) -m tests.cluster

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 24

# --- once -------------------------------------------------------------------------------------

.PHONY: setup
setup: .venv/.stamp ## prepare .venv: the three distributions and the tools
.venv/.stamp: requirements-dev.txt images/common/pyproject.toml images/controller/pyproject.toml images/speaker/pyproject.toml
	@bash tests/setup.sh
	@touch $@

.PHONY: lock
lock: setup ## write the locked, hashed requirements anew
	@bash tests/lock.sh

# --- see it -----------------------------------------------------------------------------------

.PHONY: demo demo-down
demo: setup ## a cluster, the chart, a Service that gets an address: everything a user does, step by step
	@$(PY) -m tests.cluster.demo up
demo-down: setup ## end the demo's cluster
	@$(PY) -m tests.cluster.demo down

.PHONY: cluster-up cluster-down
cluster-up: setup ## start the embedded cluster (three nodes, a client host) and say how to use it
	@$(CLUSTER) up
cluster-down: setup ## end the embedded cluster
	@$(CLUSTER) down

# --- check it ---------------------------------------------------------------------------------

.PHONY: test
test: setup lint verify ## everything once: unit, property, vectors, chart, integration, end to end
	@bash tests/prepare.sh
	@$(PY) -m tests.lanes

.PHONY: test-fast
test-fast: setup ## what needs neither root nor a cluster
	@$(PYTEST) tests/unit tests/property tests/vectors

.PHONY: test-chart
test-chart: setup ## the chart's suites: helm-unittest, rendering, schema, parity; and in a real cluster (root)
	@bash tests/prepare.sh
	@$(PYTEST) tests/chart tests/e2e/test_chart_*.py tests/e2e/test_upgrade.py

.PHONY: test-integration
test-integration: setup ## real packets and real routers in network namespaces (root)
	@$(PYTEST) tests/integration

.PHONY: e2e
e2e: setup ## end-to-end tests, in the embedded cluster, or in yours: KUBECONFIG=... make e2e
	@bash tests/prepare.sh
	@$(PYTEST) tests/e2e

.PHONY: accept
accept: setup ## repeat what has targets, and print each as met or not
	@$(PYTEST) -m accept -s tests

MINUTES ?= 10
.PHONY: fuzz
fuzz: setup ## fuzz all that a BGP or BFD peer can send, guided by coverage, for MINUTES=10
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes --upgrade --target .venv/fuzz -r requirements-fuzz.txt
	@PYTHONPATH=.venv/fuzz $(PY) tests/fuzz/routing.py -max_total_time=$$((60 * $(MINUTES))) -max_len=66000 -print_final_stats=1

.PHONY: bench
bench: setup ## measure, side by side with the machine's own limit
	@$(PY) -m tests.bench

.PHONY: lint
lint: setup ## ruff, mypy --strict, import-linter
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: format
format: setup ## let ruff format and fix
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

# --- what is generated and committed -------------------------------------------------------------

GENERATED := schema manifests chart-docs
.PHONY: generate verify verify-lock
generate: $(GENERATED:%=generate-%) ## write everything that is generated and committed
verify: $(GENERATED:%=verify-%) verify-lock ## prove that everything generated is fresh
verify-lock: ## the locks have every requirement, pinned, with hashes (no network: not whether newer ones exist)
	@bash tests/lock.sh --check

.PHONY: generate-schema verify-schema
generate-schema: setup ## bundle schema/ into the chart and the images
	@$(PY) schema/build.py
verify-schema: setup ## the bundles are fresh
	@$(PY) schema/build.py --check

.PHONY: generate-manifests verify-manifests
generate-manifests: setup ## manifests/ from the chart
	@$(PY) manifests/build.py
verify-manifests: setup ## manifests/ is fresh
	@$(PY) manifests/build.py --check

.PHONY: generate-chart-docs verify-chart-docs
generate-chart-docs: setup ## the chart's README, and the table of the original's values
	@$(PY) schema/values_table.py
	@"$$(python3 tests/cluster/toolchain.py helm-docs | cut -f2)" --chart-search-root chart --sort-values-order=file --log-level=warning
verify-chart-docs: setup ## both are fresh
	@python3 tests/cluster/toolchain.py helm helm-docs >/dev/null
	@$(PY) schema/values_table.py --check
	@$(PYTEST) -q tests/chart/test_chart_testing.py -k readme

# --- deliver it ---------------------------------------------------------------------------------

.PHONY: images
images: setup ## both images into dist/{controller,speaker}.tar, with their sizes and start times
	@$(PY) -m tests.cluster.images

.PHONY: package
package: setup ## the chart into dist/metallb-VERSION.tgz, with its index
	@bash tests/package.sh

.PHONY: clean
clean: ## remove what was made in the tree (caches outside it stay)
	@rm -rf dist .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
