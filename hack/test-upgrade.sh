#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Builds the call-gate of an earlier commit and upgrades pods that have it, with calls up: test-upgrade.sh COMMIT. It needs the
# history of this checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=${1:?give the commit to upgrade from, such as 5a0fa9f}
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
	echo "commit $commit is not in the history of this checkout; run git fetch --unshallow" >&2
	exit 1
fi
old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$commit" | tar -x -C "$old"
CGO_ENABLED=0 go build -C "$old" -trimpath -buildvcs=false -ldflags='-s -w' -o "$old/call-gate" ./cmd/call-gate
CALLGUARD_OLD_GATE=$old/call-gate go test -v -count=1 -timeout 30m -run '^TestUpgradeOfGates$' ./test/drain
