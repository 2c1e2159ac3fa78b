// SPDX-License-Identifier: Apache-2.0

package trycall

import (
	"context"
	"errors"
	"fmt"

	"github.com/callguard/callguard/pkg/call"
)

// silence is what is known about a call that no agent answers.
type silence struct {
	agentName, namespace, url string
	jobs                      []Job
	jobsUnread                error
	pods                      []Pod
	podsUnread                error
	// gates has the answers of the gates of serving pods, by pod; nil if they were not
	// reached.
	gates map[string]gateSaid
}

// gateSaid is what a gate says about whether its pod can take calls.
type gateSaid struct {
	able   bool
	why    string // why the pod cannot
	server string // the LiveKit to which it is connected
}

// unanswered gathers what is known, and returns why no agent came.
func (t *trial) unanswered(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	s := silence{agentName: t.AgentName, namespace: t.Namespace, url: t.URL, gates: map[string]gateSaid{}}
	s.jobs, s.jobsUnread = t.Phone.Jobs(ctx, t.room)
	s.pods, s.podsUnread = t.Pods(ctx)
	for _, p := range s.pods {
		if p.State != call.Serving || !p.gated() {
			continue
		}
		if a, err := t.Gate(ctx, p.Pod); err == nil {
			s.gates[p.String()] = gateSaid{able: a.Ability() == call.Able, why: call.Plain(a.UnableWhy, maxWord), server: call.Plain(a.LiveKit, maxWord)}
		}
	}
	return errors.New(s.why())
}

// why returns a sentence about why no agent came, and what to do.
func (s silence) why() string {
	for _, j := range s.jobs {
		switch {
		case j.Full:
			return "LiveKit finds every agent full; add replicas, or have the autoscaler begin earlier (a lower averageValue)"
		case j.Over && j.Error != "":
			return "an agent took the call, and its job failed: " + call.Plain(j.Error, maxWord) + "; see the agent's log"
		case j.Over:
			return "an agent took the call, and its job ended before it joined; see the agent's log"
		}
	}
	if len(s.jobs) > 0 {
		return "an agent took the call and did not join in time: its process starts slowly (more warm processes), or it does not reach LiveKit's media from its node; see the agent's log"
	}
	if s.jobsUnread != nil {
		return fmt.Sprintf("no agent came, and LiveKit does not say whether it found one: %v", s.jobsUnread)
	}
	return "LiveKit found no agent that takes the call" + s.named() + ": " + s.amongPods()
}

// named returns text about the name that was asked for.
func (s silence) named() string {
	if s.agentName == "" {
		return ""
	}
	return fmt.Sprintf(" (agent name %q)", s.agentName)
}

// amongPods returns what the state of the pods has to do with it.
func (s silence) amongPods() string {
	if s.podsUnread != nil {
		return fmt.Sprintf("which pods there are is not known: %v", s.podsUnread)
	}
	var serving, busy, calls, unknown int
	for _, p := range s.pods {
		if p.State != call.Serving || p.Terminating || !p.Running {
			continue
		}
		serving++
		switch n, known := p.Calls.Calls(); {
		case !known:
			unknown++
		case n > 0:
			busy++
			calls += n
		}
		if said, asked := s.gates[p.String()]; asked && !said.able && said.why != "" {
			return fmt.Sprintf("pod %s cannot take calls: %s", p, said.why)
		}
	}
	switch {
	case len(s.pods) == 0:
		return fmt.Sprintf("there is no guarded pod in namespace %s; name that of the agents with --namespace", s.namespace)
	case serving == 0:
		return fmt.Sprintf("of %s in namespace %s none serves: all are starting or on their way out", plural(len(s.pods), "guarded pod"), s.namespace)
	case busy == serving:
		return fmt.Sprintf("all pods that serve (%d) hold calls, %d together, so they may be full; add replicas, or have the autoscaler begin earlier (a lower averageValue). %s", serving, calls, s.elsewhere())
	case unknown > 0:
		return fmt.Sprintf("of the %d pods that serve, the calls of %d are unknown; kubectl calls why POD shows the reason. %s", serving, unknown, s.elsewhere())
	default:
		return fmt.Sprintf("of the pods that serve (%d) %d without a call, so not all are full. %s", serving, serving-busy, s.elsewhere())
	}
}

// elsewhere returns why agents with free capacity may not be asked.
func (s silence) elsewhere() string {
	for pod, said := range s.gates {
		if said.able && said.server != "" && said.server != s.url {
			return fmt.Sprintf("The agent of pod %s works for %s and the call went to %s: if these are two LiveKits, give the key of the agent's", pod, said.server, s.url)
		}
	}
	if s.agentName == "" {
		return "Where they are registered with a name (agent_name, agentName) only calls that ask for it come to them: --agent-name. Else see whether their LIVEKIT_URL and key are of this LiveKit project"
	}
	return "See whether they are registered with this very name, and whether their LIVEKIT_URL and key are of this LiveKit project"
}
