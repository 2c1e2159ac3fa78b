// SPDX-License-Identifier: Apache-2.0

package trycall

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/gate"
)

const (
	// pace is how often something is looked at that costs no request, slowPace what costs one.
	pace, slowPace = 50 * time.Millisecond, 500 * time.Millisecond
	// dialWithin bounds how long a caller may take to get in.
	dialWithin = 20 * time.Second
	// closeWithin bounds the last request, which ends the room whatever came before.
	closeWithin = 5 * time.Second
)

// Pod is a guarded pod that may have the agent.
type Pod struct {
	*call.Pod

	Calls call.Reading // as the metrics API has them
}

// gated reports whether the pod has a call-gate.
func (p Pod) gated() bool { return slices.Contains(p.Witnesses, call.Gate) }

// Phone is a LiveKit project, as a caller meets it.
type Phone interface {
	// Dial has a caller join a room, which is made for it with an agent of a name; without
	// one LiveKit sends any agent that has none.
	Dial(ctx context.Context, room, agentName string) (Caller, error)
	// Jobs are what LiveKit made of the wish for an agent.
	Jobs(ctx context.Context, room string) ([]Job, error)
	// Close ends the room, if there is one.
	Close(ctx context.Context, room string) error
}

// Caller is somebody in a room.
type Caller interface {
	// Agent is who answered, and how many tracks it publishes; there is none yet where ok is
	// false.
	Agent() (tracks int, ok bool)
	HangUp()
}

// Job is one try of LiveKit's to have an agent come.
type Job struct {
	// Over says that it has ended; Error is what the agent said then.
	Over  bool
	Error string
	// Full says that LiveKit found every worker full.
	Full bool
}

// Config is what a call needs.
type Config struct {
	Phone Phone
	// Participants are who is in a room, as callguard itself asks LiveKit.
	Participants func(ctx context.Context, room string) (livekit.Room, error)
	// Rooms asks LiveKit whether it takes the key.
	Rooms func(ctx context.Context, names ...string) ([]livekit.RoomInfo, error)
	// Pods are the guarded pods among which the agent's is looked for.
	Pods func(ctx context.Context) ([]Pod, error)
	// Gate asks a pod's call-gate.
	Gate func(ctx context.Context, pod *call.Pod) (gate.Answer, error)

	// URL is LiveKit's, Namespace says where the pods are, both for people.
	URL, Namespace string
	// AgentName asks for agents of that name.
	AgentName string
	// Speak says that the agent has to publish a track.
	Speak bool
	// AnswerWithin is how long a caller waits for an agent, and for a track of it.
	AnswerWithin time.Duration
	// CountWithin is how long counting may take, and so may letting go.
	CountWithin time.Duration
	// Show is told each step when it is over.
	Show func(Step)
}

// trial is one call under way.
type trial struct {
	Config

	room string
	// before are the pods as they were, pod is the one that has the agent.
	before []Pod
	pod    Pod
	// counted is what gate and metrics API said while the call was up.
	counted map[string]int
	failed  error
}

// Run makes the call. Whatever comes of it, the caller hangs up and the room is ended.
func Run(ctx context.Context, cfg Config) (room string, err error) {
	random := make([]byte, 6)
	_, _ = rand.Read(random) // it never fails
	t := &trial{Config: cfg, room: call.TryRoomPrefix + hex.EncodeToString(random), counted: map[string]int{}}
	if !t.step(ctx, StepKey, dialWithin, t.key) {
		return t.room, t.end(ctx)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		if closing := t.Phone.Close(last, t.room); closing != nil && err == nil {
			err = fmt.Errorf("the call went well, and its room %s could not be ended: %w; it ends by itself", t.room, closing)
		}
	}()
	var caller Caller
	dialled := t.step(ctx, StepDial, dialWithin, func(ctx context.Context) (said string, err error) {
		caller, err = t.Phone.Dial(ctx, t.room, t.AgentName)
		return "a caller is in room " + t.room, err
	})
	if !dialled {
		return t.room, t.end(ctx)
	}
	answered := t.converse(ctx, caller)
	caller.HangUp()
	if answered {
		t.step(ctx, StepHangUp, t.CountWithin, t.left)
		if t.pod.Pod != nil {
			t.step(ctx, StepFree, t.CountWithin, t.free)
		}
	}
	return t.room, t.end(ctx)
}

