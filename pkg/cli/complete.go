// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// completer is the name under which kubectl runs a program to complete the arguments of
	// this plugin.
	completer = "kubectl_complete-calls"
	// completeWithin bounds what somebody who has pressed Tab waits for.
	completeWithin = 3 * time.Second
)

// Args are the arguments of a program that was run under a name: kubectl asks for completion
// by another name of the same program.
func Args(program string, args []string) []string {
	if strings.TrimSuffix(filepath.Base(program), ".exe") == completer {
		return append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	return args
}

// names are what completion offers. What cannot be read offers nothing.
type names func(ctx context.Context, c *cluster, namespace string) ([]string, error)

// complete offers names that are not among the arguments yet; one at most where only one is
// taken.
func (c *common) complete(several bool, of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if !several && len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cl, err := c.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		namespace, _, err := c.namespace()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		all, err := of(ctx, cl, namespace)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return offered(all, args, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// offered are the names that begin as what was typed, without those that stand there already.
func offered(all, args []string, begun string) []string {
	slices.Sort(all)
	return slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, begun) || slices.Contains(args, name) })
}

// nodesToName are the nodes of a cluster.
func nodesToName(ctx context.Context, c *cluster, _ string) ([]string, error) {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil, err
	}
	var all []string
	for _, node := range list.Items {
		all = append(all, node.Name)
	}
	return all, nil
}

// podsToName are the guarded pods of a namespace.
func podsToName(ctx context.Context, c *cluster, namespace string) ([]string, error) {
	list, err := c.guarded(ctx, namespace, "", "")
	var all []string
	for _, pod := range list {
		all = append(all, pod.Name)
	}
	return all, err
}

// allToName are guarded pods, nodes, and the workloads that name callguard.
func allToName(ctx context.Context, c *cluster, namespace string) ([]string, error) {
	all, err := podsToName(ctx, c, namespace)
	if nodes, failed := nodesToName(ctx, c, namespace); failed == nil { // who may not read nodes has the pods
		for _, name := range nodes {
			all = append(all, "node/"+name)
		}
	}
	if workloads, failed := c.templates(ctx, namespace); failed == nil {
		for _, t := range workloads {
			all = append(all, strings.ToLower(t.kind)+"/"+t.meta.Name)
		}
	}
	return all, err
}
