// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestLimit(t *testing.T) {
	wanted := noon()
	release := call.Deadline{After: time.Hour, Release: true}
	cases := map[string]struct {
		reason   string
		deadline call.Deadline
		most     time.Duration
		change   func(*guard.Explanation)
		want     string
	}{
		"None":      {reason: "By default it is held for ever."},
		"Hold":      {reason: "A deadline that releases nothing is no limit.", deadline: call.Deadline{After: time.Hour}},
		"Team":      {reason: "The team's own.", deadline: release, want: clock(noon().Add(time.Hour)) + ", by annotation callguard.dev/drain-deadline; it is released then, with its calls"},
		"Admin":     {reason: "The administrator's bounds it.", deadline: release, most: time.Minute, want: clock(noon().Add(time.Minute)) + ", by the guard's --max-hold; it is released then, with its calls"},
		"ScaleDown": {reason: "A scale-down ends no call.", most: time.Minute, change: func(x *guard.Explanation) { x.Intent.Intent = call.ScaleDown }, want: clock(noon().Add(time.Minute)) + ", by the guard's --max-hold, unless it is known to hold calls"},
		"NodeEnds": {reason: "The end of its node is a limit.", deadline: release, change: func(x *guard.Explanation) { x.Facts.LetGoBy = noon().Add(time.Minute) },
			want: clock(noon().Add(time.Minute)) + ", by the guard's --node-termination-limit; it is released then, with its calls"},
		"Cancelled": {reason: "Nothing waits for it any more.", most: time.Minute, change: func(x *guard.Explanation) { x.Facts.Standing = time.Time{} }},
		"Undated":   {reason: "Only the guard knows since when.", most: time.Minute, change: func(x *guard.Explanation) { x.Intent.At = time.Time{} }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			x := guard.Explanation{State: call.Draining, Intent: call.Mark{Intent: call.NodeDrain, At: wanted}, Facts: verdict.Facts{Standing: wanted, Deadline: tc.deadline, Limits: verdict.Limits{MaxHold: tc.most}}}
			if tc.change != nil {
				tc.change(&x)
			}
			if got := limit(x); got != tc.want {
				t.Errorf("%s\nlimit %q; want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestWhy(t *testing.T) {
	event := func(name, reason, text, source string, at time.Time) runtime.Object {
		return &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "a", UID: "a"},
			Reason: reason, Message: text, Source: corev1.EventSource{Component: source}, LastTimestamp: metav1.NewTime(at),
		}
	}
	since := clock(noon().Add(-2 * time.Minute))
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		calls   map[string]int64
		metrics error
		refuse  string // a resource that may not be read
		want    string
	}{
		"Calls": {
			reason:  "It talks, and has a limit.",
			objects: []runtime.Object{newPod("a", draining, annotated(call.DeadlineAnnotation, "1h"), annotated(call.OnDeadlineAnnotation, "Release")), newGuardDeployment("--max-hold=10m"), event("e2", "Draining", "Pod voice/a takes\nno new call", guard.EventSource, noon().Add(-time.Minute)), event("e1", "SetAside", "Pod voice/a is set aside", guard.EventSource, noon().Add(-2*time.Minute)), event("e3", "Pulled", "an image", "kubelet", noon())},
			calls:   map[string]int64{"a": 2},
			want: `Pod:             voice/a on node-1
State:           draining, and should go (drain) for 2m, since ` + since + `
Calls:           2, by the metrics API 1s ago
Verdict:         Hold by rule calls: it holds calls
Waits for:       its callers to hang up
At most until:   ` + clock(noon().Add(8*time.Minute)) + `, by the guard's --max-hold; it is released then, with its calls
Do:              wait; to end its calls now: kubectl calls end POD (break glass)
Events from drain-guard (anybody may write such):
  2m    SetAside   Pod voice/a is set aside
  60s   Draining   Pod voice/a takes; no new call
`,
		},
		"NodeEnds": {
			reason: "Karpenter has a time for its node, and calls win.", calls: map[string]int64{"a": 2},
			objects: []runtime.Object{newPod("a", draining, func(p *corev1.Pod) { p.Spec.NodeName = "ending" }), newGuardDeployment(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{
				Name: "ending", UID: "ending", Annotations: map[string]string{"karpenter.sh/nodeclaim-termination-timestamp": noon().Add(time.Hour).Format(time.RFC3339)},
			}}},
			want: `Pod:         voice/a on ending
State:       draining, and should go (drain) for 2m, since ` + since + `
Calls:       2, by the metrics API 1s ago
Verdict:     Hold by rule calls: it holds calls
Waits for:   its callers to hang up
Node:        Karpenter's terminationGracePeriod of ending ends ` + clock(noon().Add(time.Hour)) + `; calls win, and the node waits for them
Do:          wait; to end its calls now: kubectl calls end POD (break glass)
Events:  none by callguard
`,
		},
		"Notice": {
			reason: "A spot node is taken away.", calls: map[string]int64{"a": 2},
			objects: []runtime.Object{newPod("a", draining, func(p *corev1.Pod) { p.Spec.NodeName = "spot" }), newGuardDeployment(), &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "spot", UID: "spot"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: "PreemptScheduled", Status: corev1.ConditionTrue}}},
			}},
			want: `Pod:         voice/a on spot
State:       draining, and should go (drain) for 2m, since ` + since + `
Calls:       2, by the metrics API 1s ago
Verdict:     Hold by rule calls: it holds calls
Waits for:   its callers to hang up
Node:        spot goes within minutes (condition PreemptScheduled), and calls that last longer end with it
Do:          wait; to end its calls now: kubectl calls end POD (break glass)
Events:  none by callguard
`,
		},
		"Unknown": {
			reason: "Unknown is not zero, and the reason is asked for.", objects: []runtime.Object{newPod("a", draining), newGuardDeployment()},
			want: `Pod:         voice/a on node-1
State:       draining, and should go (drain) for 2m, since ` + since + `
Calls:       ?, and unknown is not zero: active_calls is not known: 1 of 1 pods are unknown; pod a: its agent does not answer
Verdict:     Hold by rule unknown: its witness rooms cannot tell whether it holds calls: no witness of it answers
Waits for:   its witnesses to answer, because unknown is not zero
Do:          see the reason: LiveKit, the agent's port or call-gate does not answer
Events:  none by callguard
`,
		},
		"NoMetricsAPI": {
			reason: "The plugin's unknown number says nothing about the guard, which has its own witnesses.", objects: []runtime.Object{newPod("a", draining), newGuardDeployment()},
			metrics: apierrors.NewServiceUnavailable("the server is currently unable to handle the request"),
			want: `Pod:         voice/a on node-1
State:       draining, and should go (drain) for 2m, since ` + since + `
Calls:       ?, and unknown is not zero: the metrics API does not answer: the server is currently unable to handle the request
Verdict:     ?: without the metrics API its calls are not known here; the guard asks its witnesses itself, and lets it go when all say zero
Waits for:   what the guard's latest Held Event names
Do:          see its Events; kubectl calls doctor says who serves the metrics API, if anybody
Events:  none by callguard
`,
		},
		"NobodyKnows": {
			reason: "The adapter answers, and asks the same witnesses as the guard.", objects: []runtime.Object{newPod("a", draining), newGuardDeployment()},
			metrics: apierrors.NewServiceUnavailable("active_calls is not known: LiveKit is silent"),
			want: `Pod:         voice/a on node-1
State:       draining, and should go (drain) for 2m, since ` + since + `
Calls:       ?, and unknown is not zero: the metrics API does not answer: active_calls is not known: LiveKit is silent
Verdict:     Hold by rule unknown: its witness rooms cannot tell whether it holds calls: the metrics API does not answer: active_calls is not known: LiveKit is silent
Waits for:   its witnesses to answer, because unknown is not zero
Do:          see the reason: LiveKit, the agent's port or call-gate does not answer
Events:  none by callguard
`,
		},
		"Idle": {
			reason: "What the metrics API does not know is shown, and so are settings that could not be read.", objects: []runtime.Object{newPod("a", draining)}, calls: map[string]int64{"a": 0},
			want: `Pod:         voice/a on node-1
State:       draining, and should go (drain) for 2m, since ` + since + `
Calls:       0, by the metrics API 1s ago
Verdict:     Hold by rule settle: it is idle; waiting in case a call is still being connected
Waits for:   a short time, in which a call that is still being connected would appear; with call-gate, until it has read the drain annotation
Do:          wait some seconds; if it lasts, check that call-gate's --order-file is the pod's annotations
Unsure:      the metrics API has one number for all witnesses: 0 says that none of them counts a call, not that each of them answers. A Held Event names one that does not
Unsure:      drain-guard's settings are assumed to be the defaults: deployments.apps "drain-guard" not found
Events:  none by callguard
`,
		},
		"NoRights": {
			reason: "Without the right to read Events the rest is shown.", objects: []runtime.Object{newPod("a"), newGuardDeployment()}, calls: map[string]int64{"a": 0}, refuse: "events",
			want: `Pod:         voice/a on node-1
State:       serving
Calls:       0, by the metrics API 1s ago
Verdict:     Serve by rule serving: nothing asks the pod to leave
Waits for:   nothing
Do:          nothing; to have it go, drain its node, or annotate it with callguard.dev/leave
Events:  not known: events is forbidden: no right to list
`,
		},
		"Ended": {
			reason: "Nothing holds a pod that has ended.", objects: []runtime.Object{newPod("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })},
			want: "Pod:     voice/a on node-1\nState:   it has ended: no container of it runs, and nothing holds it\n",
		},
		"NotEnabled": {
			reason: "The label alone holds nothing.", objects: []runtime.Object{newPod("a"), newNamespace(voice, false)},
			want: "Pod:     voice/a on node-1\nState:   not protected, and nothing holds its calls: namespace voice is not enabled\nDo:      an administrator enables the namespace: kubectl label namespace voice callguard.dev/enabled=true\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects := append(workload(1), newNode(name != "NoRights"))
			if name != "NotEnabled" {
				objects = append(objects, newNamespace(voice, true))
			}
			s := newStage(t, append(objects, tc.objects...)...)
			s.calls, s.metrics = tc.calls, tc.metrics
			if tc.refuse != "" {
				s.refuse("list", tc.refuse)
			}
			var out bytes.Buffer
			if err := why(t.Context(), s.cluster, &out, voice, "a", ""); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestWhyJSON: an unknown number is null, with the reason.
func TestWhyJSON(t *testing.T) {
	s := newStage(t, append(workload(1), newNode(true), newNamespace(voice, true), newGuardDeployment(), newPod("a", draining), newPod("b", draining), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "b", UID: "b"},
		Reason: "Held", Message: "Pod voice/b stays", Source: corev1.EventSource{Component: guard.EventSource}, LastTimestamp: metav1.NewTime(noon()),
	})...)
	s.calls = map[string]int64{"a": 2}
	for name, want := range map[string]Explained{
		"a": {State: "draining", Intent: "drain", Calls: new(2), Outcome: "Hold", Rule: "calls"},
		"b": {State: "draining", Intent: "drain", Unknown: "active_calls is not known: 1 of 1 pods are unknown; pod b: its agent does not answer", Outcome: "Hold", Rule: "unknown"},
	} {
		var out bytes.Buffer
		if err := why(t.Context(), s.cluster, &out, voice, name, outputJSON); err != nil {
			t.Fatal(err)
		}
		var got Explained
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v:\n%s", err, out.String())
		}
		if len(got.Says) < 6 || got.Says[0] != (Said{"Pod", "voice/" + name + " on node-1"}) || got.Since == nil || !got.Since.Equal(noon().Add(-2*time.Minute)) {
			t.Errorf("it says %v", got.Says)
		}
		if len(got.Events) == 0 || got.Events[0].Reason != "Held" {
			t.Errorf("its Events are %v", got.Events)
		}
		got.Says, got.Events, got.Since = nil, nil, nil
		want.Kind, want.Namespace, want.Name, want.Node = "ExplainedPod", voice, name, "node-1"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWhyNot(t *testing.T) {
	s := newStage(t, newNamespace(voice, true), newPod("plain", unguarded))
	for name, want := range map[string]string{
		"plain": `pod voice/plain is not guarded, and callguard does not hold it; its pod template needs label callguard.dev/guarded: "true"`,
		"gone":  `there is no pod "gone" in namespace voice; kubectl calls -A lists the guarded pods`,
	} {
		if err := why(t.Context(), s.cluster, &bytes.Buffer{}, voice, name, ""); err == nil || err.Error() != want {
			t.Errorf("why %s: %v; want %q", name, err, want)
		}
	}
	for arg, want := range map[string]string{"a": "a", "pod/a": "a", "pods/a": "a", "deployment/a": "deployment/a"} {
		if got := podName(arg); got != want {
			t.Errorf("podName(%q) = %q; want %q", arg, got, want)
		}
	}
	s.refuse("get", "pods")
	if err := why(t.Context(), s.cluster, &bytes.Buffer{}, voice, "plain", ""); err == nil || !strings.Contains(err.Error(), "no right to get") {
		t.Errorf("without the right to get pods: %v", err)
	}
}

// TestAdministered parses the guard's flags as the guard does.
func TestAdministered(t *testing.T) {
	s := newStage(t, newGuardDeployment("--livekit-url-file=/etc/livekit/url", "--max-hold=2h", "--break-glass-group=firemen", "--unheard-of", "--settle=5s"))
	a := s.administered(t.Context())
	if a.note != "" || a.settings.Limits.MaxHold != 2*time.Hour || a.settings.Limits.Settle != 5*time.Second || a.doors.BreakGlassGroup != "firemen" {
		t.Errorf("%+v", a)
	}
	if a.settings.Limits.LostQuiet != guard.DefaultSettings().Limits.LostQuiet {
		t.Errorf("missing flags should have their defaults: %+v", a.settings)
	}
	if a = newStage(t, newGuardDeployment("--settle=soon")).administered(t.Context()); !strings.Contains(a.note, "not all known") {
		t.Errorf("a flag that cannot be read is passed over: %q", a.note)
	}
}

// TestCallsOfAnotherAdapter: an adapter that knows no calls serves the API.
func TestCallsOfAnotherAdapter(t *testing.T) {
	s := newStage(t)
	s.metrics = errors.New("no")
	if r := s.cluster.calls(t.Context(), voice).of("a"); r.Known() || r.Reason() != "the metrics API does not answer: no" {
		t.Errorf("calls %v: %s", r.Known(), r.Reason())
	}
}
