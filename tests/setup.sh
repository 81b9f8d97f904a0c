#!/bin/bash
# Prepares .venv with the locked tools and the three distributions. Idempotent; run by `make setup`.
set -eu
cd "$(dirname "$0")/.."

python=
for candidate in python3 python3.13 python3.12 python3.11; do
	if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		python=$candidate
		break
	fi
done
[ -n "$python" ] || { echo "setup: needs Python 3.11 or newer, found none on PATH" >&2; exit 1; }

echo "setup: .venv with $("$python" --version)" >&2
if ! "$python" -m venv .venv 2>/dev/null; then
	# Debian keeps venv in a package of its own.
	version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	[ "$(id -u)" = 0 ] || { echo "setup: apt-get install python$version-venv, then again" >&2; exit 1; }
	apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "python$version-venv" >/dev/null
	"$python" -m venv .venv
fi
.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
	-e images/common -e images/controller -e images/speaker
echo "setup: ready" >&2
