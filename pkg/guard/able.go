// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

const (
	// silentFor is how long a gate may fail to answer before its pod is judged by its Ready
	// condition alone, because silence proves nothing and must not block others forever.
	silentFor = 2 * time.Minute
	// startsWithin is how long a worker may take to connect before its absence is reported:
	// Python's takes up to half a minute after its pod is ready.
	startsWithin = time.Minute
	// uselessFor is how long a pod must have been unable to take calls before nothing is lost
	// if it stops taking them.
	uselessFor = 5 * time.Minute
)

// ableAt is what is known of the ability to take calls of a pod with a gate.
type ableAt struct {
	// why it cannot; empty if it can, as far as is known.
	why   call.Ability
	since time.Time
}

// can reports whether the pod can take calls: it is ready by Kubernetes, and its gate, if
// it has one, does not say otherwise.
func (m *member) can() bool { return m.serves() && m.able.why == "" }

// canYet reports the same for a pod that is set aside, which takes calls until it drains.
func (m *member) canYet() bool { return m.servesYet() && m.able.why == "" }

// gated reports whether a pod has a gate, which knows whether the pod can take calls.
func gated(pod *corev1.Pod, p *call.Pod) bool {
	return pod.Annotations[call.GatePortAnnotation] != "" || p.Asks(call.Gate)
}

// askable returns a member's pod with the gate as its only witness.
func (m *member) askable() *call.Pod {
	p := *m.Pod
	p.Witnesses = []call.Witness{call.Gate}
	return &p
}

// hears records what the gates of a workload have answered. A pod whose gate is silent
// counts as unable to take calls for a while. If its gate's version does not report the
// ability, or if no gates are asked at all, the Ready condition decides.
func (pl *planner) hears(w *workload, now time.Time) {
	for _, m := range w.members {
		m.able = ableAt{}
		if !m.gated || !m.Running || m.unlocked() || pl.ability == nil {
			continue
		}
		said, since := pl.ability(m.UID)
		switch {
		case said.Unable():
			m.able = ableAt{why: said, since: since}
		case (said == "" || said == call.Silent) && (since.IsZero() || now.Sub(since) < silentFor):
			m.able = ableAt{why: call.Silent, since: cmp.Or(since, now)}
		}
	}
}

// asksGates lists the members whose gates have to be asked. While a pod of the workload
// should go and still takes calls, it matters which others can take calls.
func (pl *planner) asksGates(w *workload) (asked []*member) {
	if pl.ability == nil || !slices.ContainsFunc(w.members, func(m *member) bool { return m.wanted && m.undrained() }) {
		return nil
	}
	for _, m := range w.members {
		if m.gated && m.Running && m.undrained() {
			asked = append(asked, m)
		}
	}
	return asked
}

// undrained reports whether the pod has not been told to stop taking calls.
func (m *member) undrained() bool {
	return !m.Terminating && (m.State == call.Serving || m.State == call.Aside)
}

// askGatesNow asks the gates of the members that would count as able, so that no pod stops
// taking calls because of an old answer.
func (g *Guard) askGatesNow(ctx context.Context, w *workload) {
	if g.gates == nil {
		return
	}
	var group errgroup.Group
	group.SetLimit(readers)
	for _, m := range w.members {
		if m.gated && (m.serves() || m.servesYet()) && !m.unlocked() {
			group.Go(func() error { g.gates.renew(ctx, m.askable()); return nil })
		}
	}
	_ = group.Wait() // no task returns an error
}

// renew asks the witnesses of a pod now and records the answers, even if the pod was never
// read before.
func (r *readings) renew(ctx context.Context, pod *call.Pod) {
	answers := r.ask(ctx, pod, true)
	r.want(pod, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[pod.UID]
	if rec == nil { // while nothing reads in the background
		rec = newEntry(pod, r.now().Add(wantedFor))
		r.records[pod.UID] = rec
	}
	r.enter(rec, answers)
}

// ability returns what a pod's gate said last, and since when it has said the same.
func (r *readings) ability(uid types.UID) (call.Ability, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.records[uid]; rec != nil {
		return rec.ability, rec.abilitySince
	}
	return "", time.Time{}
}

// hearAbility records the ability that a gate reports, and reports whether it has changed.
func (e *entry) hearAbility(answer call.Reading, now time.Time) (changed bool) {
	said := cmp.Or(answer.Ability(), call.Silent)
	if said == e.ability {
		return false
	}
	e.ability, e.abilitySince = said, now
	return true
}

// unable returns why the pod cannot take calls.
func (m *member) unable() verdict.Unable {
	return verdict.Unable{Pod: m.NamespacedName.String(), Secret: m.keySecret(), Why: m.able.why}
}

// useless returns why a pod has been unable to take calls for long. An unreachable LiveKit
// is no such reason: once it is reachable again, the pod serves again.
func (m *member) useless(now time.Time) verdict.Unable {
	if m.able.why.Unable() && m.able.why != call.Unreachable && now.Sub(m.able.since) >= uselessFor {
		return m.unable()
	}
	return verdict.Unable{}
}

// told reports whether the reason is worth reporting: a worker that has not connected yet
// may be starting.
func (a ableAt) told(now time.Time) bool {
	switch a.why {
	case call.Refused, call.NotLiveKit, call.Unreachable, call.OtherwiseNo:
		return true
	default:
		return now.Sub(a.since) >= startsWithin
	}
}

// rank sorts reasons that somebody has to fix first.
func (a ableAt) rank() int {
	return slices.Index([]call.Ability{
		call.Refused, call.NotLiveKit, call.NoWorker, call.Registering, call.OtherwiseNo, call.Unreachable, call.Gone, call.Silent,
	}, a.why)
}

// keyVariable is the environment variable from which agents and the gate take their LiveKit
// key.
const keyVariable = "LIVEKIT_API_KEY"

// KeySecret returns the Secret that a pod's LiveKit key comes from, as namespace/name;
// empty if the pod names none.
func KeySecret(pod *corev1.Pod) string { return (&snapshot{}).member(pod).keySecret() }

// keySecret returns the Secret that the pod's LiveKit key comes from, as namespace/name;
// empty if the pod names none.
func (m *member) keySecret() string {
	if secret, ok := m.Project.Secret(); ok {
		return secret.String()
	}
	for _, list := range [][]corev1.Container{m.object.Spec.Containers, m.object.Spec.InitContainers} {
		if name := keySecretOf(list); name != "" {
			return m.Namespace + "/" + name
		}
	}
	return ""
}

// keySecretOf returns the Secret from which the containers take the key or all their
// variables.
func keySecretOf(list []corev1.Container) string {
	var whole []string
	for _, c := range list {
		for _, env := range c.Env {
			if env.Name == keyVariable && env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				return env.ValueFrom.SecretKeyRef.Name
			}
		}
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil && !slices.Contains(whole, from.SecretRef.Name) {
				whole = append(whole, from.SecretRef.Name)
			}
		}
	}
	if len(whole) == 1 {
		return whole[0]
	}
	return ""
}

// trimContainers keeps what keySecretOf reads.
func trimContainers(list []corev1.Container) (kept []corev1.Container) {
	if name := keySecretOf(list); name != "" {
		kept = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}}
	}
	return kept
}
