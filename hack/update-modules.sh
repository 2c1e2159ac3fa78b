#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Tidies go.mod and go.sum of the product and of test/charts. hack/verify-modules.sh says why the modules under
# hack/tools are left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go mod tidy
go -C test/charts mod tidy
