// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// pluginName is what kubectl looks for on PATH when it runs "calls".
const pluginName = "kubectl-calls"

// Plugin is the path of the plugin of this checkout.
func (l *Lab) Plugin(ctx context.Context) (string, error) { return l.program(ctx, pluginName) }

// Calls returns the command "kubectl calls" as a user in groups, with the plugin of this
// checkout on PATH. When ctx ends it is interrupted, as with Ctrl-C.
func (l *Lab) Calls(ctx context.Context, user string, groups []string, args ...string) (*exec.Cmd, error) {
	plugin, err := l.Plugin(ctx)
	if err != nil {
		return nil, err
	}
	kubectl, err := l.Cluster.Kubectl()
	if err != nil {
		return nil, err
	}
	kubeconfig, err := l.Cluster.KubeconfigFor(user, groups...)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"calls"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "PATH="+filepath.Dir(plugin)+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	return cmd, nil
}

// AdminCalls is the same as an administrator.
func (l *Lab) AdminCalls(ctx context.Context, args ...string) (*exec.Cmd, error) {
	return l.Calls(ctx, "admin", []string{adminGroup}, args...)
}
