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

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/verdict"
)

const (
	// latestEvents is how many Events are shown, and eventPages how many pages are read for
	// that.
	latestEvents = 5
	eventPages   = 500
)

// Explained is the output of why -o json for a pod.
type Explained struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node,omitempty"`
	State     string `json:"state"`
	// Intent and Since are why it should go, and since when, if that is known.
	Intent call.Intent `json:"intent,omitempty"`
	Since  *time.Time  `json:"since,omitempty"`
	// Calls is null if it is not known, and Unknown is why.
	Calls   *int   `json:"calls"`
	Unknown string `json:"unknown,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Rule    string `json:"rule,omitempty"`
	// Says has the lines that why prints.
	Says   []Said      `json:"says"`
	Events []SaidEvent `json:"events"`
}

// Said is a line of why's output.
type Said struct {
	What string `json:"what"`
	Text string `json:"text"`
}

// SaidEvent is an Event that names drain-guard as its source.
type SaidEvent struct {
	At      time.Time `json:"at"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
}

func newWhy(c *common) *cobra.Command {
	output := ""
	cmd := &cobra.Command{
		Use: "why POD|node/NODE|KIND/WORKLOAD", Short: "Show why a pod, a node or a workload waits, and for what", Args: oneName("pod"),
		Long: "Shows what drain-guard's rules decide about a guarded pod now, and what it waits for.\n" +
			"For a node it shows which pods keep it from being empty; for a workload, which pods should leave and what keeps them, and what is " +
			"wrong with its pod template. A name without a kind is that of a pod or, if there is no such pod, of a node.\n" +
			"Only drain-guard knows what each witness answered and how long a pod has been quiet: see the pod's Events.",
		Example: "  kubectl calls why agent-77594dd9bf-lp467 -n voice\n" +
			"  kubectl calls why node/node-4\n" +
			"  kubectl calls why deployment/agent -n voice\n" +
			"  kubectl calls why pod/agent-77594dd9bf-lp467 -n voice -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, outputJSON); err != nil {
				return err
			}
			namespace, _, err := c.namespace()
			if err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return whyAny(cmd.Context(), cl, c.Out, namespace, args[0], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "json.")
	return cmd
}

// podName removes the resource from pod/NAME.
func podName(arg string) string {
	if kind, name, found := strings.Cut(arg, "/"); found && slices.Contains([]string{"pod", "pods", "po"}, kind) {
		return name
	}
	return arg
}

// why explains a pod.
func why(ctx context.Context, c *cluster, out io.Writer, namespace, name, output string) error {
	pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return &noPod{fmt.Errorf("there is no pod %q in namespace %s; kubectl calls -A lists the guarded pods", name, namespace)}
	case err != nil:
		return fmt.Errorf("cannot read pod %s/%s: %w", namespace, name, err)
	case pod.Labels[call.GuardedLabel] != "true":
		return fmt.Errorf("pod %s/%s is not guarded, and callguard does not hold it; its pod template needs label %s: \"true\"", namespace, name, call.GuardedLabel)
	}
	e := &Explained{Kind: "ExplainedPod", Namespace: namespace, Name: name, Node: pod.Spec.NodeName, Says: []Said{}, Events: []SaidEvent{}}
	say := func(what, format string, args ...any) {
		e.Says = append(e.Says, Said{what, fmt.Sprintf(format, args...)})
	}
	say("Pod", "%s/%s on %s", namespace, name, cmp.Or(pod.Spec.NodeName, "no node yet"))
	if enabled, err := c.optIns(ctx, []string{namespace}); err != nil {
		say("Unsure", "%s", line(err))
	} else if is := enabled[namespace]; !is.on {
		say("State", "not protected, and nothing holds its calls: %s", is.off(namespace))
		say("Do", "an administrator enables the namespace: %s", is.enable(namespace))
		e.State = "not enabled"
		return e.print(out, output)
	}
	a := c.administered(ctx)
	n := c.calls(ctx, namespace)
	x, found, err := c.explainOne(ctx, a, n, pod)
	if err != nil {
		return err
	}
	if !found {
		say("State", "it has ended: no container of it runs, and nothing holds it")
		e.State = "ended"
		return e.print(out, output)
	}
	say("State", "%s", state(x, c.now()))
	reading := n.of(name)
	e.State, e.Intent = string(x.State), x.Intent.Intent
	if !x.Intent.At.IsZero() {
		e.Since = &x.Intent.At
	}
	if calls, known := reading.Calls(); known {
		e.Calls = &calls
		say("Calls", "%s, by the metrics API %s ago", text(reading), age(c.now(), reading.At()))
	} else {
		why := reading.Reason()
		if n.err == nil {
			why = c.reason(ctx, namespace, name)
		}
		say("Calls", "?, and unknown is not zero: %s", why)
		e.Unknown = why
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
		e.Outcome, e.Rule = string(x.Verdict.Outcome), x.Verdict.Rule
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
	events, err := c.events(ctx, pod)
	if err == nil {
		e.Events = events
	} else if output == outputJSON {
		say("Events", "not known: %s", line(err))
	}
	if failed := e.print(out, output); failed != nil || output == outputJSON {
		return failed
	}
	return c.printEvents(out, events, err)
}

