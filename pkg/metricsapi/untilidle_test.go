// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
)

// learn ends n calls of ten minutes in the workload of a pod of namespace voice.
func learn(t *testing.T, p *Provider, pod string, n int) {
	t.Helper()
	table := p.lengths.Table(call.DefaultProject, types.UID("voice"+pod))
	if table == nil {
		t.Fatalf("pod %s has no table", pod)
	}
	for range n {
		table.Add(0, 10*time.Minute, true)
	}
}

// aged has the ages of the pods' calls.
func aged(of map[string][]time.Duration) func(*call.Pod, time.Time) []time.Duration {
	return func(pod *call.Pod, _ time.Time) []time.Duration { return slices.Clone(of[pod.Name]) }
}

func TestUntilIdle(t *testing.T) {
	ages := map[string][]time.Duration{
		"a": {7 * time.Minute}, "c": {time.Minute}, // and one whose beginning was not seen
		"d": {8 * time.Minute, 9 * time.Minute, 9 * time.Minute, 9 * time.Minute, 5 * time.Hour}, // more than count
	}
	for name, tc := range map[string]struct {
		reason             string
		learnt             int // calls of Deployment web
		calls              map[string]int
		resource, ns, name string
		selector           string
		from, to           time.Duration
		status             int
		message            string
	}{
		"Pod":          {reason: "Its call lasts for the rest of ten minutes.", learnt: 100, resource: "pods", ns: "voice", name: "a", from: 2 * time.Minute, to: 4 * time.Minute},
		"Idle":         {reason: "It holds none.", learnt: 100, resource: "pods", ns: "voice", name: "b"},
		"IdleUnlearnt": {reason: "A pod without a call is idle, whatever is known of calls.", resource: "pods", ns: "voice", name: "b"},
		"Unseen":       {reason: "A call whose beginning was not seen may have just begun.", learnt: 100, resource: "pods", ns: "voice", name: "c", from: 9 * time.Minute, to: 12 * time.Minute},
		"Doubted":      {reason: "Calls that do not count are not waited for: the oldest.", learnt: 100, resource: "pods", ns: "voice", name: "d", from: time.Minute, to: 3 * time.Minute},
		"Deployment":   {reason: "The last of all its calls.", learnt: 100, resource: "deployments.apps", ns: "voice", name: "web", from: 9 * time.Minute, to: 12 * time.Minute},
		"Node":         {reason: "The last call of the node's pods, but not of DaemonSets: a drain leaves those.", learnt: 100, resource: "nodes", name: "node-1", from: 2 * time.Minute, to: 4 * time.Minute},
		"Quantile":     {reason: "Surer is later.", learnt: 100, resource: "pods", ns: "voice", name: "a", selector: "quantile=0.99", from: 2 * time.Minute, to: 5 * time.Minute},
		"NotLearnt":    {reason: "A guess from a few calls is none.", learnt: 19, resource: "pods", ns: "voice", name: "a", status: 503, message: "of Deployment voice/web last is not known yet: metrics-adapter has seen 19 of them end since it started, and needs 20"},
		"Unknown":      {reason: "Calls that are not known have no end.", learnt: 100, calls: map[string]int{"a": 1}, resource: "nodes", name: "node-1", status: 503, message: "how many calls pod voice/b holds is not known: nobody knows"},
		"State":        {reason: "It has no such label.", learnt: 100, resource: "pods", ns: "voice", name: "a", selector: "state=serving", status: 400, message: "use quantile=0.9"},
		"Certain":      {reason: "Nothing is certain.", learnt: 100, resource: "pods", ns: "voice", name: "a", selector: "quantile=1", status: 400, message: "use quantile=0.9"},
		"NoNumber":     {reason: "A quantile is a number.", learnt: 100, resource: "pods", ns: "voice", name: "a", selector: "quantile=NaN", status: 400, message: "use quantile=0.9"},
		"ReplicaSet":   {reason: "It is not served for all.", learnt: 100, resource: "replicasets.apps", ns: "voice", name: "web-1", status: 404},
	} {
		t.Run(name, func(t *testing.T) {
			w := allKnown()
			if tc.calls != nil {
				w.calls = tc.calls
			}
			p := testProvider(w)
			p.lengths.Ages = aged(ages)
			daemon := *p.store.Pod(types.NamespacedName{Namespace: "voice", Name: "a"})
			daemon.Name, daemon.UID, daemon.Owner = "db-0", "voicedaemon", call.Owner{Kind: "DaemonSet", Name: "agents"}
			if tc.resource == "nodes" {
				p.store.SetPod(&daemon)
			}
			learn(t, p, "a", tc.learnt)
			value, err := p.GetMetricByName(t.Context(), types.NamespacedName{Namespace: tc.ns, Name: tc.name}, info(tc.resource, UntilIdle), selector(t, tc.selector))
			if tc.status != 0 {
				var status apierrors.APIStatus
				if !apierrors.IsNotFound(err) && (err == nil || !strings.Contains(err.Error(), tc.message)) {
					t.Fatalf("%s %v; want an error that says %q", tc.reason, err, tc.message)
				} else if ok := asStatus(err, &status); !ok || int(status.Status().Code) != tc.status {
					t.Fatalf("%s %v; want %d", tc.reason, err, tc.status)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s %v", tc.reason, err)
			}
			if got := time.Duration(value.Value.Value()) * time.Second; got < tc.from || got > tc.to {
				t.Errorf("%s estimated %s; want %s to %s", tc.reason, got, tc.from, tc.to)
			}
		})
	}
}

func asStatus(err error, into *apierrors.APIStatus) bool {
	status, ok := err.(apierrors.APIStatus)
	*into = status
	return ok
}

// TestUntilIdleOfWitnesses: nothing is estimated for a pod whose individual calls are
// unknown.
func TestUntilIdleOfWitnesses(t *testing.T) {
	for name, tc := range map[string]struct {
		witnesses []call.Witness
		message   string
	}{
		"Rooms":  {witnesses: []call.Witness{call.Rooms}},
		"Gate":   {witnesses: []call.Witness{call.Gate}},
		"Worker": {witnesses: []call.Witness{call.Worker}, message: `only witnesses "rooms" and "gate" tell of each of them, and the pod names neither`},
	} {
		t.Run(name, func(t *testing.T) {
			p := testProvider(allKnown())
			pod := *p.store.Pod(types.NamespacedName{Namespace: "voice", Name: "a"})
			pod.Witnesses = tc.witnesses
			p.store.SetPod(&pod)
			learn(t, p, "a", 100)
			_, err := p.GetMetricByName(t.Context(), pod.NamespacedName, info("pods", UntilIdle), labels.Everything())
			if tc.message == "" && err != nil || tc.message != "" && (err == nil || !strings.Contains(err.Error(), tc.message)) {
				t.Errorf("%v; want an error that says %q", err, tc.message)
			}
		})
	}
}

// TestUntilIdleOfSome: a list omits objects of which too little is known.
func TestUntilIdleOfSome(t *testing.T) {
	p := testProvider(allKnown())
	learn(t, p, "a", 100) // and none of StatefulSet db
	list, err := p.GetMetricBySelector(t.Context(), "voice", labels.Everything(), info("pods", UntilIdle), labels.Everything())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range list.Items {
		names = append(names, v.DescribedObject.Name)
	}
	if want := []string{"a", "b", "c", "d"}; !slices.Equal(names, want) {
		t.Errorf("estimates for %v; want %v", names, want)
	}
}

// TestOthersTeachNothing: the owner of another LiveKit project cannot influence how long
// the calls of a workload last, and a workload keeps what was learnt while it has no pods.
func TestOthersTeachNothing(t *testing.T) {
	p := testProvider(allKnown())
	if p.lengths.Table("voice/other", "voicea") != nil {
		t.Error("another project teaches lengths of a pod that is not its own")
	}
	learn(t, p, "a", lengths.Enough)
	before := p.lengths.Table(call.DefaultProject, "voicea")
	for _, name := range []string{"a", "b", "c", "d"} {
		p.store.DeletePod(types.NamespacedName{Namespace: "voice", Name: name}, types.UID("voice"+name))
	}
	p.store.SetPod(&call.Pod{
		NamespacedName: types.NamespacedName{Namespace: "voice", Name: "again"}, UID: "voiceagain", Owner: call.Owner{Kind: "Deployment", Name: "web"},
		State: call.Serving, Running: true, Witnesses: call.DefaultWitnesses(), Project: call.DefaultProject,
	})
	if after := p.lengths.Table(call.DefaultProject, "voiceagain"); after != before {
		t.Error("the lengths are forgotten with the pods")
	}
}
