#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Builds call-gate and drain-guard of an earlier commit, and upgrades pods with that gate and a cluster with that guard
# and its manifests, during calls: test-upgrade.sh COMMIT. It needs the history of this checkout.
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
for program in call-gate drain-guard; do
	CGO_ENABLED=0 go build -C "$old" -trimpath -buildvcs=false -ldflags='-s -w' -o "$old/$program" "./cmd/$program"
done
CALLGUARD_OLD=$old go test -v -count=1 -tags upgrade -timeout 30m -run '^TestUpgradeOf' ./test/drain
