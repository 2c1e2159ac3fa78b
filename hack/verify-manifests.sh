#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that Helm finds nothing wrong with charts/callguard, and that manifests/ matches its rendering.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
if ! go tool -modfile=hack/tools/helm/go.mod helm lint --strict --quiet charts/callguard; then
	echo "Helm complains about charts/callguard: correct what it names" >&2
	failed=1
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
hack/update-manifests.sh "$fresh"
for file in "$fresh"/*.yaml; do
	if ! diff -u "manifests/${file##*/}" "$file"; then
		echo "manifests/${file##*/} is not what charts/callguard renders to: run hack/update-manifests.sh" >&2
		failed=1
	fi
done
exit "$failed"
