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
	// completer is the name by which kubectl runs a program to complete the arguments of this
	// plugin.
	completer = "kubectl_complete-calls"
	// completeWithin is the maximum time for a completion.
	completeWithin = 3 * time.Second
)

// Args returns the arguments of a program that was run by some name: kubectl requests
// completion by another name of the same program.
func Args(program string, args []string) []string {
	if strings.TrimSuffix(filepath.Base(program), ".exe") == completer {
		return append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	return args
}

// names returns what completion offers. If it cannot be read, nothing is offered.
type names func(ctx context.Context, c *cluster, namespace string) ([]string, error)

// complete offers names that are not among the arguments yet; if only one is accepted,
// nothing after the first.
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

// completeFlags has completion offer the values of a command's flags, where there are few.
func completeFlags(cmd *cobra.Command) error {
	values := map[string][]string{
		"output": {outputJSON}, "sort-by": {byName, byCalls, byNode, byState, byAge},
		"on-deadline": {onDeadlineHold, onDeadlineRelease}, "expect": {expectJoin, expectTrack},
	}
	if cmd.Flags().Lookup("sort-by") != nil {
		values["output"] = []string{outputJSON, outputYAML, outputName, outputWide}
	}
	for name, list := range values {
		if cmd.Flags().Lookup(name) == nil {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			return err
		}
	}
	return nil
}

// offered returns the names that begin with the typed text, without those that are already
// among the arguments.
func offered(all, args []string, begun string) []string {
	slices.Sort(all)
	return slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, begun) || slices.Contains(args, name) })
}

// nodesToName returns the nodes of a cluster.
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

// namespacesToName returns the namespaces of a cluster.
func namespacesToName(ctx context.Context, c *cluster, _ string) ([]string, error) {
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil, err
	}
	var all []string
	for _, namespace := range list.Items {
		all = append(all, namespace.Name)
	}
	return all, nil
}

// podsToName returns the guarded pods of a namespace.
func podsToName(ctx context.Context, c *cluster, namespace string) ([]string, error) {
	list, err := c.guarded(ctx, namespace, "", "")
	var all []string
	for _, pod := range list {
		all = append(all, pod.Name)
	}
	return all, err
}

// allToName returns guarded pods, nodes, and the workloads with labels or annotations of
// callguard.
func allToName(ctx context.Context, c *cluster, namespace string) ([]string, error) {
	all, err := podsToName(ctx, c, namespace)
	if nodes, failed := nodesToName(ctx, c, namespace); failed == nil { // without the right to read nodes, pods are still offered
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
