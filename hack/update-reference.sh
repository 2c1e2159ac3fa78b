#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Writes the tables of docs/ that follow from the code. A test names what must be written by hand, such as the row of a
# new policy; hack/verify-reference.sh runs these tests, and others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go test -run 'Reference|Docs$' ./test/reference ./test/monitoring ./test/accidents ./test/mutants ./pkg/call -update
