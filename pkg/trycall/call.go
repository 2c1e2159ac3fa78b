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
	// pace is how often something is checked without a request, slowPace with a request.
	pace, slowPace = 50 * time.Millisecond, 500 * time.Millisecond
	// dialWithin is the time limit for the caller to join the room.
	dialWithin = 20 * time.Second
	// closeWithin is the time limit of the last request, which ends the room in any case.
	closeWithin = 5 * time.Second
)

// Pod is a guarded pod that may have the agent.
type Pod struct {
	*call.Pod

	Calls call.Reading // as the metrics API reports them
}

// gated reports whether the pod has a call-gate.
func (p Pod) gated() bool { return slices.Contains(p.Witnesses, call.Gate) }

// Phone is a LiveKit project from a caller's view.
type Phone interface {
	// Dial makes a caller join a new room that asks for an agent of a name; without a name
	// LiveKit sends any agent that has none.
	Dial(ctx context.Context, room, agentName string) (Caller, error)
	// Jobs returns LiveKit's attempts to send an agent.
	Jobs(ctx context.Context, room string) ([]Job, error)
	// Close ends the room, if it exists.
	Close(ctx context.Context, room string) error
}

// Caller is somebody in a room.
type Caller interface {
	// Agent returns how many tracks the agent publishes; ok is false while there is none.
	Agent() (tracks int, ok bool)
	HangUp()
}

// Job is one attempt of LiveKit to send an agent.
type Job struct {
	// Over reports that it has ended; Error is the agent's error then.
	Over  bool
	Error string
	// Full reports that LiveKit found every worker full.
	Full bool
}

// Config is what a call needs.
type Config struct {
	Phone Phone
	// Participants returns who is in a room, by the client that callguard itself uses.
	Participants func(ctx context.Context, room string) (livekit.Room, error)
	// Rooms asks LiveKit for rooms, to check that it accepts the key.
	Rooms func(ctx context.Context, names ...string) ([]livekit.RoomInfo, error)
	// Pods returns the guarded pods among which the agent's pod is searched.
	Pods func(ctx context.Context) ([]Pod, error)
	// Gate asks a pod's call-gate.
	Gate func(ctx context.Context, pod *call.Pod) (gate.Answer, error)

	// URL is LiveKit's URL, and Namespace the namespace of the pods, both for messages.
	URL, Namespace string
	// AgentName is the name of the agent to ask for.
	AgentName string
	// Speak reports whether the agent has to publish a track.
	Speak bool
	// AnswerWithin is how long the caller waits for an agent, and then for its track.
	AnswerWithin time.Duration
	// CountWithin is the time limit for counting the call, and for no longer counting it.
	CountWithin time.Duration
	// Show is called with each step when it is over.
	Show func(Step)
}

// trial is one call in progress.
type trial struct {
	Config

	room string
	// before are the pods before the call, and pod is the one that has the agent.
	before []Pod
	pod    Pod
	// counted is what gate and metrics API said while the call was up.
	counted map[string]int
	failed  error
}

// Run makes the call. In any case the caller hangs up and the room is ended.
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

// converse makes the steps between joining and hanging up. It reports whether an agent
// came.
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

// step makes a step, shows its result, and reports whether it succeeded. It does nothing
// once the context is cancelled.
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

// end returns the result of the call.
func (t *trial) end(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.failed
}

// await calls ask until it returns nil, and returns its last error when the time is over.
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
			last = err // the error of an interrupted request says nothing
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

// named finds the pod that the agent names, by reading LiveKit as callguard does.
func (t *trial) named(ctx context.Context) (string, error) {
	var uid types.UID
	err := t.await(ctx, slowPace, func(ctx context.Context) error {
		room, err := t.Participants(ctx, t.room)
		if err != nil {
			return err
		}
		if len(room.Agents) == 0 {
			return errors.New("LiveKit lists no agent that runs in one of your pods; callguard does not handle agents that LiveKit Cloud hosts")
		}
		if uid = room.Agents[0].Pod; uid == "" {
			return fmt.Errorf("the agent does not say in which pod it is (attribute %s), so callguard cannot assign LiveKit's calls to the pod, and no drain waits for them; give the pod a call-gate and set the agent's LIVEKIT_URL to it, or accept jobs with that attribute (docs/opt-in.md)", call.PodAttribute)
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
		return "", fmt.Errorf("the agent is in pod %s, which is not a guarded pod of namespace %s: agents of another namespace or cluster use the same LiveKit project; set --namespace, or give each its own project", call.Plain(string(uid), maxWord), t.Namespace)
	}
	t.pod = now[i]
	return fmt.Sprintf("the agent is in pod %s on %s", t.pod, cmp.Or(t.pod.Node, "no node")), nil
}

// atGate asks the pod's gate, if it can be reached from here.
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

// ask asks the gate or the metrics API for the calls of the pod until wanted accepts their
// number.
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

// calls returns the number of calls of the pod according to the gate or the metrics API.
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
		return 0, nil // the pod is gone, with all its calls
	}
	n, known := pods[i].Calls.Calls()
	if !known {
		return 0, fmt.Errorf("the metrics API does not know how many calls pod %s holds: %s", t.pod, pods[i].Calls.Reason())
	}
	return n, nil
}

// left waits until the agent has left the room after its caller.
func (t *trial) left(ctx context.Context) (string, error) {
	return "the agent has left after its caller", t.await(ctx, slowPace, func(ctx context.Context) error {
		room, err := t.Participants(ctx, t.room)
		if err == nil && len(room.Agents) > 0 {
			err = errors.New("the agent stays in the room after its caller has left, and holds its pod for as long; have it end the job then (ctx.shutdown), or close the session when the caller leaves")
		}
		return err
	})
}

// free waits until the call is no longer counted. If other calls of the pod begin and end
// meanwhile, that cannot be distinguished.
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
	return "the call is no longer counted", nil
}

// counters returns the names of the counters, for messages.
func counters() map[string]string {
	return map[string]string{StepGate: "the pod's call-gate", StepMetrics: "the metrics API"}
}

// errOthers is the result if other calls of the pod began meanwhile.
var errOthers = errors.New("not told apart from other calls that have come meanwhile")

// maxWord is the maximum length of repeated text from outside, in bytes.
const maxWord = 300

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
