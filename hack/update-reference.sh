#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Writes the tables of docs/ that follow from the code. What hands have to write, such as the row of a new policy, a test
# names; hack/verify-reference.sh runs these tests, and others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go test -run 'Reference|Docs$' ./test/reference ./test/monitoring ./test/accidents ./test/mutants ./pkg/call -update
