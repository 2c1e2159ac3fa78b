// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/witness"
	"github.com/callguard/callguard/test/trial"
)

func noon() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }

// known answers from a map by pod name; a missing pod is unknown.
type known struct {
	calls map[string]int
	stale map[call.Project]error
}

func (w known) Reading(p *call.Pod, now time.Time) call.Reading {
	if n, ok := w.calls[p.Name]; ok {
		return call.Known(n, now.Add(-time.Duration(n)*time.Second))
	}
	return call.Unknown("nobody knows")
}

func (w known) Fresh(p call.Project, _ time.Time) error { return w.stale[p] }

// testProvider knows namespace voice (enabled) with Deployment web and its pods
// a to d, StatefulSet db with db-0, and namespace other, which is not enabled.
func testProvider(w known) *Provider {
	store := pods.NewStore()
	object := func(kind, namespace, name string, labels map[string]string) *pods.Object {
		return &pods.Object{Kind: kind, NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}, UID: types.UID(kind + name), Labels: labels, Guarded: true}
	}
	store.SetObject(object(pods.Namespace, "", "voice", map[string]string{"team": "a"}))
	store.SetObject(object(pods.Deployment, "voice", "web", map[string]string{"tier": "front"}))
	store.SetObject(object(pods.Deployment, "voice", "empty", nil))
	unguarded := object(pods.Deployment, "voice", "unguarded", nil)
	unguarded.Guarded = false
	store.SetObject(unguarded)
	store.SetObject(object(pods.StatefulSet, "voice", "db", nil))
	rs := object(pods.ReplicaSet, "voice", "web-1", nil)
	rs.Owner = call.Owner{Kind: pods.Deployment, Name: "web"}
	store.SetObject(rs)
	store.SetObject(object(pods.Node, "", "node-1", map[string]string{"zone": "x"}))
	store.SetObject(object(pods.Node, "", "node-2", nil))
	pod := func(namespace, name, node string, owner call.Owner, state call.State) {
		store.SetPod(&call.Pod{
			NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}, UID: types.UID(namespace + name), Node: node,
			Labels: map[string]string{"app": "web", "name": name}, Owner: owner, State: state, Running: true,
			Witnesses: call.DefaultWitnesses(), Project: call.DefaultProject,
		})
	}
	owner := call.Owner{Kind: pods.ReplicaSet, Name: "web-1", UID: rs.UID}
	pod("voice", "a", "node-1", owner, call.Serving)
	pod("voice", "b", "node-1", owner, call.Serving)
	pod("voice", "c", "node-2", owner, call.Draining)
	pod("voice", "d", "node-2", call.Owner{Kind: pods.Deployment, Name: "web"}, call.Aside)
	pod("voice", "db-0", "node-2", call.Owner{Kind: pods.StatefulSet, Name: "db"}, call.Serving)
	pod("other", "e", "node-1", call.Owner{}, call.Serving)
	return New(store, witness.New(w, w, w, func(*call.Pod) {}), NewLengths(store), noon)
}

func allKnown() known {
	return known{calls: map[string]int{"a": 1, "b": 0, "c": 2, "d": 4, "db-0": 8, "e": 16}}
}

func info(resource, metric string) provider.CustomMetricInfo {
	gr := schema.ParseGroupResource(resource)
	return provider.CustomMetricInfo{GroupResource: gr, Namespaced: resource != "nodes" && resource != "namespaces", Metric: metric}
}

