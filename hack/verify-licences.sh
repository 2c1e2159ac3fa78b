#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that every Go file and every script names its licence, in its first line or right below #!.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
while IFS= read -r -d '' file; do
	[[ -f "$file" ]] || continue
	case "$file" in
	*.go) want='// SPDX-License-Identifier: Apache-2.0' ;;
	*) want='# SPDX-License-Identifier: Apache-2.0' ;;
	esac
	head -n 2 "$file" | grep -qxF -e "$want" || missing+=("$file")
done < <(git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard -- '*.go' '*.sh' '*.py' .ci Makefile)

if ((${#missing[@]} > 0)); then
	echo "These files do not name their licence: put \"SPDX-License-Identifier: Apache-2.0\", as a comment, in their first line (in a script below #!)" >&2
	printf '  %s\n' "${missing[@]}" >&2
	exit 1
fi
