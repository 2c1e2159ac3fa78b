// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/weburl"
)

// Path is the path at which a gate answers.
const Path = "/calls"

// Answer is what a gate says about its pod. It is part of the public API. Other pods read
// at most poll.MaxAnswer bytes of it, so the jobs, of which there may be any number, come
// last.
type Answer struct {
	Pod types.UID `json:"pod"`
	At  time.Time `json:"at"`

	// Known reports whether Calls is complete; otherwise Reason is why not.
	Known  bool   `json:"known"`
	Reason string `json:"reason,omitempty"`
	// Used reports whether a worker has connected to the gate, or reported its number of jobs.
	// Until then the agent may be about to start, or may bypass the gate.
	Used bool `json:"used"`

	// Calls is the sum of Accepted, Running, Ending and Unlisted.
	Calls int `json:"calls"`
	// Accepted offers have no job yet. Running jobs are, or are about to be, in their rooms.
	// Ending ones have left them and are still working.
	Accepted int `json:"accepted"`
	Running  int `json:"running"`
	Ending   int `json:"ending"`
	// Unlisted jobs are only counted: the agent's number includes them.
	Unlisted int `json:"unlisted"`
	// Offered are offers that the agent has not answered yet. They are not calls.
	Offered int `json:"offered"`

	// Draining is the value of the annotation with the order to drain. Once it is set here, no
	// offer is accepted any more.
	Draining string `json:"draining,omitempty"`
	// Drained reports that the pod is draining and holds no call, and never will again.
	Drained bool `json:"drained"`

	// Able reports whether a worker is registered with LiveKit now, according to LiveKit's
	// answer to its registration. Only then the pod can take calls. It is nil in answers of
	// gates of earlier versions.
	Able *bool `json:"able,omitempty"`
	// AbleSince is since when that is so, by the gate's clock.
	AbleSince time.Time `json:"ableSince,omitzero"`
	// Registered is how many workers LiveKit has registered.
	Registered int `json:"registered"`
	// Unable is why none is registered, from a closed set; UnableWhy is a sentence about it.
	Unable    call.Ability `json:"unable,omitempty"`
	UnableWhy string       `json:"unableWhy,omitempty"`

	// Load is what the pod's worker last reported to LiveKit, from 0 to 1 (full); of several
	// workers the highest. It is nil while none has.
	Load *float64 `json:"load,omitempty"`

	// LiveKit is the URL of the server to which the gate connects the pod's agents.
	LiveKit string `json:"livekit,omitempty"`

	Workers int   `json:"workers"` // that have sent their registration and are connected
	Jobs    []Job `json:"jobs,omitempty"`

	// Lives are how old the calls are of which the jobs of another pod's answer tell, if a
	// learner has read it. Whole reports whether it could read all jobs.
	Lives []Life `json:"-"`
	Whole bool   `json:"-"`
}

// Ability returns whether the pod can take calls, according to the answer. An unknown
// reason becomes call.OtherwiseNo, so that no text that a pod wrote is passed on.
func (a Answer) Ability() call.Ability {
	switch {
	case a.Able == nil:
		return call.Unsaid
	case *a.Able:
		return call.Able
	case a.Unable.Unable():
		return a.Unable
	default:
		return call.OtherwiseNo
	}
}

// Job is one accepted offer or job. Its room and its agent's identity are only for requests
// from inside the pod, because rooms may be named after telephone numbers.
type Job struct {
	ID      string    `json:"id"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Started time.Time `json:"started,omitzero"`
	Room    string    `json:"room,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	// Tried says that kubectl calls try made the call: its length says nothing of others'.
	Tried bool `json:"tried,omitempty"`
}

// reading returns the number of calls in an answer that was requested at the given time.
func (a Answer) reading(at time.Time) call.Reading {
	if !a.Known {
		return call.Unknown("the gate does not know: %s", call.Plain(a.Reason, maxReason)).WithAbility(a.Ability())
	}
	return call.Known(a.Calls, at).WithAbility(a.Ability())
}

// maxReason is how much of a reason is kept, in bytes, because it appears in Events.
const maxReason = 300

// maxCalls is more than any pod holds; a larger number is a mistake.
const maxCalls = 1_000_000

// jobsField is the last field that a gate writes. Its length depends on the number of jobs.
const jobsField = "jobs"

// parse reads the answer of a pod's gate, which may be cut off in its jobs. Only what is
// used is decoded: of the jobs of another pod nothing.
func parse(body []byte, pod types.UID) (Answer, error) {
	a, _, err := parseJobs(body, pod)
	return a, err
}

// parseJobs is parse that returns the jobs as they came, too; none where they were cut off.
func parseJobs(body []byte, pod types.UID) (Answer, json.RawMessage, error) {
	var (
		a     Answer
		known *bool
		calls *int
		used  *bool
		jobs  json.RawMessage
	)
	err := fields(body, map[string]any{
		"pod": &a.Pod, "at": &a.At, "known": &known, "reason": &a.Reason, "used": &used, "calls": &calls,
		"draining": &a.Draining, "drained": &a.Drained, "able": &a.Able, "unable": &a.Unable, "livekit": &a.LiveKit, "load": &a.Load, jobsField: &jobs,
	})
	switch {
	case err != nil:
		return Answer{}, nil, errors.New("the answer is not a gate's") // the library's error repeats what it holds
	case known == nil || calls == nil:
		return Answer{}, nil, errors.New("the answer names no calls, so it is not a gate's")
	case a.Pod != pod:
		return Answer{}, nil, fmt.Errorf("the gate is that of pod %q, not of %q; set its POD_UID from metadata.uid", call.Plain(string(a.Pod), maxReason), pod)
	case *calls < 0 || *calls > maxCalls:
		return Answer{}, nil, fmt.Errorf("calls is %d, which is no number of calls", *calls)
	}
	a.Known, a.Calls = *known, *calls
	a.Used = used == nil || *used // gates of earlier versions do not report it
	if len(a.LiveKit) > weburl.MaxLength {
		a.LiveKit = "" // it is not the URL of a server
	}
	return a, jobs, nil
}

// fields decodes the wanted fields of a JSON object. If it is cut off in the jobs, the
// fields before them suffice.
func fields(body []byte, wanted map[string]any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return errors.New("no object")
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		if name == jobsField {
			if err := dec.Decode(wanted[jobsField]); err != nil {
				return nil //nolint:nilerr // it was cut off in the jobs, which come last
			}
			continue
		}
		into := wanted[fmt.Sprint(name)]
		if into == nil {
			into = new(json.RawMessage)
		}
		if err := dec.Decode(into); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}
