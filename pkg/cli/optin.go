// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
)

// optIn is a namespace's label for callguard.
type optIn struct {
	// on reports whether the namespace is enabled.
	on bool
	// wrong is the label's value if that does not enable the namespace; nil without the label.
	wrong *string
}

func optInOf(ns *corev1.Namespace) optIn {
	value, has := ns.Labels[call.EnabledLabel]
	switch {
	case !has:
		return optIn{}
	case value == "true":
		return optIn{on: true}
	default:
		return optIn{wrong: &value}
	}
}

// off returns text that a namespace is not enabled, with the value of a wrong label.
func (o optIn) off(namespace string) string {
	text := fmt.Sprintf("namespace %s is not enabled", namespace)
	if o.wrong != nil {
		text += fmt.Sprintf(" (its label %s is %q, not \"true\")", call.EnabledLabel, *o.wrong)
	}
	return text
}

// enable returns the command that enables a namespace.
func (o optIn) enable(namespace string) string {
	command := fmt.Sprintf("kubectl label namespace %s %s=true", namespace, call.EnabledLabel)
	if o.wrong != nil {
		command += " --overwrite" // kubectl does not change an existing label without it
	}
	return command
}

// optInsOf reads the same for several namespaces with one request, if the user may list
// namespaces. It also returns how many requests it took.
func (c *cluster) optInsOf(ctx context.Context, names []string) (found map[string]optIn, requests int, err error) {
	if len(names) > 1 {
		if _, labelled, err := c.enabledIn(ctx, ""); err == nil {
			found = map[string]optIn{}
			for _, name := range names {
				found[name] = labelled[name] // without the label it is the zero value
			}
			return found, 1, nil
		}
	}
	found, err = c.optIns(ctx, names)
	return found, len(names) + 1, err
}

// optIns reads the labels of namespaces. A missing namespace has none.
func (c *cluster) optIns(ctx context.Context, names []string) (map[string]optIn, error) {
	found := map[string]optIn{}
	for _, name := range names {
		ns, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			found[name] = optIn{}
		case err != nil:
			return nil, fmt.Errorf("cannot tell whether namespace %s is enabled: %w", name, err)
		default:
			found[name] = optInOf(ns)
		}
	}
	return found, nil
}
