#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that the table of packages in ARCHITECTURE.md has every package, or a folder above it, and none that does not exist.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

named=$(grep -E '^\| `' ARCHITECTURE.md | cut -d '|' -f 2 | grep -oE '`(pkg|cmd|hack|test|charts|manifests)[^`]*`' | tr -d '`' | sort -u)
packages=$(go list -f '{{.Dir}}' ./... | sed "s#^$PWD/##")
failed=0
set -f # cmd/*/app is a pattern
for room in $named; do
	if ! compgen -G "$room" >/dev/null; then
		echo "ARCHITECTURE.md has a row for $room, which does not exist" >&2
		failed=1
	fi
done
for package in $packages test/charts; do
	found=
	for room in $named; do
		exactly="^${room//\*/[^/]+}\$"
		if [[ "$package" =~ $exactly || "$room" != cmd/* && "$package" == "$room"/* ]]; then
			found=yes
			break
		fi
	done
	if [[ -z "$found" ]]; then
		echo "ARCHITECTURE.md has no row for $package: add what it knows, and what it does not do" >&2
		failed=1
	fi
done
exit "$failed"
