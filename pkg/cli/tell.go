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

// Event is a line of drain -o json: something that happened to a node or a pod of it.
type Event struct {
	Time  time.Time `json:"time"`
	Event happening `json:"event"`
	Node  string    `json:"node,omitempty"`
	// Text says it as people read it.
	Text string `json:"text"`
	// Pod is the pod that it is about, as why -o json has the pods of a node.
	Pod  *PodStands `json:"pod,omitempty"`
	Left *Left      `json:"left,omitempty"`
	// CallsOver is when the calls that are held now are over.
	CallsOver *Ends `json:"callsOver,omitempty"`
	// Resume is the command that goes on with the drain.
	Resume string `json:"resume,omitempty"`
}

// Left is what is left of the pods of a node, or of several.
type Left struct {
	Pods int `json:"pods"`
	Of   int `json:"of"`
	// Calls is null unless they are known of all guarded pods, and UnknownPods is of how
	// many they are not.
	Calls       *int `json:"calls"`
	UnknownPods int  `json:"unknownPods"`
}

// happening is what an Event tells of.
type happening string

const (
	begins   happening = "begin"    // the drain of a node begins, with so many pods
	cordons  happening = "cordoned" // no new pod comes to the node
	stands   happening = "pod"      // how a pod stands has changed
	remains  happening = "left"     // how many pods and calls are left has changed
	foretold happening = "estimate" // when the calls are over, at first and when that has changed
	waits    happening = "waits"    // the drain waits for something that somebody may have to mend
	resumes  happening = "resumes"  // that is mended
	refused  happening = "refused"  // a pod cannot be evicted, and is not tried again
	leaves   happening = "gone"     // a pod has left its node
	drained  happening = "drained"  // a node is empty
	evicted  happening = "evicted"  // with --wait=false: a pod ends
	asked    happening = "asked"    // with --wait=false: each pod was evicted once
	stopped  happening = "stopped"  // interrupted, or the time is over: the node stays cordoned
	failed   happening = "error"    // the drain ends with an error
)

// line is an event as people read it in a pipe; empty where they read of it elsewhere, or
// need not.
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

// teller tells of the events of a drain, of which several nodes may have some at once.
type teller interface {
	tell(e Event)
	// run keeps up to date what is shown of them until ctx is done, and takes it away.
	run(ctx context.Context)
}

// lines tells people, a line for each event.
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

// objects tells programs, an object of JSON on a line for each event.
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

// teller is how this drain tells what happens.
func (o *drainOptions) teller(now func() time.Time) teller {
	if o.output == outputJSON {
		return &objects{to: unfolded(o.Out)}
	}
	if out, is := o.Out.(*plain); is && out.size != nil && os.Getenv("TERM") != "dumb" {
		return &screen{out: out, now: now}
	}
	return &lines{to: o.Out}
}

// shown is how a pod stands, for programs.
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

// named is a pod of which nothing is told but who it is.
func named(pod *corev1.Pod) *PodStands {
	return &PodStands{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Guarded: isGuarded(pod)}
}

// callsOf sums up the calls of pods: those that are known, and of how many pods they are not.
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

// leftOf sums up pods that are left of so many.
func leftOf(standings []standing, of int) Left {
	calls, unknown := callsOf(standings)
	left := Left{Pods: len(standings), Of: of, UnknownPods: unknown}
	if unknown == 0 {
		left.Calls = &calls
	}
	return left
}
