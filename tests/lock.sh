#!/bin/bash
# Locks the requirements with hashes, for every platform and Python >= 3.11, naming no index host.
# `--check`: only prove, without a network, that each lock has what is asked for, pinned and with hashes.
set -eu
cd "$(dirname "$0")/.."
lock() {
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header "$1" -o "$2"
}
check() {
	awk '
		function plain(name) { gsub(/[-_.]+/, "-", name); return tolower(name) }
		function unhashed() { if (open != "") { print "lock: " FILENAME ": " open " has no hash: make lock"; bad = 1 } }
		/^ *(#|$)/ { next }
		FNR == NR { asked[plain($1)] = 1; next }
		/^[A-Za-z]/ {
			unhashed()
			open = $1
			if (open !~ /==/) { print "lock: " FILENAME ": " open " is not pinned: make lock"; bad = 1 }
			sub(/==.*/, "", $1)
			delete asked[plain($1)]
		}
		/^ +--hash=sha256:[0-9a-f]+/ { open = "" }
		/^ *-/ && !/^ +--hash=/ { print "lock: " FILENAME ": " $0 " does not belong here"; bad = 1 }
		END {
			unhashed()
			for (name in asked) { print "lock: " FILENAME " lacks " name ": make lock"; bad = 1 }
			exit bad
		}' "$1" "$2" >&2
}
[ "${1:-}" = --check ] && do=check || do=lock
"$do" requirements-dev.in requirements-dev.txt
"$do" requirements-fuzz.in requirements-fuzz.txt
for image in controller speaker; do "$do" images/requirements.in "images/$image/requirements.txt"; done
