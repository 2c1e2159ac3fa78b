#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Generates the Go code of pkg/keda/externalscaler/externalscaler.proto, next to it or into the given folder. It does not need
# protoc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source=pkg/keda/externalscaler/externalscaler.proto
into=$(realpath "${1:-$(dirname "$source")}")
messages=$(go -C hack/tools/protoc tool -n protoc-gen-go)
services=$(go -C hack/tools/protoc tool -n protoc-gen-go-grpc)
go -C hack/tools/protoc run . "$PWD/$source" "$into" "$messages" "$services"
