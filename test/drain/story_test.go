// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	// storyLabel puts a story's pods on its own nodes.
	storyLabel = "story.callguard.dev/name"
	budgetName = "callguard"

	soon   = 30 * time.Second // for what only controllers do
	inTime = 90 * time.Second // for what the guard does
	setUp  = 5 * time.Minute  // until a hundred agents can take calls
)

// pool lends nodes to stories.
type pool struct {
	mu   sync.Mutex
	more *sync.Cond
	free []string
}

func newPool() *pool {
	p := &pool{}
	p.more = sync.NewCond(&p.mu)
	return p
}

func nodeNames(n int) (names []string) {
	for i := range n {
		names = append(names, local.NodeName(i+1))
	}
	return names
}

// take waits for n nodes.
func (p *pool) take(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.free) < n {
		p.more.Wait()
	}
	taken := slices.Clone(p.free[:n])
	p.free = p.free[n:]
	return taken
}

func (p *pool) give(back []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, back...)
	p.more.Broadcast()
}

// story is a test with its own namespace, nodes and callers.
type story struct {
	t       *testing.T
	ns      string
	rooms   string // the beginning of their names
	nodes   []string
	callers *fleet.Callers
	watch   *watch

	calls []*fleet.Call
}

// tell begins a story in an enabled namespace.
func tell(t *testing.T, nodes int) *story {
	t.Helper()
	return begin(t, nodes, true)
}

// tellPlain begins a story without callguard: its namespace is not enabled, and has the
// PodDisruptionBudget that people use today.
func tellPlain(t *testing.T, nodes int) *story {
	t.Helper()
	s := begin(t, nodes, false)
	one := intstr.FromInt32(1)
	_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "plain"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	return s
}

func begin(t *testing.T, n int, guarded bool) *story {
	t.Helper()
	ns := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	if len(ns) > 50 {
		ns = ns[:50]
	}
	return beginIn(t, ns, n, guarded)
}

func beginIn(t *testing.T, ns string, n int, guarded bool) *story {
	t.Helper()
	s := &story{t: t, rooms: lab.Telephone(lines.Add(1)), ns: ns}
	s.nodes = nodes.take(n)
	t.Cleanup(func() { nodes.give(s.nodes) })
	for _, node := range s.nodes {
		s.patchNode(t.Context(), node, fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, storyLabel, s.ns))
	}
	t.Cleanup(func() { s.clear() })
	t.Cleanup(func() { s.explain() })
	if guarded {
		s.must(stage.Namespace(t.Context(), s.ns))
		s.eventually(soon, "the guard has locked the namespace", func() (bool, error) {
			_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Get(t.Context(), budgetName, metav1.GetOptions{})
			return err == nil, err
		})
	} else {
		_, err := stage.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}, metav1.CreateOptions{})
		s.must(err)
	}
	s.callers = stage.NewCallers()
	t.Cleanup(s.callers.Close)
	s.watch = newWatch(t, s.ns, guarded)
	return s
}

// explain logs, for a failed story, its Events and the state of its agents.
func (s *story) explain() {
	if !s.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := stage.Client.CoreV1().Events(s.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Logf("no Events: %v", err)
		return
	}
	events := slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return e.Count == 0 }) // the scheduler's
	slices.SortFunc(events, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
	for _, e := range events[max(0, len(events)-lastLines):] {
		s.t.Logf("%s %d times, last at %s: %s: %s", e.Reason, e.Count, e.LastTimestamp.Format(time.TimeOnly), e.InvolvedObject.Name, e.Message)
	}
	for _, a := range s.agents() {
		if a.Closed || a.Draining {
			s.t.Logf("agent of %s: %+v", a.Pod.Name, a)
		}
	}
	log, err := os.ReadFile(stage.Guard.Log)
	if err != nil {
		s.t.Logf("no log of the guard: %v", err)
		return
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	s.t.Logf("the guard's log ends so:\n%s", strings.Join(lines[max(0, len(lines)-lastLines):], "\n"))
}

// lastLines is how many Events and lines of the guard's log are shown of a failed story.
const lastLines = 30

// clear ends a story and gives its nodes back as they were.
func (s *story) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), 11*time.Minute)
	defer cancel()
	if err := stage.DeleteNamespace(ctx, s.ns); err != nil {
		s.t.Error(err)
	}
	for _, node := range s.nodes {
		s.patchNode(ctx, node, fmt.Sprintf(`{"metadata":{"labels":{%q:null}},"spec":{"unschedulable":null,"taints":null}}`, storyLabel))
	}
}

