// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// DrainStatus is the output of status -o json.
type DrainStatus struct {
	Kind  string       `json:"kind"`
	Nodes []NodeStatus `json:"nodes"`
}

// NodeStatus is the state of a node's drain: the same as in why -o json, and how to
// continue.
type NodeStatus struct {
	ExplainedPods
	Cordoned bool `json:"cordoned"`
	// Left counts the remaining guarded pods; how many there were at the beginning is no
	// longer known.
	Left Left `json:"left"`
	// Resume is the command that continues, without the flags of the earlier drain, which are
	// no longer known.
	Resume string `json:"resume"`
}

// flagsLost is a note about what cannot be known about the earlier drain.
const flagsLost = "  With which flags the drain began, and whether it had a --deadline, is not known: give them again"

func newStatus(c *common) *cobra.Command {
	output := ""
	cmd := &cobra.Command{
		Use: "status [NODE...]", Short: "Show the state of drains in the background",
		Long: "Shows for each cordoned node with guarded pods which pods are left, what they wait for, when their calls are expected to end, and " +
			"how to continue. Use it after a drain with --wait=false, or one that was interrupted. Nodes that " +
			"are named are always shown. The flags of the drain are not known. It changes nothing: callguard releases the pods without this plugin.\n\n" +
			"Exit codes: 0, the state is shown, whatever is left; 1, an error.",
		Example: "  kubectl calls status               # of each cordoned node with guarded pods\n" +
			"  kubectl calls status node-1 node-2\n" +
			"  kubectl calls status -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, outputJSON); err != nil {
				return err
			}
			if slices.Contains(args, "") {
				return errors.New("which node? use kubectl calls status NAME, or without a name all that are cordoned")
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return c.status(cmd.Context(), cl, output, args)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "json.")
	return cmd
}

func (c *common) status(ctx context.Context, cl *cluster, output string, args []string) error {
	nodes, err := cl.underWay(ctx, args)
	if err != nil {
		return err
	}
	resume := &drainOptions{ignoreDaemonSets: true}
	all := DrainStatus{Kind: "DrainStatus", Nodes: []NodeStatus{}}
	var names []string
	for i, node := range nodes {
		e, list, err := explainNode(ctx, cl, node)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(slices.Clone(list), func(s standing) bool { return !s.guarded })
		s := NodeStatus{ExplainedPods: *e, Cordoned: node.Spec.Unschedulable, Left: leftOf(list, len(list)), Resume: resume.command(node.Name)}
		all.Nodes, names = append(all.Nodes, s), append(names, node.Name)
		if output == outputJSON {
			continue
		}
		if i > 0 {
			_, _ = fmt.Fprintln(c.Out)
		}
		if err := e.print(c.Out, "", list, cl.now()); err != nil {
			return err
		}
	}
	switch {
	case output == outputJSON:
		return printJSON(c.Out, all)
	case len(nodes) == 0:
		_, _ = fmt.Fprintln(c.ErrOut, "No drain is under way: no cordoned node has guarded pods.")
		return nil
	}
	what := "node"
	if len(names) > 1 {
		what = "nodes"
	}
	_, err = fmt.Fprintf(c.Out, "\nTo go on: %s\n"+flagsLost+"\nTo keep the %s: kubectl uncordon %s (pods that take no new call still go)\n", resume.command(names...), what, strings.Join(names, " "))
	return err
}

// underWay returns the named nodes, or all that are cordoned and have guarded pods.
func (c *cluster) underWay(ctx context.Context, args []string) ([]*corev1.Node, error) {
	var nodes []*corev1.Node
	if len(args) > 0 {
		names, err := c.nodeNames(ctx, args, "")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			node, err := c.node(ctx, name)
			if err != nil {
				return nil, err
			}
			nodes = append(nodes, node)
		}
		return nodes, nil
	}
	pods, err := c.guarded(ctx, "", "", "")
	if err != nil {
		return nil, err
	}
	keeps := map[string]bool{}
	for _, pod := range pods {
		keeps[pod.Spec.NodeName] = keeps[pod.Spec.NodeName] || pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
	}
	list := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.client.CoreV1().Nodes().List(ctx, o)
	})
	err = list.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		if node, is := o.(*corev1.Node); is && node.Spec.Unschedulable && keeps[node.Name] {
			nodes = append(nodes, node)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list nodes: %w", err)
	}
	return nodes, nil
}
