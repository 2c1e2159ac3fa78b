#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Runs a tool of the go command, as its -toolexec. The linker gets another package time, the file CALLGUARD_TIME, and
# another version, so that Go's cache does not mix up its programs with ordinary ones.
set -euo pipefail

if [[ ${1##*/} != link ]]; then
	exec "$@"
fi
if [[ ${2:-} == -V=full ]]; then
	version=$("$@")
	sum=$(sha256sum <"$CALLGUARD_TIME")
	echo "$version clock=${sum:0:16}"
	exit
fi
previous=
for argument in "$@"; do
	if [[ $previous == -importcfg ]]; then
		sed -i "s|^packagefile time=.*|packagefile time=$CALLGUARD_TIME|" "$argument"
	fi
	previous=$argument
done
exec "$@"
