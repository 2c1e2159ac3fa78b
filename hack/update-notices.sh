#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Writes THIRD_PARTY_NOTICES: the licences and notices of every module that the programs are linked of. An argument names
# another file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go run ./hack/notices >"${1:-THIRD_PARTY_NOTICES}.new"
mv "${1:-THIRD_PARTY_NOTICES}.new" "${1:-THIRD_PARTY_NOTICES}"
