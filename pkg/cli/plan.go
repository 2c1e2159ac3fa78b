// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
)

// Plan is the output of plan -o json.
type Plan struct {
	Kind string `json:"kind"`
	// Refused has the reasons why a drain would not begin.
	Refused []string  `json:"refused"`
	Pods    []Planned `json:"pods"`
	// Calls is when the present calls will have ended.
	Calls Ends `json:"callsOver"`
}

// Planned is what a pod would wait for.
type Planned struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	// Calls is null if they are not known, and for a pod that is not guarded.
	Calls *int `json:"calls"`
	// Replacement is the node with room for its replacement; NoPlace is why there is none.
	Replacement string `json:"replacement,omitempty"`
	NoPlace     string `json:"noPlace,omitempty"`
	WaitsFor    string `json:"waitsFor"`
	// AtMost is after how long it is released with its calls; empty if never.
	AtMost string `json:"atMost,omitempty"`
}

type planOptions struct {
	*common

	selector string
	output   string
}

func newPlan(c *common) *cobra.Command {
	o := &planOptions{common: c}
	cmd := &cobra.Command{
		Use: "plan NODE...", Short: "Show what a drain of nodes would wait for",
		Long: "Shows for each pod of the nodes what a drain would wait for: its calls, and which node has room for its replacement, judged by requests, " +
			"taints, node selectors and node affinity. Pod affinity, volumes and quotas are not considered. It estimates when " +
			"the calls are over, from how long calls of the same workloads lasted before; if that is not known, it says so.\n" +
			"It changes nothing.\n\n" +
			"Exit codes: 0, a drain could begin and end; 1, an error; 2, it would be refused, or could not end at present.",
		Example: "  kubectl calls plan node-1\n  kubectl calls plan -l pool=old\n  kubectl calls plan node-1 node-2 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(o.output, outputJSON); err != nil {
				return err
			}
			if err := checkNodes(args, o.selector, "kubectl calls plan"); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			names, err := cl.nodeNames(cmd.Context(), args, o.selector)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cl, names...)
		},
	}
	cmd.Flags().StringVarP(&o.selector, "selector", "l", o.selector, "Plan for the nodes with these labels, such as pool=old.")
	cmd.Flags().StringVarP(&o.output, "output", "o", o.output, "json.")
	return cmd
}

func (o *planOptions) run(ctx context.Context, c *cluster, names ...string) error {
	a := c.administered(ctx)
	all := &drainOptions{common: o.common, ignoreDaemonSets: true, deleteEmptyDirData: true, force: true}
	leaving := map[string]bool{}
	var pods []*corev1.Pod
	on := map[string][]*corev1.Pod{}
	for _, name := range names {
		_, err := c.node(ctx, name)
		if err != nil {
			return err
		}
		if on[name], _, err = all.list(ctx, c, name); err != nil {
			return fmt.Errorf("cannot tell the pods of node %s: %s", name, line(err))
		}
		leaving[name], pods = true, append(pods, on[name]...)
	}
	refusals, notes, unprotected := c.preflight(ctx, a, pods, false)
	for _, note := range notes {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", note)
	}
	places, roomErr := c.room(ctx, leaving)
	if roomErr != nil {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning: whether replacements find a place is not known:", line(roomErr))
	}
	plan := Plan{Kind: "Plan", Refused: append([]string{}, refusals...), Pods: []Planned{}}
	var standings []standing
	for _, name := range names {
		w := newProgress(c, a, &lines{to: o.ErrOut}, name)
		w.unprotected = unprotected
		for _, s := range w.standings(ctx, on[name]) {
			p := Planned{Namespace: s.pod.Namespace, Name: s.pod.Name, Node: name}
			if s.needsPlace() && roomErr == nil {
				p.Replacement, p.NoPlace = places.take(s.pod)
			}
			if n, known := s.calls.Calls(); known && s.counts() {
				p.Calls = &n
			}
			p.WaitsFor = s.wouldWaitFor(p)
			if s.counts() {
				p.AtMost = atMost(s.pod, a)
			}
			plan.Pods, standings = append(plan.Pods, p), append(standings, s)
		}
	}
	blind, unknown := notKnown(standings)
	plan.Calls = c.ends(ctx, names)
	if o.output == outputJSON {
		if err := printJSON(o.Out, plan); err != nil {
			return err
		}
	} else if err := o.print(plan, names, c.now()); err != nil {
		return err
	}
	if unknown != "" {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", unknown)
	}
	if blind || len(refusals) > 0 {
		return errWaiting
	}
	return nil
}

