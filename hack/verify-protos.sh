#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that the Go code of KEDA's protocol matches its definition.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
hack/update-protos.sh "$fresh"
for file in "$fresh"/*.go; do
	if ! diff -u "pkg/keda/externalscaler/$(basename "$file")" "$file"; then
		echo "pkg/keda/externalscaler/$(basename "$file") is not up to date: run hack/update-protos.sh" >&2
		exit 1
	fi
done
