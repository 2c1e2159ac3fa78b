// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"io"

	"github.com/spf13/pflag"
)

// unlockUsage says what `drain-guard unlock` does, and what it may cost.
func unlockUsage(w io.Writer, fs *pflag.FlagSet) {
	_, _ = fmt.Fprintf(w, `drain-guard unlock lets go of every guarded pod, and deletes none.

Pods that are aside go back to their ReplicaSets, which delete what they have too
many of: a call in such a pod has the pod's termination grace and no more. To lose
no call, wait until no pod is aside or draining, or give pods a grace as long as
their calls. Pods that take no new call never will again; they are named, with the
command that replaces them.

Flags:
%s`, fs.FlagUsages())
}
