#!/bin/bash
# The chart, linted and packaged: dist/metallb-VERSION.tgz and dist/index.yaml. Run by `make package`.
#
# From the environment, all optional:
#   OUT              the folder to write to, in place of dist
#   IMAGE_REGISTRY   where the images were pushed, as HOST/PATH: takes the place of localhost in the chart's defaults
#   SOURCE_URL       where the sources are: home and sources of the chart
#   CHART_URL        where that folder will be served from, for index.yaml (else its entries are relative)
#   INDEX            an index.yaml with the packages before this one; none, if there is no such file
#   SIGN_KEY         name of a GPG key: writes metallb-VERSION.tgz.prov too. With it:
#   SIGN_KEYRING       its secret keyring in GnuPG's old format (gpg --export-secret-keys >FILE)
#   SIGN_SECRET      in place of both: the key itself (what gpg --export-secret-keys --armor prints)
#   SIGN_PASSPHRASE  a file with the key's passphrase (empty for a key without one)
#   PUSH             an OCI registry to push the package to, as oci://HOST/PATH
#   PUSH_OPTIONS     further options of `helm push`, such as --plain-http or --ca-file FILE
set -eu
cd "$(dirname "$0")/.."
say() { echo "package: $*" >&2; }

helm=$(python3 tests/cluster/toolchain.py helm | awk '$1 == "helm" { print $2 }')
out=${OUT:-dist}
mkdir -p "$out"
work=$(mktemp -d "$out/.package.XXXXXX")
private=$(mktemp -d)
trap 'rm -rf "$work" "$private"' EXIT

# A copy, so that nothing that a release writes into the chart gets into the tree.
chart=$private/metallb
cp -R chart "$chart"
if [ -n "${IMAGE_REGISTRY:-}" ]; then
	grep -rlZ localhost/metallb/ "$chart" | xargs -0 sed -i "s|localhost/metallb/|$IMAGE_REGISTRY/metallb/|g"
fi
if [ -n "${SOURCE_URL:-}" ]; then
	printf 'home: %s\nsources:\n  - %s\n' "$SOURCE_URL" "$SOURCE_URL" >>"$chart/Chart.yaml"
fi
"$helm" lint --quiet --strict "$chart"

if [ -n "${SIGN_SECRET:-}" ]; then
	gpg=(gpg --homedir "$private" --batch --quiet)
	SIGN_KEYRING=$private/secret.gpg
	"${gpg[@]}" --dearmor <<<"$SIGN_SECRET" >"$SIGN_KEYRING"
	SIGN_KEY=$("${gpg[@]}" --with-colons --show-keys "$SIGN_KEYRING" | awk -F: '$1 == "uid" { print $10; exit }')
fi
sign=()
if [ -n "${SIGN_KEY:-}" ]; then
	[ -r "${SIGN_KEYRING:-}" ] || { say "SIGN_KEY needs SIGN_KEYRING: gpg --export-secret-keys >FILE"; exit 1; }
	sign=(--sign --key "$SIGN_KEY" --keyring "$SIGN_KEYRING")
	[ ! -s "${SIGN_PASSPHRASE:-}" ] || sign+=(--passphrase-file "$SIGN_PASSPHRASE")
fi
merge=()
[ ! -e "${INDEX:-}" ] || merge=(--merge "$INDEX")
"$helm" package "$chart" --destination "$work" "${sign[@]}" >/dev/null
"$helm" repo index "$work" ${CHART_URL:+--url "$CHART_URL"} "${merge[@]}"

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
