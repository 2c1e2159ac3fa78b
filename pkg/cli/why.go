// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/verdict"
)

const (
	// latestEvents bounds the Events shown, and eventPages those read for that.
	latestEvents = 5
	eventPages   = 500
)

func newWhy(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "why POD", Short: "Say why a pod stays, and what it waits for", Args: oneName("pod"),
		Long: "Says what callguard would decide about a guarded pod now, by the guard's own rules, and what it waits for.\n" +
			"What only the guard knows, each witness's own answer and how long a pod has been quiet, stands in its Events.",
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, _, err := c.namespace()
			if err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return why(cmd.Context(), cl, c.Out, namespace, podName(args[0]))
		},
	}
}

// podName takes the resource off, as in pod/NAME.
func podName(arg string) string {
	if kind, name, found := strings.Cut(arg, "/"); found && slices.Contains([]string{"pod", "pods", "po"}, kind) {
		return name
	}
	return arg
}

// why explains a pod.
func why(ctx context.Context, c *cluster, out io.Writer, namespace, name string) error {
	pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no pod %q in namespace %s; kubectl calls -A lists the guarded pods", name, namespace)
	case err != nil:
		return fmt.Errorf("cannot read pod %s/%s: %w", namespace, name, err)
	case pod.Labels[call.GuardedLabel] != "true":
		return fmt.Errorf("pod %s/%s is not guarded, and callguard does not hold it; its pod template needs label %s: \"true\"", namespace, name, call.GuardedLabel)
	}
	p := printers.GetNewTabWriter(out)
	say := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(p, "%s:\t%s\n", what, fmt.Sprintf(format, args...))
	}
	say("Pod", "%s/%s on %s", namespace, name, cmp.Or(pod.Spec.NodeName, "no node yet"))
	if enabled, err := c.optIns(ctx, []string{namespace}); err != nil {
		say("Unsure", "%s", line(err))
	} else if is := enabled[namespace]; !is.on {
		say("State", "not protected, and nothing holds its calls: %s", is.off(namespace))
		say("Do", "an administrator enables the namespace: %s", is.enable(namespace))
		return p.Flush()
	}
	a := c.administered(ctx)
	n := c.calls(ctx, namespace)
	x, found, err := c.explainOne(ctx, a, n, pod)
	if err != nil {
		return err
	}
	if !found {
		say("State", "it has ended: no container of it runs, and nothing holds it")
		return p.Flush()
	}
	say("State", "%s", state(x, c.now()))
	reading := n.of(name)
	if reading.Known() {
		say("Calls", "%s, by the metrics API %s ago", text(reading), age(c.now(), reading.At()))
	} else {
		why := reading.Reason()
		if n.err == nil {
			why = c.reason(ctx, namespace, name)
		}
		say("Calls", "?, and unknown is not zero: %s", why)
	}
	outcome := string(x.Verdict.Outcome)
	if x.Verdict.Rule != "" {
		outcome += " by rule " + x.Verdict.Rule
	}
	advised := adviceOn(x)
	if onlyGuardKnows(x, n) {
		say("Verdict", "?: %s", notKnownHere)
		advised = verdict.Advice{Waits: "what the guard's latest Held Event names", Do: "see its Events; kubectl calls doctor says who serves the metrics API, if anybody"}
	} else {
		say("Verdict", "%s: %s", outcome, x.Verdict.Why)
	}
	say("Waits for", "%s", advised.Waits)
	if notice := x.Facts.Notice; notice != "" {
		say("Node", "%s goes within minutes (%s), and calls that last longer end with it", pod.Spec.NodeName, notice)
	}
	if ends := x.Facts.NodeEnds; !ends.IsZero() {
		say("Node", "Karpenter's terminationGracePeriod of %s ends %s; %s", pod.Spec.NodeName, clock(ends), nodeWaits(x))
	}
	if stuck := c.stuckOf(ctx, x); stuck != "" {
		say("Replacement", "%s", stuck)
	}
	if until := limit(x); until != "" {
		say("At most until", "%s", until)
	}
	say("Do", "%s", advised.Do)
	for _, what := range unsure(x, a, reading) {
		say("Unsure", "%s", what)
	}
	if err := p.Flush(); err != nil {
		return err
	}
	return c.events(ctx, out, pod)
}

// nodeWaits says who wins when Karpenter's time for a node is over.
func nodeWaits(x guard.Explanation) string {
	if x.Facts.LetGoBy.IsZero() {
		return "calls win, and the node waits for them"
	}
	return "the pod is let go in time for it"
}

// explainOne explains a pod; found is false when it has ended.
func (c *cluster) explainOne(ctx context.Context, a administered, n counts, pod *corev1.Pod) (x guard.Explanation, found bool, err error) {
	list, err := c.explainer(a, c.doorsKnown(ctx, a), n).Explain(ctx, pod.Namespace, func(p *corev1.Pod) bool { return p.UID == pod.UID })
	if err != nil || len(list) == 0 {
		return x, false, err
	}
	return list[0], true, nil
}

// doorsKnown says what is wrong with the doors, as far as that can be read: whoever
// may not read them has the guard's word for it, in its Events.
func (c *cluster) doorsKnown(ctx context.Context, a administered) error {
	_, err := admission.Check(ctx, c.client, a.doors)
	if forbidden(err) {
		return nil
	}
	return err
}

// state is where a pod is on its road.
func state(x guard.Explanation, now time.Time) string {
	s := string(x.State)
	switch {
	case x.Intent.Intent == "":
		return s
	case x.Intent.At.IsZero():
		return fmt.Sprintf("%s, and should go (%s)", s, x.Intent.Intent)
	default:
		return fmt.Sprintf("%s, and should go (%s) for %s, since %s", s, x.Intent.Intent, age(now, x.Intent.At), clock(x.Intent.At))
	}
}

// unsure says where the guard may know better.
func unsure(x guard.Explanation, a administered, calls call.Reading) []string {
	list := slices.Clone(x.Unsure)
	if n, known := calls.Calls(); known && n == 0 && x.State == call.Draining && x.Verdict.Rule == "settle" {
		list = append(list, "the metrics API has one number for all witnesses: 0 says that none of them counts a call, not that each of them answers. A Held Event names one that does not")
	}
	if a.note != "" && x.Intent.Intent != "" {
		list = append(list, a.note)
	}
	return list
}

// events prints the guard's latest Events about a pod. Whose they are is what they say themselves: nothing in an Event is signed.
func (c *cluster) events(ctx context.Context, out io.Writer, pod *corev1.Pod) error {
	list, err := c.client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(pod.UID)}.String(), Limit: eventPages,
	})
	if err != nil {
		_, _ = fmt.Fprintf(out, "Events:  not known: %s\n", line(err))
		return nil
	}
	items := slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return e.Source.Component != guard.EventSource })
	when := func(e corev1.Event) time.Time {
		if !e.LastTimestamp.IsZero() {
			return e.LastTimestamp.Time
		}
		return e.CreationTimestamp.Time
	}
	slices.SortStableFunc(items, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	if len(items) == 0 {
		_, _ = fmt.Fprintln(out, "Events:  none by callguard")
		return nil
	}
	_, _ = fmt.Fprintln(out, "Events that say they are drain-guard's:")
	w := printers.GetNewTabWriter(out)
	for _, e := range items[max(0, len(items)-latestEvents):] {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", age(c.now(), when(e)), oneLine(e.Reason), oneLine(e.Message))
	}
	return w.Flush()
}
