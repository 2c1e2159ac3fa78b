#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs the tests that depend on clocks with the programs' clocks ten minutes apart, one way and then the other: guards,
# metrics-adapter, gates, kube-apiserver, controllers and nodes. hack/cluster/clock builds such programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stories='Drain|DrainOfAStatefulSet|DrainWithoutRoom|CordonThatIsTolerated|Rollout|ScaleDownTakesTheIdle|ThinSpread|NodeDies|NodeComesBack|Taint|Deadline|Failover|Calls'
for apart in 10m -10m; do
	go test -v -count=1 -timeout 30m -run "^Test($stories)\$" ./test/drain -clocks "$apart"
done
