#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Fuzzes each target for so long, one target after another: hack/fuzz.sh 1m. What it finds is kept in the package's
# testdata/fuzz, which `go test` then runs with the seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-1m}

grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z]+' pkg | sort | while IFS=: read -r file target; do
	echo "== ${file%/*} ${target#func }"
	go test -run '^$' -fuzz "^${target#func }\$" -fuzztime "$each" -fuzzminimizetime 1s "./${file%/*}"
done
