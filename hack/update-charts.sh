#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Generates from the charts' values.yaml: values.schema.json, for charts with "# @schema" in it, and README.md, for
# charts with a README.md.gotmpl. Arguments are folders of charts; the default is all of charts/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if (($# == 0)); then
	set -- charts/*
fi

docs=$(go tool -n -modfile=hack/tools/helm-docs/go.mod helm-docs)

for chart in "$@"; do
	if grep -q '# @schema' "$chart/values.yaml"; then
		schema=$(go run ./hack/schema "$chart")
		printf '%s\n' "$schema" >"$chart/values.schema.json"
	fi
	if [[ -f "$chart/README.md.gotmpl" ]]; then
		# Its warnings are about the included library chart, which has no values.
		"$docs" --log-level error --chart-search-root "$chart" --chart-to-generate "$chart" \
			--sort-values-order file --ignore-non-descriptions
	fi
done