func (s *story) patchNode(ctx context.Context, node, patch string) {
	s.t.Helper()
	_, err := stage.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		s.t.Errorf("cannot change %s: %v", node, err)
	}
}

func (s *story) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// eventually fails the story if the condition does not hold within the time.
func (s *story) eventually(within time.Duration, what string, holds func() (bool, error)) {
	s.t.Helper()
	s.must(lab.Eventually(s.t.Context(), within, what, holds))
}

// always fails the story if the condition stops holding within the time.
func (s *story) always(during time.Duration, what string, holds func() (bool, error)) {
	s.t.Helper()
	end := time.Now().Add(during)
	s.eventually(during+soon, what+", for "+during.String(), func() (bool, error) {
		ok, err := holds()
		if err != nil {
			return false, err
		}
		if !ok {
			s.t.Fatalf("no longer so: %s", what)
		}
		return time.Now().After(end), nil
	})
}

// template is that of a guarded agent that takes one call, on the story's nodes.
func (s *story) template() corev1.PodTemplateSpec {
	p := lab.Template()
	p.Annotations = map[string]string{fleet.AgentNameAnnotation: s.ns, fleet.MaxJobsAnnotation: "1"}
	p.Spec.NodeSelector = map[string]string{storyLabel: s.ns}
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}},
	}}
	return p
}

// deploy creates the Deployment of agents and waits until all can take calls.
func (s *story) deploy(replicas int32, with ...func(*appsv1.Deployment)) {
	s.t.Helper()
	d := lab.Agent(s.ns, replicas)
	d.Spec.Template = s.template()
	for _, change := range with {
		change(d)
	}
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(s.t.Context(), d, metav1.CreateOptions{})
	s.must(err)
	s.steady(int(replicas))
}

// stateful creates a StatefulSet of agents and waits until all can take calls.
func (s *story) stateful(replicas int32) {
	s.t.Helper()
	_, err := stage.Client.AppsV1().StatefulSets(s.ns).Create(s.t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: lab.AgentName},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}},
			PodManagementPolicy: appsv1.ParallelPodManagement, Template: s.template(),
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.steady(int(replicas))
}

// steady waits until n pods can take calls, and starts the watch then.
func (s *story) steady(n int) {
	s.t.Helper()
	s.eventually(setUp, fmt.Sprintf("%d agents can take calls", n), func() (bool, error) {
		if s.watch.able() == n && s.registered() == n {
			return true, nil
		}
		return false, fmt.Errorf("%d are registered: %s", s.registered(), s.watch.describe())
	})
	s.watch.reset()
}

// agents are the running processes of the story.
func (s *story) agents() []fleet.AgentState {
	var mine []fleet.AgentState
	for _, a := range stage.Fleet.Agents() {
		if a.Pod.Namespace == s.ns {
			mine = append(mine, a)
		}
	}
	return mine
}

func (s *story) registered() int {
	n := 0
	for _, a := range s.agents() {
		if a.Registered && !a.Closed && !a.Draining {
			n++
		}
	}
	return n
}

// dial dials n calls and waits until all are answered.
func (s *story) dial(n int) []*fleet.Call {
	s.t.Helper()
	return s.callUp(n, 1)
}

// first dials n calls to new agents. Callers who get no answer dial once more, as people
// do: LiveKit remembers for which names it has workers, and learns of the first of a name
// some 0.1 s after that worker knows (CheckEnabled in its pkg/agent/client.go).
func (s *story) first(n int) []*fleet.Call {
	s.t.Helper()
	return s.callUp(n, 2)
}

func (s *story) callUp(n, tries int) []*fleet.Call {
	s.t.Helper()
	calls, errs := make([]*fleet.Call, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		room := fmt.Sprintf("%s-%d", s.rooms, len(s.calls)+i)
		all.Go(func() {
			dialling <- struct{}{}
			defer func() { <-dialling }()
			for range tries {
				calls[i], errs[i] = s.callers.Dial(s.t.Context(), room, fleet.DialOptions{AgentName: s.ns})
				if !errors.Is(errs[i], fleet.ErrUnanswered) {
					return
				}
				room += "-again"
			}
		})
	}
	all.Wait()
	s.must(errors.Join(errs...))
	s.calls = append(s.calls, calls...)
	return calls
}