// converse is what happens between the caller's coming and going. It reports whether an
// agent came.
func (t *trial) converse(ctx context.Context, caller Caller) (answered bool) {
	answered = t.step(ctx, StepAnswer, t.AnswerWithin, func(ctx context.Context) (string, error) {
		return "an agent is there", t.await(ctx, pace, func(context.Context) error {
			if _, there := caller.Agent(); !there {
				return errors.New("")
			}
			return nil
		})
	})
	if !answered {
		return false
	}
	if t.Speak {
		t.step(ctx, StepSpeak, t.AnswerWithin, func(ctx context.Context) (string, error) {
			return "the agent publishes a track", t.await(ctx, pace, func(context.Context) error {
				if tracks, _ := caller.Agent(); tracks == 0 {
					return errors.New("the agent came and publishes no track, so its caller hears nothing; see the agent's log, and whether it reaches its model; --expect=join where it waits for the caller to speak")
				}
				return nil
			})
		})
	}
	if t.step(ctx, StepPod, t.CountWithin, t.named) {
		if t.pod.gated() {
			t.step(ctx, StepGate, t.CountWithin, t.atGate)
		}
		t.step(ctx, StepMetrics, t.CountWithin, t.inMetrics)
	}
	return true
}

// step takes a step, shows what came of it, and reports whether it was done. After a
// context was cancelled none is taken.
func (t *trial) step(ctx context.Context, name string, within time.Duration, take func(context.Context) (string, error)) bool {
	if ctx.Err() != nil {
		return false
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, within)
	said, err := take(limited)
	cancel()
	if ctx.Err() != nil {
		return false
	}
	s := Step{Name: name, Outcome: Done, Took: time.Since(began), Said: said}
	if why, is := errors.AsType[unchecked](err); is {
		s.Outcome, s.Said = Unchecked, why.Error()
	} else if err != nil {
		if name == StepAnswer {
			err = t.unanswered(ctx)
		}
		s.Outcome, s.Said = Failed, err.Error()
		if t.failed == nil {
			t.failed = fmt.Errorf("%w: %w", kind(name), err)
		}
	}
	t.Show(s)
	return s.Outcome != Failed
}

// end is what came of the call.
func (t *trial) end(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.failed
}

// await asks until it is told nil, and returns what it was told last when time is over.
func (*trial) await(ctx context.Context, every time.Duration, ask func(context.Context) error) error {
	again := time.NewTicker(every)
	defer again.Stop()
	var last error
	for {
		err := ask(ctx)
		if _, is := errors.AsType[unchecked](err); is || err == nil {
			return err
		}
		if ctx.Err() == nil || last == nil {
			last = err // what is said of a request that was cut short says nothing
		}
		select {
		case <-ctx.Done():
			return last
		case <-again.C:
		}
	}
}

func (t *trial) key(ctx context.Context) (string, error) {
	if _, err := t.Rooms(ctx, t.room); err != nil {
		return "", err
	}
	var err error
	t.before, err = t.Pods(ctx)
	return "LiveKit at " + t.URL + " takes the key", err
}

