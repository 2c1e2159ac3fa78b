#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Builds callguard and the demo, and runs it. Flags are passed to the demo, such as --keep.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cat <<'END'
callguard demo: a cluster on this machine, calls, an autoscaler, three drains.
The show takes under 4 minutes. The first time, Kubernetes, etcd and LiveKit
are built before: 10 to 15 minutes on two idle cores. They stay in your cache
folder. Ctrl-C ends it at any time, and leaves nothing running.
END
echo "building callguard and the demo"
hack/build.sh bin/ ./cmd/...
hack/build.sh _output/demo ./hack/demo
exec _output/demo --programs bin "$@"
