#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs the linters of .golangci.yaml over the product and its tests. The go command builds golangci-lint from
# hack/tools/lint and keeps it in its build cache. Arguments go to golangci-lint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! go tool -modfile=hack/tools/lint/go.mod golangci-lint run "$@" ./...; then
	echo "The linters complain: correct what they name; hack/update-lint.sh corrects the formatting and whatever a linter can correct itself." >&2
	exit 1
fi