// named looks for the pod that the agent names, in LiveKit as callguard reads it.
func (t *trial) named(ctx context.Context) (string, error) {
	var uid types.UID
	err := t.await(ctx, slowPace, func(ctx context.Context) error {
		room, err := t.Participants(ctx, t.room)
		if err != nil {
			return err
		}
		if len(room.Agents) == 0 {
			return errors.New("LiveKit lists no agent that runs in a pod of yours; agents that LiveKit Cloud hosts are none of callguard's")
		}
		if uid = room.Agents[0].Pod; uid == "" {
			return fmt.Errorf("the agent does not say in which pod it is (attribute %s), so no drain waits for its calls by what LiveKit says; give the pod a call-gate, and have the agent's LIVEKIT_URL lead there, or accept jobs with that attribute (docs/opt-in.md)", call.PodAttribute)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	now, err := t.Pods(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(now, func(p Pod) bool { return p.UID == uid })
	if i < 0 {
		return "", fmt.Errorf("the agent is in pod %s, which is no guarded pod of namespace %s: agents of another namespace or cluster work for the same LiveKit project; name theirs with --namespace, or give each a project of its own", call.Plain(string(uid), maxWord), t.Namespace)
	}
	t.pod = now[i]
	return fmt.Sprintf("the agent is in pod %s on %s", t.pod, cmp.Or(t.pod.Node, "no node")), nil
}

// atGate asks the pod's gate, where it can be reached from here.
func (t *trial) atGate(ctx context.Context) (string, error) {
	n, err := t.ask(ctx, StepGate, func(n int) error {
		if n == 0 {
			return fmt.Errorf("call-gate of pod %s counts no call, so the agent goes past it; its LIVEKIT_URL has to be the gate's address", t.pod)
		}
		return nil
	})
	return "its call-gate counts " + plural(n, "call"), err
}

func (t *trial) inMetrics(ctx context.Context) (string, error) {
	n, err := t.ask(ctx, StepMetrics, func(n int) error {
		if n == 0 {
			return fmt.Errorf("the metrics API counts no call of pod %s: autoscalers do not see it; the metrics-adapter's LiveKit project has to be this one (%s), see kubectl calls doctor", t.pod, t.URL)
		}
		return nil
	})
	return "the metrics API counts " + plural(n, "call"), err
}

// ask asks gate or metrics API for the calls of the pod until they are as wanted.
func (t *trial) ask(ctx context.Context, whom string, wanted func(int) error) (n int, err error) {
	err = t.await(ctx, slowPace, func(ctx context.Context) error {
		var asking error
		if n, asking = t.calls(ctx, whom); asking != nil {
			return asking
		}
		t.counted[whom] = max(n, t.counted[whom])
		return wanted(n)
	})
	return n, err
}

// calls are what gate or metrics API say that the pod has.
func (t *trial) calls(ctx context.Context, whom string) (n int, err error) {
	if whom == StepGate {
		a, err := t.Gate(ctx, t.pod.Pod)
		switch {
		case err != nil:
			return 0, unchecked{"not checked, for pods are not reached from here: " + err.Error()}
		case !a.Known:
			return 0, fmt.Errorf("call-gate of pod %s does not know its calls: %s", t.pod, call.Plain(a.Reason, maxWord))
		}
		return a.Calls, nil
	}
	pods, err := t.Pods(ctx)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(pods, func(p Pod) bool { return p.UID == t.pod.UID })
	if i < 0 {
		return 0, nil // it is gone, with all its calls
	}
	n, known := pods[i].Calls.Calls()
	if !known {
		return 0, fmt.Errorf("the metrics API does not know how many calls pod %s holds: %s", t.pod, pods[i].Calls.Reason())
	}
	return n, nil
}

// left waits until the agent has left after its caller.
func (t *trial) left(ctx context.Context) (string, error) {
	return "the agent has left after its caller", t.await(ctx, slowPace, func(ctx context.Context) error {
		room, err := t.Participants(ctx, t.room)
		if err == nil && len(room.Agents) > 0 {
			err = errors.New("the agent stays in the room after its caller has left, and holds its pod for as long; have it end the job then (ctx.shutdown), or close the session when the caller leaves")
		}
		return err
	})
}

// free waits until the call is counted no more. Of other calls in the pod some may begin
// and some end meanwhile: then it is not told apart.
func (t *trial) free(ctx context.Context) (string, error) {
	for _, whom := range []string{StepGate, StepMetrics} {
		up, asked := t.counted[whom]
		if !asked || up == 0 {
			continue
		}
		_, err := t.ask(ctx, whom, func(n int) error {
			switch {
			case n < up:
				return nil
			case up > 1 || n > up:
				return fmt.Errorf("%w: pod %s holds %s", errOthers, t.pod, plural(n, "call"))
			default:
				return fmt.Errorf("%s still counts the call after it has ended, so that its pod is kept for nothing; unless another has come, see the log of the agent and of its call-gate", counters()[whom])
			}
		})
		if errors.Is(err, errOthers) {
			return "", unchecked{err.Error()}
		}
		if err != nil {
			return "", err
		}
	}
	return "nobody counts the call any more", nil
}

// counters are who counts calls, for people.
func counters() map[string]string {
	return map[string]string{StepGate: "the pod's call-gate", StepMetrics: "the metrics API"}
}

// errOthers says that other calls of the pod came meanwhile.
var errOthers = errors.New("not told apart from other calls that have come meanwhile")

// maxWord bounds what is repeated of others, in bytes.
const maxWord = 300

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
