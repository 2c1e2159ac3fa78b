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
	// silentFor is how long a gate may not answer before its pod is judged by its Ready
	// condition alone: silence proves nothing, and nothing waits for it without end.
	silentFor = 2 * time.Minute
	// startsWithin is how long a worker may take to come before that is a reason to name:
	// Python's takes up to half a minute after its pod is ready.
	startsWithin = time.Minute
	// uselessFor is how long a pod must itself have been unable to take calls before it
	// is no loss that it stops taking them.
	uselessFor = 5 * time.Minute
)

// ableAt is what is known of a pod's ability to take calls, of one that has a gate.
type ableAt struct {
	// why it cannot; empty where it can, as far as is known.
	why   call.Ability
	since time.Time
}

// can reports whether the pod can take calls: Kubernetes takes it for ready, and its
// gate, if it has one, does not say otherwise.
func (m *member) can() bool { return m.serves() && m.able.why == "" }

// canYet reports the same of a pod that is set aside: it takes calls until it drains.
func (m *member) canYet() bool { return m.servesYet() && m.able.why == "" }

// gated reports whether a pod has a gate, which says whether it can take calls.
func gated(pod *corev1.Pod, p *call.Pod) bool {
	return pod.Annotations[call.GatePortAnnotation] != "" || p.Asks(call.Gate)
}

// askable is a member's pod as its gate alone is asked.
func (m *member) askable() *call.Pod {
	p := *m.Pod
	p.Witnesses = []call.Witness{call.Gate}
	return &p
}

// hears enters what the gates of a workload have said. A pod whose gate is silent cannot
// take calls, for a while; one whose gate is of a version that does not say can, if it
// is ready. Where nobody asks gates, all are judged by that.
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

// asksGates lists those whose gates are to be asked while a pod of the workload is to go
// and still takes calls: it matters then which others can.
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

// undrained reports whether the pod has not been told to take no call.
func (m *member) undrained() bool {
	return !m.Terminating && (m.State == call.Serving || m.State == call.Aside)
}

// askGatesNow asks the gates of those that would count as able, so that no pod stops
// taking calls on an old answer.
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
	_ = group.Wait() // none returns an error
}

// renew asks the witnesses of a pod now and enters the answers, also of one that nobody
// has read yet.
func (r *readings) renew(ctx context.Context, pod *call.Pod) {
	answers := r.ask(ctx, pod, true)
	r.want(pod, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[pod.UID]
	if rec == nil { // while nobody reads in the background
		rec = newEntry(pod, r.now().Add(wantedFor))
		r.records[pod.UID] = rec
	}
	r.enter(rec, answers)
}

// ability is what a pod's gate said last, and since when it has said the same.
func (r *readings) ability(uid types.UID) (call.Ability, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.records[uid]; rec != nil {
		return rec.ability, rec.abilitySince
	}
	return "", time.Time{}
}

// hearAbility enters what a gate says beside its number, and reports whether that is new.
func (e *entry) hearAbility(answer call.Reading, now time.Time) (changed bool) {
	said := cmp.Or(answer.Ability(), call.Silent)
	if said == e.ability {
		return false
	}
	e.ability, e.abilitySince = said, now
	return true
}

// unable is why the pod can take no call.
func (m *member) unable() verdict.Unable {
	return verdict.Unable{Pod: m.NamespacedName.String(), Secret: m.keySecret(), Why: m.able.why}
}

// useless says why a pod has long been unable to take calls. That LiveKit cannot be
// reached does not make it so: when it can be again, who serves now serves on.
func (m *member) useless(now time.Time) verdict.Unable {
	if m.able.why.Unable() && m.able.why != call.Unreachable && now.Sub(m.able.since) >= uselessFor {
		return m.unable()
	}
	return verdict.Unable{}
}

// told reports whether what a pod waits for is worth telling: a worker that has yet to
// come may be starting.
func (a ableAt) told(now time.Time) bool {
	switch a.why {
	case call.Refused, call.NotLiveKit, call.Unreachable, call.OtherwiseNo:
		return true
	default:
		return now.Sub(a.since) >= startsWithin
	}
}

// rank puts what somebody has to mend first.
func (a ableAt) rank() int {
	return slices.Index([]call.Ability{
		call.Refused, call.NotLiveKit, call.NoWorker, call.Registering, call.OtherwiseNo, call.Unreachable, call.Gone, call.Silent,
	}, a.why)
}

// keyVariable is the variable from which agents, and the gate, have their LiveKit key.
const keyVariable = "LIVEKIT_API_KEY"

// KeySecret is the Secret that a pod's LiveKit key comes from, as namespace/name; empty
// where the pod does not say.
func KeySecret(pod *corev1.Pod) string { return (&snapshot{}).member(pod).keySecret() }

// keySecret is the Secret that the pod's LiveKit key comes from, as namespace/name; empty
// where the pod does not say.
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

// keySecretOf finds the Secret of containers that name it for the key, or take all their
// variables from one.
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
