#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Compares the Go benchmarks of the hot paths with those of another revision, such as the previous release. It runs each six
# times and prints benchstat's comparison. Benchmarks that only one revision has are shown alone. Allocations and bytes can
# be compared on any machine, times only on an idle one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if (($# < 1 || $# > 2)); then
	echo "usage: hack/bench-against.sh REVISION [BENCHMARKS], for example HEAD~20 'Read|Answer|List|Plan'" >&2
	exit 2
fi
revision=$1
benchmarks=${2:-Read|List|Answer|Plan}
packages=(./pkg/metricsapi ./pkg/guard)

into=$(mktemp -d)
trap 'git worktree remove --force "$into/tree" 2>/dev/null || true; rm -rf "$into"' EXIT
git worktree add --quiet --detach "$into/tree" "$revision"

# measure FOLDER FILE: runs the benchmarks of a checkout.
measure() {
	go -C "$1" test -run '^$' -bench "$benchmarks" -benchmem -count 6 -benchtime 200ms "${packages[@]}" >"$2" || {
		cat "$2" >&2
		exit 1
	}
}
echo "measuring $revision, then this checkout, some minutes each" >&2
measure "$into/tree" "$into/before.txt"
measure . "$into/now.txt"
go tool -modfile=hack/tools/benchstat/go.mod benchstat "$revision=$into/before.txt" "now=$into/now.txt"