// print prints a plan for people.
func (o *planOptions) print(plan Plan, names []string, now time.Time) error {
	w := newGrid(o.Out, widthOf(o.Out))
	_, _ = fmt.Fprintln(w, "NODE\tPOD\tCALLS\tWAITS FOR")
	calls, unknown := 0, 0
	for _, p := range plan.Pods {
		n := nothing
		switch {
		case p.Calls != nil:
			n = fmt.Sprint(*p.Calls)
			calls += *p.Calls
		case strings.Contains(p.WaitsFor, callsToBeKnown):
			n = "?"
			unknown++
		}
		waits := p.WaitsFor
		if p.AtMost != "" {
			waits += "; " + p.AtMost
		}
		_, _ = fmt.Fprintf(w, "%s\t%s/%s\t%s\t%s\n", p.Node, p.Namespace, p.Name, n, waits)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	end := "It ends when the last call is over and each pod that goes has its replacement."
	if calls == 0 && unknown == 0 {
		end = "It ends when each pod that goes has its replacement; a call that begins before the drain does is waited for."
	}
	_, _ = fmt.Fprintf(o.Out, "%s: %s%s. %s\n", ofNodes(names, "node %s", "nodes %s"), plural(len(plan.Pods), "pod"), withCalls(calls, unknown), end)
	if calls > 0 || unknown > 0 {
		_, _ = fmt.Fprintln(o.Out, plan.Calls.sentence(now))
	}
	for _, why := range plan.Refused {
		_, _ = fmt.Fprintf(o.Out, "A drain would be refused: %s\n", why)
	}
	return nil
}

// callsToBeKnown is what a pod with unknown calls waits for.
const callsToBeKnown = "its calls to be known, for unknown is not zero"

// wouldWaitFor returns what a drain would wait for because of a pod.
func (s standing) wouldWaitFor(p Planned) string {
	switch {
	case s.pod.DeletionTimestamp != nil:
		return "its end, within its grace period"
	case s.unprotected != "", !s.guarded:
		return cmp.Or(s.String(), nothing)
	case s.state == call.Released:
		return "nothing: it was released"
	}
	var parts []string
	switch n, known := s.calls.Calls(); {
	case !known:
		parts = append(parts, callsToBeKnown)
	case n > 0:
		parts = append(parts, "the end of "+plural(n, "call"))
	}
	switch {
	case p.Replacement != "":
		parts = append(parts, "its replacement, for which there is room on "+p.Replacement)
	case p.NoPlace != "":
		parts = append(parts, "a place for its replacement: "+p.NoPlace)
	case len(parts) == 0 && s.why != "":
		parts = append(parts, s.why)
	}
	if len(parts) == 0 {
		return "a short time, in which a call that is still being connected would appear"
	}
	return strings.Join(parts, "; ")
}

// atMost returns text about after how long a pod would be released with its calls; empty if
// never.
func atMost(pod *corev1.Pod, a administered) string {
	after, by := letGo(pod, a)
	if by == "" {
		return ""
	}
	return fmt.Sprintf("%s at most, by %s: it goes then, with its calls", after, by)
}

// letGo returns after how long the guard releases a pod with its calls, and by which
// setting; by is empty if never.
func letGo(pod *corev1.Pod, a administered) (after time.Duration, by string) {
	deadline, _ := call.ParseDeadline(pod.Annotations[call.DeadlineAnnotation], pod.Annotations[call.OnDeadlineAnnotation]) // with an error it is the deadline that applies
	if deadline.Release && deadline.After > 0 {
		after, by = deadline.After, "annotation "+call.DeadlineAnnotation
	}
	if most := a.settings.Limits.MaxHold; most > 0 && (by == "" || most < after) {
		after, by = most, "the guard's --max-hold"
	}
	return after, by
}
