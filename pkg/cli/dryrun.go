// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// foretell prints what a drain would do, and what it would wait for that does not end by
// itself: unknown calls, and replacements without room on other nodes.
func (o *drainOptions) foretell(ctx context.Context, c *cluster, nodes []*emptying) error {
	var all []standing
	for _, e := range nodes {
		list := e.progress.standings(ctx, e.pods)
		for _, s := range list {
			_, _ = fmt.Fprintf(o.Out, "%s would be evicted: %s\n", s.name(), s)
		}
		_, _ = fmt.Fprintf(o.Out, "node/%s would be cordoned and drained (dry run)\n", e.node.Name)
		all = append(all, list...)
	}
	for _, text := range c.noPlaces(ctx, nodes, all) {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", text)
	}
	blind, unknown := notKnown(all)
	if unknown != "" {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", unknown)
	}
	if blind {
		return errWaiting
	}
	return nil
}

// notKnown returns text about how many pods have unknown calls; blind reports that the
// guard does not know them either, so that a drain could not end.
func notKnown(list []standing) (blind bool, text string) {
	unknown, unread, example := 0, 0, standing{}
	for _, s := range list {
		if s.counts() && !s.calls.Known() {
			if unknown == 0 {
				example = s
			}
			unknown++
			if s.unread {
				unread++
			}
		}
	}
	switch {
	case unknown == 0:
		return false, ""
	case unread == unknown:
		return false, fmt.Sprintf("whether the drain could end is not known here: of %s the calls are not, such as %s: %s; the guard asks their witnesses itself", plural(unknown, "pod"), example.name(), example.calls.Reason())
	default:
		return true, fmt.Sprintf("as things are the drain could not end: of %s the calls are not known, such as %s: %s; unknown is not zero, and a pod stays until its calls are known", plural(unknown, "pod"), example.name(), example.calls.Reason())
	}
}

// ask evicts each pod once, and leaves the rest to callguard, which releases each guarded
// pod after its last call and deletes it.
func (o *drainOptions) ask(ctx context.Context, c *cluster, nodes []*emptying) error {
	var errs []error
	guarded, others := 0, 0
	left := Left{}
	var names, text []string
	for _, e := range nodes {
		names = append(names, e.node.Name)
		left.Of += len(e.pods)
		for _, pod := range e.pods {
			err := c.client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
			switch {
			case err == nil || apierrors.IsNotFound(err):
				p := named(pod)
				p.Ends = true
				e.progress.tell(Event{Event: evicted, Node: e.node.Name, Text: pod.Namespace + "/" + pod.Name + ": ends", Pod: p})
			case !apierrors.IsTooManyRequests(err):
				errs = append(errs, fmt.Errorf("%s/%s cannot be evicted: %w", pod.Namespace, pod.Name, err))
			case isGuarded(pod):
				guarded++
			default:
				others++
			}
		}
	}
	if guarded > 0 {
		text = append(text, plural(guarded, "pod")+" held for calls: callguard lets each go after its last one, and deletes it")
	}
	if others > 0 {
		text = append(text, plural(others, "pod")+" kept by other PodDisruptionBudgets: they cannot be evicted now")
	}
	resume := o.command(names...)
	text = append(text, "To see what is left: kubectl calls status "+strings.Join(names, " "), "To go on: "+resume)
	left.Pods, left.UnknownPods = guarded+others+len(errs), guarded // their calls were not read
	nodes[0].progress.tell(Event{Event: asked, Text: strings.Join(text, "\n"), Left: &left, Resume: resume})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s", line(err))
	}
	return nil
}

// noPlaces returns which replacements of guarded pods would find no room on other nodes.
func (c *cluster) noPlaces(ctx context.Context, nodes []*emptying, list []standing) []string {
	var pods []*corev1.Pod
	for _, s := range list {
		if s.needsPlace() {
			pods = append(pods, s.pod)
		}
	}
	if len(pods) == 0 {
		return nil
	}
	leaving := map[string]bool{}
	for _, e := range nodes {
		leaving[e.node.Name] = true
	}
	room, err := c.room(ctx, leaving)
	if err != nil {
		return []string{"whether replacements find a place is not known: " + line(err)}
	}
	var texts []string
	for _, pod := range pods {
		if _, why := room.take(pod); why != "" {
			texts = append(texts, fmt.Sprintf("%s: its replacement fits on no node at present: %s; until one fits, the pod goes on serving", pod.Namespace+"/"+pod.Name, why))
		}
	}
	return texts
}