// print prints the explanation of a pod; its Events are only included in JSON.
func (e *Explained) print(out io.Writer, output string) error {
	if output == outputJSON {
		return printJSON(out, e)
	}
	w := newGrid(out, widthOf(out))
	for _, s := range e.Says {
		_, _ = fmt.Fprintf(w, "%s:\t%s\n", s.What, s.Text)
	}
	return w.Flush()
}

// nodeWaits returns what happens when Karpenter's time for a node is over.
func nodeWaits(x guard.Explanation) string {
	if x.Facts.LetGoBy.IsZero() {
		return "calls win, and the node waits for them"
	}
	return "the pod is released in time for that"
}

// explainOne explains a pod; found is false if it has ended.
func (c *cluster) explainOne(ctx context.Context, a administered, n counts, pod *corev1.Pod) (x guard.Explanation, found bool, err error) {
	list, err := c.explainer(a, c.doorsKnown(ctx, a), n).Explain(ctx, pod.Namespace, func(p *corev1.Pod) bool { return p.UID == pod.UID })
	if err != nil || len(list) == 0 {
		return x, false, err
	}
	return list[0], true, nil
}

// doorsKnown returns what is wrong with the policies, if the user may read them. Otherwise
// only the guard's Events show it.
func (c *cluster) doorsKnown(ctx context.Context, a administered) error {
	_, err := admission.Check(ctx, c.client, a.doors)
	if forbidden(err) {
		return nil
	}
	return err
}

// state returns text about how far a pod is on its way out.
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

// unsure returns notes about what the guard may know better.
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

// events returns the guard's latest Events about a pod. Their source is only a claim: nothing in an Event is signed.
func (c *cluster) events(ctx context.Context, pod *corev1.Pod) ([]SaidEvent, error) {
	list, err := c.client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(pod.UID)}.String(), Limit: eventPages,
	})
	if err != nil {
		return nil, err
	}
	found := []SaidEvent{}
	for _, e := range list.Items {
		if e.Source.Component != guard.EventSource {
			continue
		}
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.CreationTimestamp.Time
		}
		found = append(found, SaidEvent{At: at, Reason: oneLine(e.Reason), Message: oneLine(e.Message)})
	}
	slices.SortStableFunc(found, func(a, b SaidEvent) int { return a.At.Compare(b.At) })
	return found[max(0, len(found)-latestEvents):], nil
}

// printEvents prints Events, or why they are not known.
func (c *cluster) printEvents(out io.Writer, list []SaidEvent, unknown error) error {
	switch {
	case unknown != nil:
		_, err := fmt.Fprintf(out, "Events:  not known: %s\n", line(unknown))
		return err
	case len(list) == 0:
		_, err := fmt.Fprintln(out, "Events:  none by callguard")
		return err
	}
	_, _ = fmt.Fprintln(out, "Events from drain-guard (anybody may write such):")
	w := newGrid(out, widthOf(out))
	for _, e := range list {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", age(c.now(), e.At), e.Reason, e.Message)
	}
	return w.Flush()
}
