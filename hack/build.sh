#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Builds packages of callguard into a folder, or a single package into a file, and shows the progress:
#   hack/build.sh bin/ ./cmd/...
# The flags are those of the local cluster's programs (hack/cluster/local), so that shared packages are compiled
# once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=$1
shift
export CGO_ENABLED=0
build=(build -trimpath -buildvcs=false -ldflags "-s -w" -o "$output" "$@")

# First the go command lists what it would compile, which takes a moment.
echo "$output: counting what is to be built"
total=$(go "${build[0]}" -n "${build[@]:1}" 2>&1 | grep -c '/compile -o ' || true)

# left N: estimates the remaining time from the pace so far; prints nothing if too little is done.
left() {
	if (($1 >= total)); then
		printf ', linking'
		return
	fi
	if (($1 * 20 < total)); then return; fi
	local rest=$((SECONDS * (total - $1) / $1))
	printf ', about %d:%02d left' $((rest / 60)) $((rest % 60))
}

follow() {
	local compiled=0 said=0 line
	while true; do
		if IFS= read -r -t 2 line; then
			case $line in
			"exit "[0-9]*) return "${line#exit }" ;;
			*[[:space:]#:]*) printf '%s\n' "$line" >&2 ;; # messages of the compiler
			*) compiled=$((compiled + 1)) ;;
			esac
		elif (($? <= 128)); then # not the time limit: the build has exited
			return 1
		fi
		if ((SECONDS >= said + 5)); then
			said=$SECONDS
			printf '%s: %d of %d packages compiled, %d:%02d%s\n' "$output" "$compiled" "$total" $((said / 60)) $((said % 60)) "$(left "$compiled")"
		fi
	done
}

SECONDS=0
{
	status=0
	go "${build[0]}" -v "${build[@]:1}" 2>&1 || status=$?
	echo "exit $status"
} | follow
