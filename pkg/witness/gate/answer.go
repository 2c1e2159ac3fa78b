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

// Path is where a gate answers.
const Path = "/calls"

// Answer is what a gate says of its pod. It is part of the public contract. Readers of
// other pods read at most poll.MaxAnswer bytes of it, so the jobs, of which there may be
// any number, come last.
type Answer struct {
	Pod types.UID `json:"pod"`
	At  time.Time `json:"at"`

	// Known reports whether Calls is all there is; otherwise Reason says why not.
	Known  bool   `json:"known"`
	Reason string `json:"reason,omitempty"`
	// Used reports whether a worker has come to the gate, or told it a number of jobs.
	// Until one does, the agent may be about to start, or go past the gate.
	Used bool `json:"used"`

	// Calls is what the pod holds: Accepted, Running, Ending and Unlisted.
	Calls int `json:"calls"`
	// Accepted offers have no job yet. Running jobs are, or are about to be, in
	// their rooms. Ending ones have left them and are at work still.
	Accepted int `json:"accepted"`
	Running  int `json:"running"`
	Ending   int `json:"ending"`
	// Unlisted jobs are known by number only: the agent says that it has them.
	Unlisted int `json:"unlisted"`
	// Offered are offers that the agent has not answered yet. They are no calls.
	Offered int `json:"offered"`

	// Draining is the order in force, as its annotation has it. From the moment
	// it stands here no offer is accepted any more.
	Draining string `json:"draining,omitempty"`
	// Drained says that the pod is draining and holds no call, for good.
	Drained bool `json:"drained"`

	// Able reports whether a worker is registered with LiveKit now, for which LiveKit's own
	// answer to its registration is the evidence: only then can the pod take calls. It is
	// nil in the answer of a gate of before, of which it is not known.
	Able *bool `json:"able,omitempty"`
	// AbleSince is since when that is so, by the gate's clock.
	AbleSince time.Time `json:"ableSince,omitzero"`
	// Registered is how many workers LiveKit has registered.
	Registered int `json:"registered"`
	// Unable says why none is, of a closed set; UnableWhy says it in a sentence.
	Unable    call.Ability `json:"unable,omitempty"`
	UnableWhy string       `json:"unableWhy,omitempty"`

	// LiveKit is the URL of the server that the pod's agents work for through the gate.
	LiveKit string `json:"livekit,omitempty"`

	Workers int   `json:"workers"` // that have sent their registration and are there
	Jobs    []Job `json:"jobs,omitempty"`

	// Lives are how old the calls are of which the jobs of another pod's answer tell, if a
	// learner has read it. Whole reports whether it could read all jobs.
	Lives []Life `json:"-"`
	Whole bool   `json:"-"`
}

// Ability is whether the pod can take calls, as the answer says. What it does not name
// as others do is one word: nothing that a pod may write goes further.
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

// Job is one accepted offer or job. Its room and its agent's identity are told
// only to those who ask from inside the pod: rooms are named after telephone
// numbers.
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

// reading is the number of calls of an answer that was asked for at a time.
func (a Answer) reading(at time.Time) call.Reading {
	if !a.Known {
		return call.Unknown("the gate does not know: %s", call.Plain(a.Reason, maxReason)).WithAbility(a.Ability())
	}
	return call.Known(a.Calls, at).WithAbility(a.Ability())
}

// maxReason is how much of a reason is repeated, in bytes: it stands in Events.
const maxReason = 300

// maxCalls is more than any pod holds; a larger number is a mistake.
const maxCalls = 1_000_000

// jobsField is the last one that a gate writes, and as long as the pod has jobs.
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
		"draining": &a.Draining, "drained": &a.Drained, "able": &a.Able, "unable": &a.Unable, "livekit": &a.LiveKit, jobsField: &jobs,
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
	a.Used = used == nil || *used // gates of before do not say
	if len(a.LiveKit) > weburl.MaxLength {
		a.LiveKit = "" // it is no server's
	}
	return a, jobs, nil
}

// fields decodes those fields of a JSON object that are wanted. Where it was cut off in the
// jobs, those before them are all.
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
