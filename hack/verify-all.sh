#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every hack/verify-*.sh, whatever fails, and lists the failures at the end. None of them changes a file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()
for script in hack/verify-*.sh; do
	[[ "$script" == hack/verify-all.sh ]] && continue
	echo "== $script"
	"$script" || failed+=("$script")
done

if ((${#failed[@]} > 0)); then
	printf '\nThese failed, each with its cure above:\n'
	printf '  %s\n' "${failed[@]}"
	exit 1
fi
printf '\nAll verified.\n'