// fill dials a call for each agent that can take one.
func (s *story) fill() {
	s.t.Helper()
	s.first(s.registered())
	s.eventually(soon, "every agent has a call", func() (bool, error) {
		return !slices.ContainsFunc(s.agents(), func(a fleet.AgentState) bool { return a.ActiveJobs == 0 }), nil
	})
}

// hangUpOn ends the calls of these pods, and waits until their agents have left.
func (s *story) hangUpOn(pods ...string) {
	s.t.Helper()
	rooms := map[string]bool{}
	for _, a := range s.agents() {
		if slices.Contains(pods, a.Pod.Name) {
			for _, room := range a.Rooms {
				rooms[room] = true
			}
		}
	}
	s.hangUp(slices.DeleteFunc(slices.Clone(s.calls), func(c *fleet.Call) bool { return !rooms[c.Room] })...)
	s.eventually(soon, "the agents have left their rooms", func() (bool, error) {
		for _, a := range s.agents() {
			if slices.Contains(pods, a.Pod.Name) && a.ActiveJobs > 0 {
				return false, nil
			}
		}
		return true, nil
	})
}

// hangUp ends these calls.
func (s *story) hangUp(calls ...*fleet.Call) {
	var all sync.WaitGroup
	for _, c := range calls {
		all.Go(c.HangUp)
	}
	all.Wait()
}

// hangUpAll ends every call.
func (s *story) hangUpAll() { s.hangUp(s.calls...) }

// noneDropped fails the story if a call ended before its caller hung up.
func (s *story) noneDropped() {
	s.t.Helper()
	for _, l := range s.callers.Report().Dropped {
		s.t.Errorf("call in room %s was dropped: %s %s (pod %s on %s)", l.Room, l.Cause, l.Detail, l.Pod.Name, l.Node)
	}
}

// talking reports whether all calls are in progress.
func (s *story) talking() bool {
	r := s.callers.Report()
	return len(r.Dropped) == 0 && r.Up == len(s.calls)-r.Completed
}

// so reports whether a condition holds, and describes the pods if it does not.
func (s *story) so(ok bool) (bool, error) {
	if !ok {
		return false, errors.New(s.watch.describe())
	}
	return true, nil
}

// pods returns the names of the existing pods for which keep is true.
func (s *story) pods(keep func(*corev1.Pod) bool) []string { return s.watch.names(keep) }

func all(*corev1.Pod) bool { return true }
func on(node string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Spec.NodeName == node }
}
func in(st call.State) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return stateOf(p) == st }
}
func image(name string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == name }
}

func stateOf(p *corev1.Pod) call.State { return call.StateOf(p.Labels, p.Annotations) }

// leaving reports whether a pod accepts no new call for good.
func leaving(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil || stateOf(p) == call.Draining || stateOf(p) == call.Released
}

// gone waits until none of the pods exists.
func (s *story) gone(within time.Duration, pods ...string) {
	s.t.Helper()
	s.eventually(within, fmt.Sprintf("pods %v are gone", pods), func() (bool, error) {
		left := s.pods(func(p *corev1.Pod) bool { return slices.Contains(pods, p.Name) })
		if len(left) > 0 {
			return false, fmt.Errorf("%v are still there: %s", left, s.watch.describe())
		}
		return true, nil
	})
}

// there fails the story if one of the pods does not exist, or is being deleted.
func (s *story) there(pods ...string) {
	s.t.Helper()
	left := s.pods(func(p *corev1.Pod) bool { return slices.Contains(pods, p.Name) && p.DeletionTimestamp == nil })
	if len(left) != len(pods) {
		s.t.Errorf("of %v only %v are left: %s", pods, left, s.watch.describe())
	}
}

// bounds fails the story if there were ever more pods, or ever fewer that could take
// calls.
func (s *story) bounds(most, floor int) {
	s.t.Helper()
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if s.watch.maxPods > most {
		s.t.Errorf("there were up to %d pods; want at most %d: %s", s.watch.maxPods, most, s.watch.most)
	}
	if s.watch.minAble < floor {
		s.t.Errorf("at times only %d pods could take calls; want at least %d: %s", s.watch.minAble, floor, s.watch.fewest)
	}
}

