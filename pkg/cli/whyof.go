// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/callguard/callguard/pkg/call"
)

// noPod is the error if no pod has a name, which may be that of a node.
type noPod struct{ error }

// ExplainedPods is the output of why -o json for a node or a workload.
type ExplainedPods struct {
	Kind      string `json:"kind"` // ExplainedNode or ExplainedWorkload
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Says has the lines that why prints before the pods.
	Says []Said      `json:"says"`
	Pods []PodStands `json:"pods"`
	// Calls is when the calls on a node will have ended; nil for a workload.
	Calls *Ends `json:"callsOver,omitempty"`
}

// PodStands is the state of a pod of a node or workload.
type PodStands struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node,omitempty"`
	Guarded   bool   `json:"guarded"`
	// Ends reports that it was evicted or deleted, and ends within its grace period.
	Ends  bool       `json:"ends,omitempty"`
	State call.State `json:"state,omitempty"`
	// Intent and Since are why it should go, and since when, if that is known.
	Intent call.Intent `json:"intent,omitempty"`
	Since  *time.Time  `json:"since,omitempty"`
	// Calls is null if it is not known, and Unknown is why.
	Calls    *int   `json:"calls"`
	Unknown  string `json:"unknown,omitempty"`
	Rule     string `json:"rule,omitempty"`
	Why      string `json:"why,omitempty"`
	WaitsFor string `json:"waitsFor,omitempty"`
	Do       string `json:"do,omitempty"`
}

// kindOf returns the kind of a workload for a word that people use; empty if it is unknown.
func kindOf(word string) string {
	for kind, words := range map[string][]string{
		"Deployment":  {"deployment", "deployments", "deploy", "deployment.apps", "deployments.apps"},
		"StatefulSet": {"statefulset", "statefulsets", "sts", "statefulset.apps", "statefulsets.apps"},
		"DaemonSet":   {"daemonset", "daemonsets", "ds", "daemonset.apps", "daemonsets.apps"},
	} {
		if slices.Contains(words, strings.ToLower(word)) {
			return kind
		}
	}
	return ""
}

// whyAny explains whatever a name stands for: a pod, a node or a workload.
func whyAny(ctx context.Context, c *cluster, out io.Writer, namespace, arg, output string) error {
	kind, name, typed := strings.Cut(arg, "/")
	switch {
	case !typed:
		err := why(ctx, c, out, namespace, arg, output)
		if missing, is := errors.AsType[*noPod](err); is {
			if node, failed := c.client.CoreV1().Nodes().Get(ctx, arg, metav1.GetOptions{}); failed == nil {
				return whyNode(ctx, c, out, node, output)
			}
			return missing.error
		}
		return err
	case name == "":
		return fmt.Errorf("%q names nothing; use %sNAME", arg, arg)
	case podName(arg) == name:
		return why(ctx, c, out, namespace, name, output)
	case slices.Contains([]string{"node", "nodes", "no"}, kind):
		node, err := c.node(ctx, name)
		if err != nil {
			return err
		}
		return whyNode(ctx, c, out, node, output)
	case kindOf(kind) != "":
		return whyWorkload(ctx, c, out, namespace, kindOf(kind), name, output)
	}
	return fmt.Errorf("why knows nothing of a %q; use pod/%s, node/%s, deployment/%s, statefulset/%s or daemonset/%s", kind, name, name, name, name, name)
}

// whyNode explains which pods keep a node.
func whyNode(ctx context.Context, c *cluster, out io.Writer, node *corev1.Node, output string) error {
	e, list, err := explainNode(ctx, c, node)
	if err != nil {
		return err
	}
	return e.print(out, output, list, c.now())
}

// explainNode explains a node, and returns the states of its pods without those of
// DaemonSets.
func explainNode(ctx context.Context, c *cluster, node *corev1.Node) (*ExplainedPods, []standing, error) {
	e := &ExplainedPods{Kind: "ExplainedNode", Name: node.Name, Says: []Said{}, Pods: []PodStands{}}
	state := "not cordoned, so nothing on it waits for a drain"
	if node.Spec.Unschedulable {
		state = "cordoned"
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key != corev1.TaintNodeUnschedulable {
			state += ", with taint " + taint.Key
		}
	}
	if !ready(node) {
		state += ", not ready"
	}
	e.say("Node", "%s is %s", node.Name, state)
	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node.Name).String()})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the pods of node %s: %w", node.Name, err)
	}
	var mine []*corev1.Pod
	for i := range pods.Items {
		if owner := metav1.GetControllerOfNoCopy(&pods.Items[i]); owner == nil || owner.Kind != "DaemonSet" || isGuarded(&pods.Items[i]) {
			mine = append(mine, &pods.Items[i])
		}
	}
	list, err := e.stand(ctx, c, mine)
	if err != nil {
		return nil, nil, err
	}
	ends := c.ends(ctx, []string{node.Name})
	e.Calls = &ends
	return e, list, nil
}

