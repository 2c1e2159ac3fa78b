// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// withWaiting is testProvider with a workload "desk" of its own project in namespace voice, without pods.
func withWaiting(said map[call.Project]call.Waiting) *Provider {
	p := testProvider(allKnown())
	for name, demand := range map[string]call.Demand{
		"web":   {Project: call.DefaultProject, AgentName: "web"},
		"empty": {Project: call.DefaultProject},
		"desk":  {Project: "voice/livekit", AgentName: "desk", EveryRoom: false},
		"every": {Project: "voice/livekit", EveryRoom: true},
	} {
		p.store.SetObject(&pods.Object{Kind: pods.Deployment, NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}, UID: types.UID(name), Guarded: true, Demand: demand})
	}
	p.store.SetObject(&pods.Object{Kind: pods.Namespace, NamespacedName: types.NamespacedName{Name: "quiet"}, UID: "quiet"})
	p.Waiting = func(project call.Project, now time.Time) (call.Waiting, error) {
		w, is := said[project]
		if !is {
			return w, errors.New("LiveKit is silent")
		}
		w.At = now.Add(-time.Second)
		return w, nil
	}
	return p
}

func rooms(wants ...string) call.Waiting {
	var w call.Waiting
	for i, want := range wants {
		w.Rooms = append(w.Rooms, call.WaitingRoom{Room: fmt.Sprint("+1555", i), Wants: strings.Split(want, ",")})
	}
	return w
}

func TestWaitingCalls(t *testing.T) {
	t.Parallel()
	none := call.Waiting{}
	unsure := rooms("desk")
	unsure.Unknown, unsure.Why = 2, "nobody answers for them"
	blind := call.Waiting{Unknown: 2, Why: "nobody answers for them"}
	for name, tc := range map[string]struct {
		reason                   string
		said                     map[call.Project]call.Waiting
		resource, name, selector string
		want                     int64
		status                   int
		message                  string
	}{
		"None":           {reason: "No call waits.", said: map[call.Project]call.Waiting{"voice/livekit": none}, resource: "deployments.apps", name: "desk"},
		"ByName":         {reason: "It asks for this agent.", said: map[call.Project]call.Waiting{"voice/livekit": rooms("desk", "desk", "other", "")}, resource: "deployments.apps", name: "desk", want: 2},
		"EveryRoom":      {reason: "A room for any agent, and one for a name that no workload has.", said: map[call.Project]call.Waiting{"voice/livekit": rooms("desk", "desk", "other", "")}, resource: "deployments.apps", name: "every", want: 2},
		"OtherProject":   {reason: "Calls of another LiveKit project are not its.", said: map[call.Project]call.Waiting{"voice/livekit": rooms("desk"), call.DefaultProject: none}, resource: "deployments.apps", name: "web"},
		"OwnProject":     {reason: "Nor does it matter that another cannot be read.", said: map[call.Project]call.Waiting{call.DefaultProject: rooms("web")}, resource: "deployments.apps", name: "web", want: 1},
		"People":         {reason: "Rooms of people alone scale nothing.", said: map[call.Project]call.Waiting{call.DefaultProject: rooms("", "")}, resource: "deployments.apps", name: "empty"},
		"Namespace":      {reason: "Each call once, whichever workloads it waits for.", said: map[call.Project]call.Waiting{"voice/livekit": rooms("desk,other", "other"), call.DefaultProject: rooms("web", "")}, resource: "namespaces", name: "voice", want: 3},
		"NamespaceQuiet": {reason: "Nothing in it takes calls.", said: map[call.Project]call.Waiting{"voice/livekit": rooms("desk")}, resource: "namespaces", name: "quiet"},
		"Silent":         {reason: "Unknown is never zero.", resource: "deployments.apps", name: "desk", status: 503, message: "waiting_calls is not known: LiveKit is silent"},
		"Blind":          {reason: "Nor is it if it is unknown what a caller wants.", said: map[call.Project]call.Waiting{"voice/livekit": blind}, resource: "deployments.apps", name: "desk", status: 503, message: "2 rooms of LiveKit project voice/livekit have a caller and no agent, and it is not known whether they asked for one: nobody answers for them"},
		"AtLeast":        {reason: "Calls that are known to wait count.", said: map[call.Project]call.Waiting{"voice/livekit": unsure}, resource: "deployments.apps", name: "desk", want: 1},
		"Unguarded":      {reason: "It takes no calls that callguard knows of.", said: map[call.Project]call.Waiting{call.DefaultProject: none}, resource: "deployments.apps", name: "unguarded", status: 404, message: "pod template"},
		"Pods":           {reason: "No call waits for a pod.", resource: "pods", name: "a", status: 404},
		"State":          {reason: "A waiting call has no pod state.", said: map[call.Project]call.Waiting{"voice/livekit": none}, resource: "deployments.apps", name: "desk", selector: "state=serving", status: 400, message: "waiting_calls has no labels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := types.NamespacedName{Namespace: "voice", Name: tc.name}
			if tc.resource == "namespaces" {
				key.Namespace = ""
			}
			value, err := withWaiting(tc.said).GetMetricByName(t.Context(), key, info(tc.resource, WaitingCalls), selector(t, tc.selector))
			switch {
			case tc.status == 0 && (err != nil || value.Value.Value() != tc.want):
				t.Errorf("%s: got %v, %v; want %d", tc.reason, value, err, tc.want)
			case tc.status != 0 && (err == nil || int(apiStatus(err)) != tc.status || !strings.Contains(err.Error(), tc.message)):
				t.Errorf("%s: got %v, %v; want %d with %q", tc.reason, value, err, tc.status, tc.message)
			case err != nil && strings.Contains(err.Error(), "+1555"):
				t.Errorf("a room is named: %v", err)
			}
		})
	}
}

