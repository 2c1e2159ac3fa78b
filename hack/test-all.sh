#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# `make test`: every test but those on real nodes. What mostly waits runs beside what mostly computes, and that gives way (nice):
# first the drains, in two halves with a stage each, beside all that joins no call; then call-gate's real agents and the end-to-end
# tests, one after the other, for they are exact to seconds. What each printed follows when it has ended. Fails if anything failed.
set -euo pipefail
set -m # each lane is a process group, which can be interrupted
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Tests of drains that have the guard, LiveKit or kube-apiserver for themselves: one after the other. All others tell stories side by
# side. A test that is missing here runs with those.
alone='^Test(CallsDoctor|DoorsOpen|Drain|Failover|GuardKilled.*|TwoGuards|APIServer.*|LiveKitDown|UnlockLeavesTheGrace|Steady|Storm|Unlock|UninstallWithoutGuard|BudgetOwnerDeleted)$'

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=()

# lane NAME COMMAND...: in the background, its output kept.
declare -A lanes
lane() {
	local name=$1
	shift
	"$@" >"$logs/$name" 2>&1 &
	lanes[$name]=$!
}
# A stage clears itself away when its test is interrupted.
interrupted() {
	for pid in "${lanes[@]}"; do kill -INT -- "-$pid" 2>/dev/null || true; done
	wait
	exit 130
}
trap interrupted INT TERM
# ended NAME: waits for a lane, and shows what it printed.
ended() {
	wait "${lanes[$1]}" || failed+=("$1")
	printf '\n----- %s, until %s\n' "$1" "$(date -u +%H:%M:%S)"
	cat "$logs/$1"
}
e2e() { go test -v -count=1 -p 1 -timeout 60m "$@"; }
calm() { nice -n 19 make --keep-going unit charts && nice -n 19 go test -v -count=1 -p 1 -timeout 60m ./test/doors/... ./test/helm/...; }

lane drains-alone e2e -run "$alone" ./test/drain -part drain-alone
lane drains e2e -skip "$alone" ./test/drain
lane calm calm
for name in drains-alone drains calm; do ended "$name"; done
lane gate e2e ./test/gate/...
ended gate
lane e2e e2e ./test/e2e/...
ended e2e

((${#failed[@]} == 0)) || { printf 'failed: %s\n' "${failed[*]}" >&2; exit 1; }