// whyWorkload explains which pods of a workload should go, what keeps them, and what is
// wrong with its pod template.
func whyWorkload(ctx context.Context, c *cluster, out io.Writer, namespace, kind, name, output string) error {
	t, err := c.templateOf(ctx, namespace, kind, name)
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no %s %q in namespace %s; kubectl calls -A -o wide lists the owners of guarded pods", kind, name, namespace)
	case err != nil:
		return fmt.Errorf("cannot read %s %s/%s: %w", kind, namespace, name, err)
	}
	e := &ExplainedPods{Kind: "ExplainedWorkload", Namespace: namespace, Name: kind + "/" + name, Says: []Said{}, Pods: []PodStands{}}
	e.say("Workload", "%s %s/%s", kind, namespace, name)
	for _, mistake := range append(t.mistakes(), t.deadlyProbes()...) {
		e.say("Mistake", "%s", mistake)
	}
	if t.spec.Labels[call.GuardedLabel] != "true" {
		e.say("State", "its pods are not guarded, and nothing holds or counts their calls")
		e.say("Do", "label its pod template %s: \"true\"", call.GuardedLabel)
	}
	r, err := c.replacements(ctx, namespace)
	if err != nil {
		return err
	}
	guarded, err := c.guarded(ctx, namespace, "", "")
	if err != nil {
		return err
	}
	mine := slices.DeleteFunc(guarded, func(p *corev1.Pod) bool { return r.top(p) != t.meta.UID })
	list, err := e.stand(ctx, c, mine)
	if err != nil {
		return err
	}
	if len(mine) > 0 {
		if stuck := r.stuck(mine[0]); stuck != "" {
			e.say("New pods", "%s", strings.TrimPrefix(stuck, "its "))
		}
	}
	return e.print(out, output, list, c.now())
}

// templateOf reads a workload's pod template.
func (c *cluster) templateOf(ctx context.Context, namespace, kind, name string) (template, error) {
	apps := c.client.AppsV1()
	switch kind {
	case "Deployment":
		o, err := apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return template{}, err
		}
		return template{kind, o.ObjectMeta, o.Spec.Template}, nil
	case "StatefulSet":
		o, err := apps.StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return template{}, err
		}
		return template{kind, o.ObjectMeta, o.Spec.Template}, nil
	default:
		o, err := apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return template{}, err
		}
		return template{kind, o.ObjectMeta, o.Spec.Template}, nil
	}
}

func (e *ExplainedPods) say(what, format string, args ...any) {
	e.Says = append(e.Says, Said{what, fmt.Sprintf(format, args...)})
}

// stand records the states of pods, and a summary.
func (e *ExplainedPods) stand(ctx context.Context, c *cluster, pods []*corev1.Pod) ([]standing, error) {
	var names []string
	for _, pod := range pods {
		if isGuarded(pod) && !slices.Contains(names, pod.Namespace) {
			names = append(names, pod.Namespace)
		}
	}
	enabled, err := c.optIns(ctx, names)
	if err != nil {
		return nil, err
	}
	a := c.administered(ctx)
	w := newProgress(c, a, &lines{to: io.Discard}, "")
	w.unprotected = map[string]string{}
	for name, is := range enabled {
		if !is.on {
			w.unprotected[name] = is.off(name)
			e.say("Do", "an administrator enables the namespace: %s", is.enable(name))
		}
	}
	list := w.standings(ctx, pods)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	guarded, going, held := 0, 0, 0
	for _, s := range list {
		if s.guarded {
			guarded++
		}
		if s.intent != "" {
			going++
			if s.state != call.Released {
				held++
			}
		}
		e.Pods = append(e.Pods, s.shown())
	}
	text := plural(guarded, "guarded pod")
	if guarded > 0 {
		text += withCalls(callsOf(list))
	}
	if other := len(list) - guarded; other > 0 {
		text += fmt.Sprintf("; %s not guarded", plural(other, "pod"))
	}
	e.say("Pods", "%s", text)
	switch {
	case going == 0 && guarded > 0:
		e.say("Waits", "nothing: no guarded pod of it should go")
	case going > 0:
		e.say("Waits", "%d should go; still held: %d", going, held)
	}
	if a.note != "" && held > 0 {
		e.say("Unsure", "%s", a.note)
	}
	return list, nil
}

// print prints the explanation, a line for each pod, and what to do.
func (e *ExplainedPods) print(out io.Writer, output string, list []standing, now time.Time) error {
	if output == outputJSON {
		return printJSON(out, e)
	}
	w := newGrid(out, widthOf(out))
	for _, s := range e.Says {
		_, _ = fmt.Fprintf(w, "%s:\t%s\n", s.What, s.Text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var todo []string
	held := false
	for _, s := range list {
		_, _ = fmt.Fprintf(out, "  %s: %s\n", s.name(), s)
		if do := s.advice.Do; s.why != "" && do != "" && do != "nothing" && !slices.Contains(todo, do) {
			todo = append(todo, do)
		}
		n, known := s.calls.Calls()
		held = held || s.counts() && (n > 0 || !known)
	}
	for _, do := range todo {
		_, _ = fmt.Fprintf(out, "Do: %s\n", do)
	}
	if e.Calls != nil && held {
		_, _ = fmt.Fprintln(out, e.Calls.sentence(now))
	}
	return nil
}
