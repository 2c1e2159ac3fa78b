// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Event is a line of drain -o json: something that happened to a node or one of its pods.
type Event struct {
	Time  time.Time `json:"time"`
	Event happening `json:"event"`
	Node  string    `json:"node,omitempty"`
	// Text is the text for people.
	Text string `json:"text"`
	// Pod is the pod that it is about, as in why -o json of a node.
	Pod  *PodStands `json:"pod,omitempty"`
	Left *Left      `json:"left,omitempty"`
	// CallsOver is when the present calls will have ended.
	CallsOver *Ends `json:"callsOver,omitempty"`
	// Resume is the command that continues the drain.
	Resume string `json:"resume,omitempty"`
}

// Left counts the remaining pods of a node, or of several.
type Left struct {
	Pods int `json:"pods"`
	Of   int `json:"of"`
	// Calls is null unless they are known for all guarded pods, and UnknownPods is for how
	// many they are not.
	Calls       *int `json:"calls"`
	UnknownPods int  `json:"unknownPods"`
}

// happening is the kind of an Event.
type happening string

const (
	begins   happening = "begin"    // the drain of a node begins
	cordons  happening = "cordoned" // no new pod comes to the node
	stands   happening = "pod"      // the state of a pod has changed
	remains  happening = "left"     // how many pods and calls are left has changed
	foretold happening = "estimate" // the estimate of when calls end, at first and when it has changed
	waits    happening = "waits"    // the drain waits for something that somebody may have to fix
	resumes  happening = "resumes"  // that is fixed
	refused  happening = "refused"  // a pod cannot be evicted, and is not tried again
	leaves   happening = "gone"     // a pod has left its node
	drained  happening = "drained"  // a node is empty
	evicted  happening = "evicted"  // with --wait=false: a pod ends
	asked    happening = "asked"    // with --wait=false: each pod was evicted once
	stopped  happening = "stopped"  // interrupted, or timed out: the node stays cordoned
	failed   happening = "error"    // the drain ends with an error
)

// line returns the text of an event for output in lines; empty if it is shown elsewhere, or
// is not needed.
func (e Event) line() string {
	switch e.Event {
	case begins, stopped, failed:
		return ""
	case cordons, drained, evicted, asked:
		return e.Text + "\n"
	default:
		return clock(e.Time) + "  " + e.Text + "\n"
	}
}

// teller reports the events of a drain. Several nodes may have events at the same time.
type teller interface {
	tell(e Event)
	// run updates what is shown until ctx is done, and then removes it.
	run(ctx context.Context)
}

// lines reports to people, with a line for each event.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) tell(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.to, e.line())
}

func (l *lines) run(context.Context) {}

// objects reports to programs, with a JSON object on a line for each event.
type objects struct {
	mu sync.Mutex
	to io.Writer
}

func (o *objects) tell(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = json.NewEncoder(o.to).Encode(e)
}

func (o *objects) run(context.Context) {}

// teller returns how this drain reports what happens.
func (o *drainOptions) teller(now func() time.Time) teller {
	if o.output == outputJSON {
		return &objects{to: unfolded(o.Out)}
	}
	if out, is := o.Out.(*plain); is && out.size != nil && os.Getenv("TERM") != "dumb" {
		return &screen{out: out, now: now}
	}
	return &lines{to: o.Out}
}

// shown returns the state of a pod, for programs.
func (s standing) shown() PodStands {
	p := PodStands{Namespace: s.pod.Namespace, Name: s.pod.Name, Node: s.pod.Spec.NodeName, Guarded: s.guarded, Ends: s.pod.DeletionTimestamp != nil}
	p.Why = s.why
	if s.unprotected != "" {
		p.Why = s.unprotected
	}
	if !s.guarded {
		return p
	}
	p.State, p.Intent, p.Rule, p.WaitsFor, p.Do = s.state, s.intent, s.rule, s.advice.Waits, s.advice.Do
	if !s.since.IsZero() {
		p.Since = &s.since
	}
	if n, known := s.calls.Calls(); known {
		p.Calls = &n
	} else {
		p.Unknown = s.calls.Reason()
	}
	return p
}

// named returns a pod with only its name.
func named(pod *corev1.Pod) *PodStands {
	return &PodStands{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Guarded: isGuarded(pod)}
}

// callsOf returns the sum of the known calls of pods, and for how many pods they are unknown.
func callsOf(standings []standing) (calls, unknown int) {
	for _, s := range standings {
		if !s.counts() {
			continue
		}
		if n, known := s.calls.Calls(); known {
			calls += n
		} else {
			unknown++
		}
	}
	return calls, unknown
}

// leftOf counts the remaining pods; of is how many there were.
func leftOf(standings []standing, of int) Left {
	calls, unknown := callsOf(standings)
	left := Left{Pods: len(standings), Of: of, UnknownPods: unknown}
	if unknown == 0 {
		left.Calls = &calls
	}
	return left
}
