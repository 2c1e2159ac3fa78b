#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Tidies the product's go.mod and go.sum. hack/verify-modules.sh says why the modules under hack/tools are left.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go mod tidy