// event waits for an Event with a reason.
func (s *story) event(reason string) {
	s.t.Helper()
	s.eventually(soon, "there is an Event "+reason, func() (bool, error) {
		list, err := stage.Client.CoreV1().Events(s.ns).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		var reasons []string
		for _, e := range list.Items {
			if e.Reason == reason {
				return true, nil
			}
			if !slices.Contains(reasons, e.Reason) {
				reasons = append(reasons, e.Reason)
			}
		}
		return false, fmt.Errorf("only %v", reasons)
	})
}

// told waits for an Event on an object of a namespace with a reason and a text.
func (s *story) told(namespace, kind, name, reason, text string) {
	s.t.Helper()
	s.eventually(soon, fmt.Sprintf("there is an Event %s on %s %s with %q", reason, kind, name, text), func() (bool, error) {
		list, err := stage.Client.CoreV1().Events(namespace).List(s.t.Context(), metav1.ListOptions{
			FieldSelector: fields.Set{"involvedObject.kind": kind, "involvedObject.name": name, "reason": reason}.String(),
		})
		if err != nil {
			return false, err
		}
		var others []string
		for _, e := range list.Items {
			if strings.Contains(e.Message, text) {
				return true, nil
			}
			others = append(others, e.Message)
		}
		return false, fmt.Errorf("only %q", others)
	})
}

// kubectl runs kubectl as an administrator in the story's namespace.
func (s *story) kubectl(args ...string) (string, error) {
	return stage.Kubectl(s.t.Context(), append([]string{"--namespace", s.ns}, args...)...)
}

// does runs kubectl, which must succeed.
func (s *story) does(args ...string) {
	s.t.Helper()
	_, err := s.kubectl(args...)
	s.must(err)
}

// command is a running kubectl.
type command struct {
	what  string
	done  chan struct{}
	out   string
	err   error
	ended time.Time
}

// start runs kubectl in the background.
func (s *story) start(args ...string) *command {
	c := &command{what: "kubectl " + strings.Join(args, " "), done: make(chan struct{})}
	go func() {
		c.out, c.err = s.kubectl(args...)
		c.ended = time.Now()
		close(c.done)
	}()
	s.t.Cleanup(func() { <-c.done }) // the story's context ends it
	return c
}

// drain runs kubectl drain in the background.
func (s *story) drain(node string, args ...string) *command {
	return s.start(append([]string{"drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5m"}, args...)...)
}

// over reports whether the command has ended.
func (c *command) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// ends waits until the command has succeeded.
func (s *story) ends(c *command, within time.Duration) {
	s.t.Helper()
	s.eventually(within, c.what+" ends", func() (bool, error) {
		if !c.over() {
			return false, errors.New(s.watch.describe())
		}
		return true, nil
	})
	s.must(c.err)
}

// waits fails the story if the command has ended.
func (s *story) waits(c *command) {
	s.t.Helper()
	if c.over() {
		s.t.Errorf("%s has ended: %v %s", c.what, c.err, c.out)
	}
}

// rollOut gives the agents another image.
func (s *story) rollOut(kind, image string) {
	s.t.Helper()
	s.does("set", "image", kind+"/"+lab.AgentName, "agent="+image)
}

// annotated annotates agents and, with one annotation, their workload.
func annotated(pods map[string]string, workload map[string]string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Annotations = workload
		maps.Copy(d.Spec.Template.Annotations, pods)
	}
}

// metric asks the metrics API for the calls of the story's Deployment.
func (s *story) metric() (int64, error) {
	text, err := stage.Kubectl(s.t.Context(), "get", "--raw", "/apis/"+v1beta2.SchemeGroupVersion.String()+"/namespaces/"+s.ns+"/deployments.apps/"+lab.AgentName+"/active_calls")
	if err != nil {
		return 0, err
	}
	var list v1beta2.MetricValueList
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Items) != 1 {
		return 0, fmt.Errorf("%s: %w", text, err)
	}
	return list.Items[0].Value.Value(), nil
}

// counts reports whether the metrics API has n calls of the story's Deployment.
func (s *story) counts(n int64) (bool, error) {
	is, err := s.metric()
	if err == nil && is != n {
		err = fmt.Errorf("the metric is %d", is)
	}
	return err == nil, err
}
