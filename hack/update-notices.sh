#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Writes THIRD_PARTY_NOTICES: the licences and notices of every module that is linked into the programs. An argument names
# another file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
go run ./hack/notices >"$fresh"
cat "$fresh" >"${1:-THIRD_PARTY_NOTICES}"
