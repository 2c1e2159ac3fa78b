// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checkNodes requires either names of nodes or a selector, not both.
func checkNodes(args []string, selector, command string) error {
	switch {
	case selector != "" && len(args) > 0:
		return fmt.Errorf("--selector and node %s cannot be combined; use %s -l %s", args[0], command, selector)
	case selector != "":
		return checkSelector(selector)
	case len(args) == 0 || slices.Contains(args, ""):
		return fmt.Errorf("which node? use %s NAME", command)
	}
	return nil
}

// node reads a node.
func (c *cluster) node(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no node %q; kubectl get nodes lists them", name)
	case err != nil:
		return nil, fmt.Errorf("cannot read node %s: %w", name, err)
	}
	return node, nil
}

// nodeNames returns the nodes that arguments or a selector name, each once.
func (c *cluster) nodeNames(ctx context.Context, args []string, selector string) ([]string, error) {
	var names []string
	if selector == "" {
		for _, arg := range args {
			if name := strings.TrimPrefix(arg, "node/"); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return names, nil
	}
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("cannot list nodes: %w", err)
	}
	for _, node := range list.Items {
		names = append(names, node.Name)
	}
	if len(names) == 0 {
		return nil, errors.New("no node has the labels " + selector + "; kubectl get nodes --show-labels lists them")
	}
	slices.Sort(names)
	return names, nil
}

// ofNodes returns the text for one node or for several, whose names replace %s.
func ofNodes(names []string, one, several string) string {
	if len(names) == 1 {
		return fmt.Sprintf(one, names[0])
	}
	return fmt.Sprintf(several, strings.Join(names, ", "))
}