func selector(t *testing.T, s string) labels.Selector {
	t.Helper()
	parsed, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestByName(t *testing.T) {
	some := known{calls: map[string]int{"a": 1, "c": 2, "d": 4}} // b and db-0 are unknown
	stale := allKnown()
	stale.stale = map[call.Project]error{call.DefaultProject: fmt.Errorf("LiveKit is silent")}
	cases := map[string]struct {
		reason                            string
		witness                           known
		resource, namespace, name, metric string
		selector                          string
		want                              int64
		status                            int
		message                           string
	}{
		"Pod":                  {reason: "A pod's calls.", witness: allKnown(), resource: "pods", namespace: "voice", name: "c", metric: ActiveCalls, want: 2},
		"IdlePod":              {reason: "Known to be idle.", witness: allKnown(), resource: "pods", namespace: "voice", name: "b", metric: ActiveCalls, want: 0},
		"UnknownPod":           {reason: "Unknown is never zero.", witness: some, resource: "pods", namespace: "voice", name: "b", metric: ActiveCalls, status: 503, message: "1 of 1 pods are unknown; pod voice/b: nobody knows"},
		"NoSuchPod":            {reason: "A pod that is gone is gone.", witness: allKnown(), resource: "pods", namespace: "voice", name: "z", metric: ActiveCalls, status: 404, message: "callguard.dev/guarded"},
		"PodElsewhere":         {reason: "Without the administrator's label nothing is served.", witness: allKnown(), resource: "pods", namespace: "other", name: "e", metric: ActiveCalls, status: 404, message: "label it callguard.dev/enabled=true"},
		"Deployment":           {reason: "All its pods, set aside or not.", witness: allKnown(), resource: "deployments.apps", namespace: "voice", name: "web", metric: ActiveCalls, want: 7},
		"DeploymentPartly":     {reason: "An unknown pod is left out of a sum.", witness: some, resource: "deployments.apps", namespace: "voice", name: "web", metric: ActiveCalls, want: 7},
		"DeploymentEmpty":      {reason: "No pods hold no calls.", witness: some, resource: "deployments.apps", namespace: "voice", name: "empty", metric: ActiveCalls, want: 0},
		"DeploymentUnguarded":  {reason: "Nothing is known of a workload that is not guarded.", witness: allKnown(), resource: "deployments.apps", namespace: "voice", name: "unguarded", metric: ActiveCalls, status: 404, message: "pod template"},
		"NoSuchDeployment":     {reason: "The API's own 404.", witness: allKnown(), resource: "deployments.apps", namespace: "voice", name: "wbe", metric: ActiveCalls, status: 404, message: `deployments.apps "wbe" not found`},
		"ReplicaSet":           {reason: "A pod set aside is no longer its ReplicaSet's.", witness: allKnown(), resource: "replicasets.apps", namespace: "voice", name: "web-1", metric: ActiveCalls, want: 3},
		"StatefulSet":          {reason: "A StatefulSet owns its pods itself.", witness: allKnown(), resource: "statefulsets.apps", namespace: "voice", name: "db", metric: ActiveCalls, want: 8},
		"StatefulSetUnknown":   {reason: "All of its pods are unknown.", witness: some, resource: "statefulsets.apps", namespace: "voice", name: "db", metric: ActiveCalls, status: 503, message: "1 of 1"},
		"Namespace":            {reason: "All guarded pods of a namespace.", witness: allKnown(), resource: "namespaces", name: "voice", metric: ActiveCalls, want: 15},
		"NamespaceNotEnabled":  {reason: "Not enabled.", witness: allKnown(), resource: "namespaces", name: "other", metric: ActiveCalls, status: 404, message: "label it"},
		"Node":                 {reason: "Guarded pods of enabled namespaces on a node.", witness: allKnown(), resource: "nodes", name: "node-1", metric: ActiveCalls, want: 1},
		"NoSuchNode":           {reason: "The API's own 404.", witness: allKnown(), resource: "nodes", name: "node-9", metric: ActiveCalls, status: 404},
		"BusyPods":             {reason: "Pods with calls.", witness: allKnown(), resource: "deployments.apps", namespace: "voice", name: "web", metric: BusyPods, want: 3},
		"BusyPodsUnknown":      {reason: "Unknown counts as busy.", witness: some, resource: "deployments.apps", namespace: "voice", name: "web", metric: BusyPods, want: 4},
		"DrainingPods":         {reason: "Pods that take no new call.", witness: some, resource: "deployments.apps", namespace: "voice", name: "web", metric: DrainingPods, want: 1},
		"Stale":                {reason: "An implausible number is not served.", witness: stale, resource: "deployments.apps", namespace: "voice", name: "web", metric: ActiveCalls, status: 503, message: "LiveKit is silent"},
		"StaleBusy":            {reason: "Nor by another name.", witness: stale, resource: "deployments.apps", namespace: "voice", name: "web", metric: BusyPods, status: 503},
		"StaleDraining":        {reason: "Draining is known from Kubernetes alone.", witness: stale, resource: "deployments.apps", namespace: "voice", name: "web", metric: DrainingPods, want: 1},
		"MetricSelector":       {reason: "Only pods of a state.", witness: allKnown(), resource: "deployments.apps", namespace: "voice", name: "web", metric: ActiveCalls, selector: "state in (serving,aside)", want: 5},
		"MetricSelectorNone":   {reason: "A pod of another state has no such value.", witness: allKnown(), resource: "pods", namespace: "voice", name: "c", metric: ActiveCalls, selector: "state=serving", status: 404},
		"MetricSelectorBad":    {reason: "A label that the metric does not have.", witness: allKnown(), resource: "pods", namespace: "voice", name: "c", metric: ActiveCalls, selector: "room=x", status: 400, message: `label "room"`},
		"UnknownMetric":        {reason: "The API's own 404.", witness: allKnown(), resource: "pods", namespace: "voice", name: "c", metric: "calls", status: 404, message: "could not find the metric calls for pods"},
		"UnknownResource":      {reason: "The API's own 404.", witness: allKnown(), resource: "services", namespace: "voice", name: "c", metric: ActiveCalls, status: 404},
		"MetricOfOtherKind":    {reason: "Busy pods of a pod make no sense.", witness: allKnown(), resource: "pods", namespace: "voice", name: "c", metric: BusyPods, status: 404},
		"WorkloadInNoAPIGroup": {reason: "Deployments are in group apps.", witness: allKnown(), resource: "deployments", namespace: "voice", name: "web", metric: ActiveCalls, status: 404},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := testProvider(tc.witness)
			got, err := p.GetMetricByName(t.Context(), types.NamespacedName{Namespace: tc.namespace, Name: tc.name}, info(tc.resource, tc.metric), selector(t, tc.selector))
			if tc.status != 0 {
				status, ok := err.(apierrors.APIStatus) // the API server looks at the error itself
				if !ok || int(status.Status().Code) != tc.status || !strings.Contains(err.Error(), tc.message) {
					t.Fatalf("%s got %v, want status %d with %q", tc.reason, err, tc.status, tc.message)
				}
				if d := status.Status().Details; d != nil && d.RetryAfterSeconds != 0 {
					t.Error("a Retry-After would make every autoscaler sleep")
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			if got.Value.Value() != tc.want {
				t.Errorf("%s got %s, want %d", tc.reason, got.Value.String(), tc.want)
			}
		})
	}
}

func TestBySelector(t *testing.T) {
	some := allKnown()
	delete(some.calls, "b")
	most := known{calls: map[string]int{"a": 1}}
	silent := allKnown() // but of node-1
	delete(silent.calls, "a")
	delete(silent.calls, "b")
	cases := map[string]struct {
		reason                      string
		witness                     known
		resource, namespace, labels string
		want                        map[string]int64
		status                      int
	}{
		"AllPods":         {"Every pod by its name.", allKnown(), "pods", "voice", "", map[string]int64{"voice/a": 1, "voice/b": 0, "voice/c": 2, "voice/d": 4, "voice/db-0": 8}, 0},
		"SomePods":        {"By label.", allKnown(), "pods", "voice", "name in (a,c)", map[string]int64{"voice/a": 1, "voice/c": 2}, 0},
		"OneUnknown":      {"An unknown pod is left out.", some, "pods", "voice", "name in (a,b)", map[string]int64{"voice/a": 1}, 0},
		"MostUnknown":     {"More than half are unknown.", most, "pods", "voice", "", nil, 503},
		"NoMatch":         {"An empty list, on which the autoscaler holds.", allKnown(), "pods", "voice", "name=nope", map[string]int64{}, 0},
		"OtherNamespace":  {"Not enabled.", allKnown(), "pods", "other", "", map[string]int64{}, 0},
		"Deployments":     {"Guarded ones, with or without pods.", allKnown(), "deployments.apps", "voice", "", map[string]int64{"voice/web": 7, "voice/empty": 0}, 0},
		"DeploymentLabel": {"By the Deployment's own labels.", allKnown(), "deployments.apps", "voice", "tier=front", map[string]int64{"voice/web": 7}, 0},
		"Nodes":           {"Every node.", allKnown(), "nodes", "", "", map[string]int64{"/node-1": 1, "/node-2": 14}, 0},
		"NodeUnknown":     {"A node of which nothing is known has no zero.", silent, "nodes", "", "", map[string]int64{"/node-2": 14}, 0},
		"NodePartly":      {"Half of its pods are known, so it is.", some, "nodes", "", "", map[string]int64{"/node-1": 1, "/node-2": 14}, 0},
		"NodesUnknown":    {"More than half of all are unknown.", most, "nodes", "", "", nil, 503},
		"HalfUnknown":     {"As by its name: half of its pods are known.", silent, "deployments.apps", "voice", "", map[string]int64{"voice/web": 6, "voice/empty": 0}, 0},
		"NodeLabel":       {"By the node's labels.", allKnown(), "nodes", "", "zone=x", map[string]int64{"/node-1": 1}, 0},
		"Namespaces":      {"Enabled ones.", allKnown(), "namespaces", "", "", map[string]int64{"/voice": 15}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			list, err := testProvider(tc.witness).GetMetricBySelector(t.Context(), tc.namespace, selector(t, tc.labels), info(tc.resource, ActiveCalls), labels.Everything())
			if tc.status != 0 {
				if !apierrors.IsServiceUnavailable(err) {
					t.Fatalf("%s got %v, want status %d", tc.reason, err, tc.status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int64{}
			for _, item := range list.Items {
				got[item.DescribedObject.Namespace+"/"+item.DescribedObject.Name] = item.Value.Value()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestDescribedObject(t *testing.T) {
	want := map[string]custom_metrics.ObjectReference{
		"pods":              {Kind: "Pod", APIVersion: "v1", Namespace: "voice", Name: "a"},
		"deployments.apps":  {Kind: "Deployment", APIVersion: "apps/v1", Namespace: "voice", Name: "web"},
		"statefulsets.apps": {Kind: "StatefulSet", APIVersion: "apps/v1", Namespace: "voice", Name: "db"},
		"replicasets.apps":  {Kind: "ReplicaSet", APIVersion: "apps/v1", Namespace: "voice", Name: "web-1"},
		"namespaces":        {Kind: "Namespace", APIVersion: "v1", Name: "voice"},
		"nodes":             {Kind: "Node", APIVersion: "v1", Name: "node-1"},
	}
	for resource, ref := range want {
		got, err := testProvider(allKnown()).GetMetricByName(t.Context(), types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, info(resource, ActiveCalls), labels.Everything())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ref, got.DescribedObject); diff != "" {
			t.Errorf("%s -want, +got:\n%s", resource, diff)
		}
	}
}

func TestTimestampIsTheSamples(t *testing.T) {
	got, err := testProvider(allKnown()).GetMetricByName(t.Context(), types.NamespacedName{Namespace: "voice", Name: "web"}, info("deployments.apps", ActiveCalls), labels.Everything())
	if err != nil {
		t.Fatal(err)
	}
	if want := noon().Add(-4 * time.Second); !got.Timestamp.Time.Equal(want) {
		t.Errorf("timestamp %s, want that of the oldest reading, %s", got.Timestamp.Time, want)
	}
}

func TestListAllMetrics(t *testing.T) {
	if got := len(testProvider(allKnown()).ListAllMetrics()); got != 17 {
		t.Errorf("%d metrics are listed, want 17", got)
	}
}

// among returns a Provider of Deployment web with five pods among n others in its
// namespace.
func among(n int) *Provider {
	store := pods.NewStore()
	store.SetObject(&pods.Object{Kind: pods.Namespace, NamespacedName: types.NamespacedName{Name: "voice"}})
	w := known{calls: map[string]int{}}
	for i := range n + 5 {
		name, owner := fmt.Sprintf("agent-%05d", i), "web"
		if i >= 5 {
			owner = fmt.Sprintf("other-%d", i%50)
		}
		w.calls[name] = i % 3
		store.SetPod(&call.Pod{
			NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}, UID: types.UID(name),
			Owner: call.Owner{Kind: pods.Deployment, Name: owner}, State: call.Serving, Running: true, Witnesses: call.DefaultWitnesses(),
		})
	}
	return New(store, witness.New(w, w, w, func(*call.Pod) {}), NewLengths(store), noon)
}

func readWeb(t testing.TB, p *Provider) {
	value, err := p.GetMetricByName(t.Context(), types.NamespacedName{Namespace: "voice", Name: "web"}, info("deployments.apps", ActiveCalls), labels.Everything())
	if err != nil || value.Value.Value() != 4 {
		t.Fatalf("calls of web are %v, %v; want 4", value, err)
	}
}

// TestReadCostsItsWorkload: the cost of an autoscaler's read does not grow with the
// namespace. It counts bytes, because every pod that is visited takes some.
func TestReadCostsItsWorkload(t *testing.T) {
	const reads = 1000
	cost := func(others int) uint64 {
		p := among(others)
		readWeb(t, p)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range reads {
			readWeb(t, p)
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / reads
	}
	if few, many := cost(0), cost(20_000); many > few*11/10 {
		t.Errorf("a read takes %d bytes alone and %d among 20,000 other pods", few, many)
	}
}

// BenchmarkRead is the same read by itself, among this many other pods.
func BenchmarkRead(b *testing.B) {
	for _, others := range []int{500, 2_000, 5_000, 20_000} {
		p := among(others)
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			report := trial.CPU(b)
			for b.Loop() {
				readWeb(b, p)
			}
			report()
		})
	}
}

func BenchmarkList5000Pods(b *testing.B) {
	store := pods.NewStore()
	store.SetObject(&pods.Object{Kind: pods.Namespace, NamespacedName: types.NamespacedName{Name: "voice"}})
	w := known{calls: map[string]int{}}
	for i := range 5000 {
		name := fmt.Sprintf("support-agent-7d9c5b8f6d-%05d", i)
		w.calls[name] = i % 3
		store.SetPod(&call.Pod{
			NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}, UID: types.UID(name),
			Labels: map[string]string{"app": "web"}, State: call.Serving, Running: true, Witnesses: call.DefaultWitnesses(),
		})
	}
	p := New(store, witness.New(w, w, w, func(*call.Pod) {}), NewLengths(store), noon)
	app, err := labels.Parse("app=web")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		list, err := p.GetMetricBySelector(b.Context(), "voice", app, info("pods", ActiveCalls), labels.Everything())
		if err != nil || len(list.Items) != 5000 {
			b.Fatalf("%d items, %v", len(list.Items), err)
		}
	}
}

// TestDeadNode has half of a Deployment's pods on a dead node, where they cannot be
// asked. They are left out, and do not keep the others from being counted.
func TestDeadNode(t *testing.T) {
	cases := map[string]struct {
		reason string
		calls  map[string]int
		silent bool
		want   int64
		status int
	}{
		"NodeSilent":   {reason: "One pod is left, and known.", calls: map[string]int{"a": 3}, silent: true, want: 3},
		"NodeHeard":    {reason: "They may be asked again.", calls: map[string]int{"a": 3}, status: 503},
		"StillKnown":   {reason: "LiveKit's number for them counts.", calls: map[string]int{"a": 3, "c": 2}, silent: true, want: 5},
		"AllUnknown":   {reason: "Unknown is never zero.", silent: true, status: 503},
		"HalfOfOthers": {reason: "Of the others half are known.", calls: map[string]int{"c": 1}, silent: true, want: 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := testProvider(known{calls: tc.calls})
			node := *p.store.Object(pods.Node, types.NamespacedName{Name: "node-2"})
			node.Silent = tc.silent
			p.store.SetObject(&node)
			p.store.DeletePod(types.NamespacedName{Namespace: "voice", Name: "b"}, "voiceb")
			got, err := p.GetMetricByName(t.Context(), types.NamespacedName{Namespace: "voice", Name: "web"}, info("deployments.apps", ActiveCalls), nil)
			if status := (apierrors.APIStatus)(nil); tc.status != 0 && (!errors.As(err, &status) || int(status.Status().Code) != tc.status) {
				t.Fatalf("%s got %v, %v; want status %d", tc.reason, got, err, tc.status)
			}
			if tc.status == 0 && (err != nil || got.Value.Value() != tc.want) {
				t.Errorf("%s got %v, %v; want %d", tc.reason, got, err, tc.want)
			}
		})
	}
}

// TestTheSameExample: an autoscaler writes the reason into its status, which must not change
// with the order in which pods are looked at.
func TestTheSameExample(t *testing.T) {
	unknown := func(name string) *call.Pod {
		return &call.Pod{NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}}
	}
	var one, other tally
	for _, name := range []string{"b", "a", "c"} {
		one.count(unknown(name), call.Unknown("%s is asleep", name), false)
	}
	for _, name := range []string{"c", "b", "a"} {
		other.count(unknown(name), call.Unknown("%s is asleep", name), false)
	}
	a, b := one.tooLittleKnown(ActiveCalls), other.tooLittleKnown(ActiveCalls)
	if a == nil || b == nil || a.Error() != b.Error() || !strings.Contains(a.Error(), "pod voice/a: a is asleep") {
		t.Errorf("%v and %v; want the same, about pod a", a, b)
	}
}

// TestUnavailableIsPlain: the reason why a metric is not known is shown on terminals, and
// may include a tenant's text.
func TestUnavailableIsPlain(t *testing.T) {
	hostile := "\x1b[2J\n" + strings.Repeat("x", 1<<20)
	pod := &call.Pod{NamespacedName: types.NamespacedName{Namespace: "voice", Name: hostile}}
	for _, unknown := range []tally{
		{stale: errors.New(hostile)},
		{unknown: 1, example: pod, why: call.Unknown("%s", hostile)},
		{lost: 1, example: pod, why: call.Unknown("%s", hostile)},
	} {
		err := unknown.tooLittleKnown(ActiveCalls)
		if !apierrors.IsServiceUnavailable(err) || strings.ContainsAny(err.Error(), "\x1b\n") || len(err.Error()) > call.MaxText+100 {
			t.Errorf("%d bytes: %.200q", len(err.Error()), err)
		}
	}
}
