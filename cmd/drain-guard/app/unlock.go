// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
)

// afterUninstall returns the time limits of an unlock after an uninstall: applying all
// objects takes seconds, and Helm waits 5 minutes for a hook.
func afterUninstall() guard.Uninstall {
	return guard.Uninstall{Sure: 20 * time.Second, Patience: 2 * time.Minute, Every: time.Second}
}

// unlockOptions are the flags of the command "unlock".
type unlockOptions struct {
	*Options

	afterUninstall bool
}

// Flags returns the flags, bound to the options.
func (o *unlockOptions) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("drain-guard unlock", pflag.ContinueOnError)
	o.clusterFlags(fs)
	fs.BoolVar(&o.afterUninstall, "after-uninstall", o.afterUninstall,
		"Only return pods that were set aside, and only if callguard was uninstalled: do nothing while its Deployment or one of its admission policies exists.")
	fs.Usage = func() { unlockUsage(fs.Output(), fs) }
	return fs
}

func (o *unlockOptions) run(ctx context.Context, client kubernetes.Interface, out io.Writer) error {
	if !o.afterUninstall {
		return guard.Unlock(ctx, client, o.doors.Namespace, leader.Notice, out)
	}
	doors, err := manifests.Parse(o.doors)
	if err != nil {
		return err
	}
	return guard.UnlockAfterUninstall(ctx, client, doors, o.doors.Namespace, afterUninstall(), out)
}

// unlockUsage prints what `drain-guard unlock` does, and what it may cost.
func unlockUsage(w io.Writer, fs *pflag.FlagSet) {
	_, _ = fmt.Fprintf(w, `drain-guard unlock returns every guarded pod to Kubernetes, and deletes none.

Pods that were set aside go back to their ReplicaSets, which delete what they have
too many of: a call in such a pod has only the pod's termination grace period. To
lose no call, wait until no pod is set aside or draining, or use a grace period as
long as your calls. Pods that accept no new calls never will again; they are listed
with the command that replaces them.

Flags:
%s`, fs.FlagUsages())
}
