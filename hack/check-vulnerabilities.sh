#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Looks for known vulnerabilities in what the programs call, and in the Go version that builds releases. Go's vulnerability
# database is read as module golang.org/x/vulndb, so a module proxy is enough, and the result is that of one day.
# hack/tools/vuln pins the day; "go -C hack/tools/vuln get golang.org/x/vulndb@latest" updates it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

database=$(mktemp -d)
trap 'rm -rf "$database"' EXIT
tools=-modfile=hack/tools/vuln/go.mod
GOTOOLCHAIN=$(go mod edit -json | sed -n 's/^.*"Toolchain": "\(.*\)".*$/\1/p')
export GOTOOLCHAIN
go mod download "$tools" golang.org/x/vulndb
source=$(go list -m "$tools" -f '{{.Dir}} {{.Version}}' golang.org/x/vulndb)
echo "database of ${source#* }"
go run "$tools" golang.org/x/vulndb/cmd/indexdb -vulns "${source% *}/data/osv" -out "$database"
for system in linux darwin windows; do
	programs=./cmd/...
	[[ "$system" == linux ]] || programs=./cmd/kubectl-calls # the others are released for Linux only
	echo "$programs on $system"
	go build "$tools" -o "$database/govulncheck" golang.org/x/vuln/cmd/govulncheck
	CGO_ENABLED=0 GOOS=$system "$database/govulncheck" -db "file://$database" "$programs"
done
