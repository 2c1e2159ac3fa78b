#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Formats the code and applies the corrections that the linters offer. hack/verify-lint.sh reports the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go tool -modfile=hack/tools/lint/go.mod golangci-lint run --fix --issues-exit-code 0 ./...
