#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Makes the Go code of pkg/keda/externalscaler/externalscaler.proto, beside it or into the folder that is given. protoc itself
# is not needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source=pkg/keda/externalscaler/externalscaler.proto
into=$(realpath "${1:-$(dirname "$source")}")
messages=$(go -C hack/tools/protoc tool -n protoc-gen-go)
services=$(go -C hack/tools/protoc tool -n protoc-gen-go-grpc)
go -C hack/tools/protoc run . "$PWD/$source" "$into" "$messages" "$services"
