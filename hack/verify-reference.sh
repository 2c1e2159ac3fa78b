#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Checks that docs/ has every flag, metric, Event reason, label, annotation, admission policy, right and hold, and none that
# no longer exists, and that every command in the documentation exists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go test -run 'Reference|Documented|Documentation|Annotations|Rights|Docs|Commands' \
	./test/reference ./test/monitoring ./test/accidents ./test/mutants ./pkg/call ./pkg/verdict/rules ./manifests || {
	echo "docs/ does not match the code: run hack/update-reference.sh, then edit what its messages still name" >&2
	exit 1
}