func apiStatus(err error) int32 {
	var status apierrors.APIStatus
	if asStatus(err, &status) {
		return status.Status().Code
	}
	return 0
}

// TestWaitingCallsOfMany: a list omits what is unknown, and fails if all of it is.
func TestWaitingCallsOfMany(t *testing.T) {
	t.Parallel()
	p := withWaiting(map[call.Project]call.Waiting{"voice/livekit": rooms("desk")})
	list, err := p.GetMetricBySelector(t.Context(), "voice", labels.Everything(), info("deployments.apps", WaitingCalls), nil)
	if err != nil || len(list.Items) != 2 || list.Items[0].DescribedObject.Name != "desk" || list.Items[0].Value.Value() != 1 || list.Items[1].DescribedObject.Name != "every" {
		t.Errorf("got %v, %v; want desk and every", list, err)
	}
	if list, err := withWaiting(nil).GetMetricBySelector(t.Context(), "voice", labels.Everything(), info("deployments.apps", WaitingCalls), nil); err == nil {
		t.Errorf("where nothing is known the answer is %v", list)
	}
}

// TestWaitingCallsInPrometheus: unknown numbers have no series.
func TestWaitingCallsInPrometheus(t *testing.T) {
	t.Parallel()
	p := withWaiting(map[call.Project]call.Waiting{"voice/livekit": rooms("desk")})
	const want = `
# HELP callguard_waiting_calls Calls that wait for an agent of a Deployment or StatefulSet, as waiting_calls of the metrics API. A call that several could take counts for each. Absent while too little is known.
# TYPE callguard_waiting_calls gauge
callguard_waiting_calls{namespace="voice",workload="Deployment/desk"} 1
callguard_waiting_calls{namespace="voice",workload="Deployment/every"} 0
`
	if err := testutil.CollectAndCompare(p.Collector(), strings.NewReader(want), "callguard_waiting_calls"); err != nil {
		t.Error(err)
	}
}
