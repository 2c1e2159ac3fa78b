// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/test/trial"
)

// The steps of a pod.
func aside() Step {
	return Step{Type: "Normal", Reason: "SetAside", What: "is set aside (drain)", Why: "a replacement comes first"}
}

func draining() Step {
	return Step{Type: "Normal", Reason: "Draining", What: "stopped accepting calls (drain)", Why: "enough other pods can take calls"}
}

func held() Step {
	return Step{Type: "Normal", Reason: "Held", What: "stays (drain)", Why: "it holds calls", Weight: Lasting}
}

func released() Step {
	return Step{Type: "Normal", Reason: "Released", What: "may go (drain)", Why: "its calls are over", Weight: Final}
}

func forced() Step {
	return Step{Type: "Warning", Reason: "ForcedRelease", What: "may go (drain)", Why: "its own callguard.dev/drain-deadline has passed", Weight: Notable}
}

// gone stands for the end of a pod.
func gone() Step { return Step{} }

// told is a step of a pod at a time, in seconds after noon.
type told struct {
	at   float64
	pod  string
	step Step
}

func TestOutbox(t *testing.T) {
	cases := map[string]struct {
		reason string
		told   []told
		until  float64
		want   []string
	}{
		"OneOfAll": {
			reason: "An idle pod makes all its steps within seconds, and is gone: one Event on its node tells of the last.",
			told:   []told{{0, "a", aside()}, {1, "a", draining()}, {6, "a", held()}, {9, "a", released()}, {11, "a", gone()}}, until: 30,
			want: []string{"Normal Released on Node node-1: Pod voice/a may go (drain): its calls are over"},
		},
		"NotTaken": {
			reason: "An idle pod may go, and nobody takes it: it has an Event that says so.",
			told:   []told{{0, "a", aside()}, {1, "a", draining()}, {6, "a", held()}, {9, "a", released()}}, until: 69,
			want: []string{
				"Normal Released on Node node-1: Pod voice/a may go (drain): its calls are over",
				"Normal Released on Pod voice/a: Pod voice/a may go (drain): its calls are over",
			},
		},
		"HeldBefore": {
			reason: "Whoever was told that a pod stays is told that it may go, at once, and also if it is gone the next moment.",
			told:   []told{{0, "a", held()}, {60, "a", released()}, {60.1, "a", gone()}}, until: 60.2,
			want: []string{
				"Normal Held on Pod voice/a: Pod voice/a stays (drain): it holds calls",
				"Normal Held on Node node-1: Pod voice/a stays (drain): it holds calls",
				"Normal Released on Pod voice/a: Pod voice/a may go (drain): its calls are over",
			},
		},
		"OnAndOn": {
			reason: "While one pod after the other leaves, their node has an Event a minute. What an audit looks for does not wait that long.",
			told: []told{
				{0, "a", released()}, {1, "a", gone()}, {20, "b", released()}, {21, "b", gone()}, {60, "c", released()}, {61, "c", gone()}, {81, "d", forced()},
			},
			until: 96,
			want: []string{
				"Normal Released on Node node-1: Pod voice/a may go (drain): its calls are over",
				"Normal Released on Node node-1: Pod voice/b may go (drain): its calls are over; likewise voice/c",
				"Warning ForcedRelease on Pod voice/d: Pod voice/d may go (drain): its own callguard.dev/drain-deadline has passed",
				"Warning ForcedRelease on Node node-1: Pod voice/d may go (drain): its own callguard.dev/drain-deadline has passed",
			},
		},
		"Passing": {
			reason: "A step that nothing follows is still reported.",
			told:   []told{{0, "a", aside()}}, until: 15,
			want: []string{
				"Normal SetAside on Pod voice/a: Pod voice/a is set aside (drain): a replacement comes first",
				"Normal SetAside on Node node-1: Pod voice/a is set aside (drain): a replacement comes first",
			},
		},
		"NotYet": {
			reason: "A step that may be followed waits, and a workload's or node's Event for its other pods.",
			told:   []told{{0, "a", aside()}, {5, "a", held()}}, until: 14.9,
		},
		"Lasting": {
			reason: "A reason that lasts is reported.",
			told:   []told{{0, "a", draining()}, {5, "a", held()}}, until: 15,
			want: []string{
				"Normal Held on Pod voice/a: Pod voice/a stays (drain): it holds calls",
				"Normal Held on Node node-1: Pod voice/a stays (drain): it holds calls",
			},
		},
		"Together": {
			reason: "Pods of a node that do the same share its Event; who does something else has its own.",
			told:   []told{{0, "b", held()}, {1, "a", held()}, {2, "c", released()}, {3, "c", gone()}}, until: 15,
			want: []string{
				"Normal Held on Node node-1: Pod voice/a stays (drain): it holds calls; likewise voice/b",
				"Normal Released on Node node-1: Pod voice/c may go (drain): its calls are over",
				"Normal Held on Pod voice/b: Pod voice/b stays (drain): it holds calls",
				"Normal Held on Pod voice/a: Pod voice/a stays (drain): it holds calls",
			},
		},
		"Warning": {
			reason: "What an audit looks for is not replaced by what comes after it.",
			told:   []told{{0, "a", forced()}, {0.1, "a", held()}}, until: 15,
			want: []string{
				"Warning ForcedRelease on Pod voice/a: Pod voice/a may go (drain): its own callguard.dev/drain-deadline has passed",
				"Warning ForcedRelease on Node node-1: Pod voice/a may go (drain): its own callguard.dev/drain-deadline has passed",
				"Normal Held on Pod voice/a: Pod voice/a stays (drain): it holds calls",
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			heard := &trial.Events{}
			o := NewOutbox(heard)
			for _, s := range tc.told {
				o.handOver(noon(s.at), func() bool { return true })
				if s.step == gone() {
					o.Gone(types.UID(s.pod))
				} else {
					o.Tell(noon(s.at), podNamed(s.pod), stepOf(s.pod, s.step), node())
				}
			}
			o.handOver(noon(tc.until), func() bool { return true })
			if diff := cmp.Diff(tc.want, heard.List()); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestOutboxOfMany holds 5,000 pods of a node, and releases half of these: what may be written in a second is,
// releases first, nothing is lost, and the node's Event names some and counts the others.
func TestOutboxOfMany(t *testing.T) {
	heard := &trial.Events{}
	o := NewOutbox(heard)
	const many = 5_000
	for i := range many {
		name := fmt.Sprintf("pod-%04d", i)
		o.Tell(noon(0), podNamed(name), stepOf(name, held()), node())
		if i%2 == 1 {
			o.Tell(noon(1), podNamed(name), stepOf(name, released()), node())
		}
	}
	left := perSecond
	o.handOver(noon(61), func() bool { left--; return left >= 0 })
	for _, line := range heard.List() {
		if !strings.Contains(line, "Released on Pod") && !strings.Contains(line, "on Node") {
			t.Errorf("before all releases it tells: %s", line)
		}
	}
	if n := len(heard.List()); n != perSecond+1 {
		t.Errorf("%d Events in a second; want %d, and a second one of the node", n, perSecond)
	}
	o.handOver(time.Time{}, func() bool { return true })
	if n := len(heard.List()); n != many+2 {
		t.Errorf("%d Events; want one of each pod, and two of the node", n)
	}
	for _, line := range heard.List() {
		if strings.Contains(line, "on Node") && (!strings.HasSuffix(line, fmt.Sprintf("and %d more", many/2-1-named)) || len(line) > 1000) {
			t.Errorf("the node's Event: %s", line)
		}
	}
}

func noon(seconds float64) time.Time {
	return time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

func podNamed(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "voice", Name: name, UID: types.UID(name)}}
}

func node() *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: "node-1", UID: "node-1"}
}

func stepOf(pod string, s Step) Step {
	s.Pod = types.NamespacedName{Namespace: "voice", Name: pod}
	return s
}
