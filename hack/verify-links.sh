#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that every link in a Markdown file to a file of this repository has a target, and its anchor a heading.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# anchors FILE: the anchors of its headings, as GitHub generates them.
anchors() {
	grep -E '^#+ ' "$1" | sed -E 's/^#+ //' | tr '[:upper:]' '[:lower:]' | sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}

wrong=0
while IFS=: read -r file link; do
	target=${link%%#*} anchor=
	[[ "$link" == *#* ]] && anchor=${link#*#}
	path=$file
	[[ -n "$target" ]] && path=$(dirname "$file")/$target
	if [[ ! -e "$path" ]]; then
		echo "$file: ($link): there is no such file" >&2
		wrong=1
	elif [[ -n "$anchor" ]] && ! anchors "$path" | grep -qxF -- "$anchor"; then
		echo "$file: ($link): $path has no such heading" >&2
		wrong=1
	fi
done < <(git ls-files -co --exclude-standard '*.md' | grep -v /testdata/ | xargs grep -oE '\]\([^) ]+\)' /dev/null | grep -vE '\]\((https?|mailto):' | sed -E 's/\]\(([^)]*)\)$/\1/')
exit $wrong
