// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules"
	"github.com/callguard/callguard/pkg/verdict/rules/floor"
)

// Explainer finds what the guard would decide about pods now: it gathers facts from the
// cluster as the guard does, and asks the same rules. It writes nothing.
//
// The guard knows four things that an Explainer does not. It asks each witness separately,
// while here there is one number for all of them. It knows since when no call has begun;
// here that is now, so that a release is never predicted. It knows since when facts hold
// that objects do not date. And it sees the pods of other namespaces, by which it chooses
// nodes to empty.
type Explainer struct {
	Client   kubernetes.Interface
	Settings Settings
	// Doors is why the admission policies are not in effect; nil if they are.
	Doors error
	// Calls returns what is known of a pod's calls.
	Calls func(*call.Pod) call.Reading
	Now   time.Time
}

// Explanation is what the guard would decide about a pod.
type Explanation struct {
	Pod   *corev1.Pod
	State call.State
	// Intent is why the pod should go, and since when; zero if nothing wants it to. Its time
	// is zero if only the guard knows it.
	Intent  call.Mark
	Verdict verdict.Verdict
	// Facts are what the verdict is based on, for a pod that should go.
	Facts verdict.Facts
	// Unsure lists what could not be taken into account.
	Unsure []string
}

// Explain explains the guarded pods of a namespace for which about returns true, sorted by
// name. Pods that have ended are left out. The caller has to check whether the namespace is
// enabled.
func (e Explainer) Explain(ctx context.Context, namespace string, about func(*corev1.Pod) bool) ([]Explanation, error) {
	s, err := liveNamespace(ctx, e.Client, namespace)
	if err != nil {
		return nil, err
	}
	var keys []Key
	for _, pod := range s.pods {
		if key := s.top(pod); about(pod) && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	var workloads []*workload
	names := map[string]bool{}
	for _, key := range keys {
		w := s.workload(key)
		workloads = append(workloads, w)
		for _, m := range w.members {
			names[m.Node] = true
		}
	}
	nodes, unsure, err := e.nodes(ctx, names)
	if err != nil {
		return nil, err
	}
	pl := e.planner(nodes)
	pl.onNode = func(name string) []*corev1.Pod { // of this namespace; others are not read
		return slices.DeleteFunc(slices.Clone(s.pods), func(pod *corev1.Pod) bool { return pod.Spec.NodeName != name })
	}
	var list []Explanation
	for _, w := range workloads {
		p := pl.plan(s, w)
		if len(p.leases) > 0 {
			pl.lease = e.leases(ctx, p.leases)
			p = pl.plan(s, w)
		}
		if e.Doors != nil {
			p.shut(e.Doors)
		}
		for _, m := range w.members {
			if about(m.object) {
				x := e.explain(w, m, p)
				x.Unsure = append(x.Unsure, unsure[m.Node]...)
				list = append(list, x)
			}
		}
	}
	slices.SortFunc(list, func(a, b Explanation) int { return slices.Compare([]string{a.Pod.Name}, []string{b.Pod.Name}) })
	return list, nil
}

// planner returns a planner that looks once, at what was already read.
func (e Explainer) planner(nodes map[string]*corev1.Node) *planner {
	pl := newPlanner(e.Settings, known{
		node:  func(name string) *corev1.Node { return nodes[name] },
		calls: e.calls,
		lease: func(string) (bool, error) { return false, errLeaseUnread },
	}, func() time.Time { return e.Now })
	pl.once = true
	return pl
}

// calls uses the one known number of a pod as the answer of each witness.
func (e Explainer) calls(pod *call.Pod) (list []verdict.Reading, quiet time.Time) {
	said := e.Calls(pod)
	if n, known := said.Calls(); known {
		said = call.Known(n, e.Now) // its time is from another clock
	}
	for _, witness := range pod.Witnesses {
		list = append(list, verdict.Reading{Witness: witness, Reading: said, Since: said.At()})
	}
	return list, e.Now
}

// errOnce is why a single look cannot know that a node is lost.
var errOnce = errors.New("only the guard, which looks more than once, sees whether its lease is renewed")

// leases reads the leases of nodes. A missing lease counts as expired.
func (e Explainer) leases(ctx context.Context, nodes []string) func(string) (bool, error) {
	errs := map[string]error{}
	for _, name := range nodes {
		_, err := e.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			errs[name] = fmt.Errorf("cannot read the lease of node %s: %w", name, err)
		default:
			errs[name] = errOnce
		}
	}
	return func(name string) (bool, error) { return errs[name] == nil, errs[name] }
}

// explain returns what a plan decides about a member.
func (e Explainer) explain(w *workload, m *member, p plan) Explanation {
	x := Explanation{Pod: m.object, State: call.StateOf(m.object.Labels, m.object.Annotations)}
	if kind := m.notFollowed(); kind != "" {
		x.Unsure = append(x.Unsure, fmt.Sprintf("whether its owner, a %s, wants it to leave is known to drain-guard only, and only for kinds in drainGuard.owners of callguard's chart", kind))
	}
	for _, j := range p.judged {
		if j.member == m {
			x.Intent, x.Verdict, x.Facts = j.intent, j.verdict, j.facts
			if x.Intent.At.Equal(e.Now) {
				x.Intent.At = time.Time{} // set by this look
			}
			x.Unsure = append(x.Unsure, unsureOf(w, j)...)
			return x
		}
	}
	switch {
	case m.unlocked():
		x.Intent, x.Verdict = call.Mark{Intent: call.Unlock}, verdict.Verdict{Outcome: verdict.Release, Why: "it was unlocked, and nothing holds its calls"}
	case m.Terminating:
		x.Intent, x.Verdict = m.marked, verdict.Verdict{Outcome: verdict.Release, Why: "it is being deleted"}
	case x.State == call.Released:
		x.Intent, x.Verdict = m.marked, verdict.Verdict{Outcome: verdict.Release, Why: "its calls have ended; it may be evicted and deleted"}
		x.Intent.Intent = call.Intent(m.Labels[call.ReleasedLabel])
	default:
		x.Verdict = rules.All().Judge(verdict.Facts{Now: e.Now})
		if m.pending(e.Now) > 0 {
			x.Unsure = append(x.Unsure, "its node is tainted; only the guard knows for how long it waits before that counts")
		}
	}
	return x
}

// unsureOf returns a note for a pod that may stop taking calls because others are ready:
// the guard would ask the gates of those.
func unsureOf(w *workload, j judgement) []string {
	if j.verdict.Outcome != verdict.Drain || j.verdict.Rule != (floor.Rule{}).Name() || j.facts.Workload.TakeCalls() == 0 {
		return nil
	}
	for _, m := range w.members {
		if m != j.member && m.gated && (m.serves() || m.servesYet()) {
			return []string{"whether the workers of the other pods, such as " + m.Name + ", are registered with LiveKit only the guard knows, which asks their gates; where they are not, a Held Event says why"}
		}
	}
	return nil
}

// nodes reads nodes by name, and returns a note for each that may not be read.
func (e Explainer) nodes(ctx context.Context, names map[string]bool) (map[string]*corev1.Node, map[string][]string, error) {
	nodes, unsure := map[string]*corev1.Node{}, map[string][]string{}
	for name := range names {
		if name == "" {
			continue
		}
		node, err := e.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case apierrors.IsForbidden(err):
			unsure[name] = append(unsure[name], fmt.Sprintf("whether node %s is drained or lost is not known: %v", name, err))
		case err != nil:
			return nil, nil, fmt.Errorf("cannot read node %s: %w", name, err)
		default:
			nodes[name] = node
		}
	}
	return nodes, unsure, nil
}
