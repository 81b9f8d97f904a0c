#!/bin/bash
# The chart, linted and packaged: dist/metallb-VERSION.tgz and dist/index.yaml. Run by `make package`.
#
# From the environment, all optional:
#   OUT              the folder to write to, in place of dist
#   CHART_URL        where that folder will be served from, for index.yaml (else its entries are relative)
#   SIGN_KEY         name of a GPG key: writes metallb-VERSION.tgz.prov too. With it:
#   SIGN_KEYRING       its secret keyring in GnuPG's old format (gpg --export-secret-keys >FILE)
#   SIGN_PASSPHRASE    a file with the passphrase (empty for a key without one)
#   PUSH             an OCI registry to push the package to, as oci://HOST/PATH
#   PUSH_OPTIONS     further options of `helm push`, such as --plain-http or --ca-file FILE
set -eu
cd "$(dirname "$0")/.."
say() { echo "package: $*" >&2; }

helm=$(python3 tests/cluster/toolchain.py helm | awk '$1 == "helm" { print $2 }')
out=${OUT:-dist}
mkdir -p "$out"
work=$(mktemp -d "$out/.package.XXXXXX")
trap 'rm -rf "$work"' EXIT

"$helm" lint --quiet --strict chart

sign=()
if [ -n "${SIGN_KEY:-}" ]; then
	[ -r "${SIGN_KEYRING:-}" ] || { say "SIGN_KEY needs SIGN_KEYRING: gpg --export-secret-keys >FILE"; exit 1; }
	sign=(--sign --key "$SIGN_KEY" --keyring "$SIGN_KEYRING")
	[ -z "${SIGN_PASSPHRASE:-}" ] || sign+=(--passphrase-file "$SIGN_PASSPHRASE")
fi
"$helm" package chart --destination "$work" "${sign[@]}" >/dev/null
"$helm" repo index "$work" ${CHART_URL:+--url "$CHART_URL"}

# Moved when all is there: another run's reader never sees half a file.
package=$out/$(basename "$work"/*.tgz)
rm -f "$package.prov" # of an earlier package, which it would not fit
mv "$work"/* "$out/"
echo "$package"
[ ! -e "$package.prov" ] || echo "$package.prov"
echo "$out/index.yaml"

if [ -n "${PUSH:-}" ]; then
	# Word splitting is wanted: PUSH_OPTIONS holds several options.
	# shellcheck disable=SC2086
	"$helm" push "$package" "$PUSH" ${PUSH_OPTIONS:-} >&2
fi
