#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that Helm finds nothing wrong with the charts with each of their ci/*-values.yaml, that they render the same
# twice and only from their values, and that the files that hack/update-charts.sh writes are up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

helm=$(go tool -n -modfile=hack/tools/helm/go.mod helm)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
failed=0
wrong() {
	printf '%s\n' "$1" >&2
	failed=1
}

for chart in charts/*; do
	# Functions that differ between renders, and must not create a secret. _cluster.tpl looks at the cluster, but only to
	# refuse.
	if grep -rnE 'lookup "|rand(Alpha|Numeric|Ascii|Bytes|Int)|uuidv4|gen(PrivateKey|CA|SelfSigned|Signed)|\(now|now \|' \
		"$chart/templates" $(compgen -G "$chart/charts/*/templates") |
		grep -v '/_cluster\.tpl:.*lookup "'; then
		wrong "$chart renders differently each time: take what it needs from its values"
	fi

	for values in "$chart"/ci/*-values.yaml; do
		[[ -f "$values" ]] || continue
		"$helm" lint --strict --quiet --with-subcharts "$chart" -f "$values" 2>"$fresh/log" || {
			cat "$fresh/log" >&2
			wrong "Helm complains about $chart with $values: correct what it names"
			continue
		}
		"$helm" template release "$chart" -n voice -f "$values" >"$fresh/one" 2>/dev/null
		"$helm" template release "$chart" -n voice -f "$values" >"$fresh/two" 2>/dev/null
		cmp "$fresh/one" "$fresh/two" || wrong "$chart renders differently each time with $values"
	done

	# Generators write into a copy.
	copy=$fresh/$(basename "$chart")
	cp -r "$chart" "$copy"
	hack/update-charts.sh "$copy"
	for file in values.schema.json README.md; do
		[[ -f "$copy/$file" ]] || continue
		if ! diff -u "$chart/$file" "$copy/$file"; then
			wrong "$chart/$file is not what values.yaml says: run hack/update-charts.sh"
		fi
	done
done
exit "$failed"
