#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that go.mod and go.sum, of the product and of test/charts, have exactly what the code needs, and that each
# module under hack/tools has all that its tools need. The latter are not tidied, because tidy also wants the tests of
# every dependency, and some of those need module versions that the public proxy does not serve.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
for dir in . test/charts; do
	if ! go -C "$dir" mod tidy -diff; then
		echo "go.mod or go.sum in $dir is not tidy: run hack/update-modules.sh" >&2
		failed=1
	fi
done
for mod in hack/tools/*/go.mod; do
	dir=$(dirname "$mod")
	if ! GOWORK=off go -C "$dir" list -mod=readonly -deps tool >/dev/null; then
		echo "$dir does not name all that its tools need: run \"go -C $dir get tool\"" >&2
		failed=1
	fi
done
exit "$failed"
