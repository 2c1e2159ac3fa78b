#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that THIRD_PARTY_NOTICES has the licences of all modules that are linked into the programs, and that each licence
# permits that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
hack/update-notices.sh "$fresh"
if ! diff -u THIRD_PARTY_NOTICES "$fresh" | head -n 40; then
	echo "THIRD_PARTY_NOTICES is not up to date: run hack/update-notices.sh" >&2
	exit 1
fi
