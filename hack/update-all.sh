#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs every hack/update-*.sh: each rewrites what the verify script of the same name checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for script in hack/update-*.sh; do
	[[ "$script" == hack/update-all.sh ]] && continue
	echo "== $script"
	"$script"
done
