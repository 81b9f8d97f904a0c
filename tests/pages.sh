#!/bin/bash
# The chart repository's index on the branch gh-pages of `origin`, as a release reads and writes it:
#   pages.sh get FILE   the index that is there into FILE; no file where there is none yet
#   pages.sh put FILE   FILE is the index from now on
set -eu
cd "${PAGES_REPOSITORY:-$(dirname "$0")/..}"
verb=$1 file=$(realpath -m "$2") branch=gh-pages

there=$(git ls-remote --heads origin "$branch")
[ -z "$there" ] || git fetch --quiet --depth 1 origin "$branch"

case $verb in
get)
	rm -f "$file"
	if [ -n "$there" ] && git cat-file -e FETCH_HEAD:index.yaml 2>/dev/null; then
		git show FETCH_HEAD:index.yaml >"$file"
	fi
	;;
put)
	tree=$(mktemp -d)
	trap 'git worktree remove --force "$tree"' EXIT
	if [ -n "$there" ]; then
		git worktree add --quiet --detach "$tree" FETCH_HEAD
	else
		git worktree add --quiet --detach --no-checkout "$tree"
		git -C "$tree" checkout --quiet --orphan "$branch"
		git -C "$tree" rm -r --cached --quiet .
	fi
	cp "$file" "$tree/index.yaml"
	git -C "$tree" add index.yaml
	git -C "$tree" -c user.name=release -c user.email=release@users.noreply.github.com commit --quiet -m "Publish the index"
	git -C "$tree" push --quiet origin "HEAD:refs/heads/$branch"
	;;
*)
	echo "pages: get FILE or put FILE" >&2
	exit 2
	;;
esac
