#!/bin/bash
# Locks the requirements with hashes, for every platform and Python >= 3.11, naming no index host.
set -eu
cd "$(dirname "$0")/.."
lock() {
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header "$1" -o "$2"
}
lock requirements-dev.in requirements-dev.txt
for image in controller speaker; do lock images/requirements.in "images/$image/requirements.txt"; done
