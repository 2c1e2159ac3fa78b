// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// deletedFor is how long the guard remembers that it has deleted a pod.
const deletedFor = time.Minute

// act carries out a verdict. If that fails, the judgement becomes a Hold with the reason.
func (g *Guard) act(ctx context.Context, s *snapshot, w *workload, j *judgement) error {
	err := g.step(ctx, s, w, j)
	if err != nil {
		g.letOthersPass(j.UID)
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		j.verdict = verdict.Verdict{Outcome: verdict.Hold, Rule: RuleWrite, Why: err.Error()}
	}
	return err
}

// letOthersPass records that a step with a pod has failed, so that others come before it.
func (g *Guard) letOthersPass(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed[uid] = g.now()
}

// took records a step that began at the given time, and the pod as it is after it.
func (g *Guard) took(w *workload, j *judgement, pod *corev1.Pod, began time.Time) {
	g.mu.Lock()
	delete(g.failed, pod.UID)
	g.mu.Unlock()
	g.writes.enter(w.key, pod, began)
	g.report.stepped(w, *j)
}

// failedAt returns when the latest step with a pod failed; zero if it did not.
func (g *Guard) failedAt(uid types.UID) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed[uid]
}

func (g *Guard) step(ctx context.Context, s *snapshot, w *workload, j *judgement) error {
	var is *corev1.Pod
	var err error
	began := g.now()
	switch j.verdict.Outcome {
	case verdict.SetAside:
		if s.gone == nil {
			return nil // this was decided on data that may be old
		}
		is, err = g.steps.setAside(ctx, j.object, *j.owner.controller, call.Mark{Intent: j.intent.Intent, At: g.now()})
	case verdict.Drain:
		if s.gone == nil {
			return nil
		}
		// A mark has whole seconds. It must not be earlier than the step, or a reading between
		// the two would count as one after it.
		at := g.now().Add(time.Second - 1).Truncate(time.Second)
		is, err = g.steps.drain(ctx, j.object, call.Mark{Intent: j.intent.Intent, At: at})
	case verdict.Release:
		return g.release(ctx, w, j)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot let pod %s/%s go on (%s): %w", j.Namespace, j.Name, j.verdict.Outcome, err)
	}
	g.took(w, j, is, began)
	return nil
}

// release judges once more, on the live pod and on witnesses asked just now, and releases
// the pod if they agree.
func (g *Guard) release(ctx context.Context, w *workload, j *judgement) error {
	pod, err := g.cfg.Client.CoreV1().Pods(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if pod.UID != j.UID || pod.DeletionTimestamp != nil {
		return nil
	}
	fresh := (&snapshot{}).member(pod)
	if fresh.State == call.Released {
		g.letOthersPass(j.UID)
		return nil // this look has an old view of the pod
	}
	f := j.facts
	f.Pod.State, f.Pod.Running, f.Pod.Ready = fresh.State, fresh.Running, fresh.ready
	if fresh.Running {
		var quiet time.Time
		f.Readings, quiet = g.readings.fresh(ctx, j.Pod)
		f.Sealed = sealed(f.Readings)
		if quiet.After(f.QuietSince) {
			f.QuietSince = quiet
		}
	}
	f.Now = g.now()
	v := g.planner.rules.Judge(f)
	if v.Outcome != verdict.Release || v.Forced && !j.verdict.Forced {
		j.facts, j.verdict = f, v
		return nil
	}
	j.verdict = v // a pod that was to be released by force may be known to be idle now
	began := g.now()
	if pod, err = g.steps.release(ctx, pod, j.intent.Intent); err != nil {
		return fmt.Errorf("cannot release pod %s/%s: %w", j.Namespace, j.Name, err)
	}
	g.took(w, j, pod, began)
	g.look(w.key)
	return nil
}

// collect deletes a released pod that nobody has evicted in time: at once after a
// scale-down, a rollout or the deletion of its owner, because nobody evicts it then. A pod
// that nothing would create again, on a node that is only cordoned, is left to an eviction.
func (g *Guard) collect(ctx context.Context, w *workload, m *member) error {
	if m.leftToEviction() {
		g.report.leftToEviction(w, m)
		return nil
	}
	patience := g.cfg.ReleasePatience
	switch call.Intent(m.Labels[call.ReleasedLabel]) {
	case call.ScaleDown, call.Rollout, call.Orphan:
		patience = 0
	default:
	}
	if g.now().Sub(g.planner.dates.first(occasion{of: m.UID, fact: isReleased})) < patience || !g.deletes(m.UID) {
		return nil
	}
	if err := g.steps.delete(ctx, m.object); err != nil {
		g.forgetDelete(m.UID)
		return fmt.Errorf("cannot delete released pod %s/%s: %w", m.Namespace, m.Name, err)
	}
	g.cfg.Log.Info("Deleted a released pod", "pod", m.NamespacedName.String(), "workload", w.key.String())
	return nil
}

// leftToEviction reports whether only an eviction can show that the pod is not wanted any
// more: it has no owner, and a cordon does not show it.
func (m *member) leftToEviction() bool {
	return call.Intent(m.Labels[call.ReleasedLabel]) == call.NodeDrain && metav1.GetControllerOfNoCopy(m.object) == nil && m.causes.Tainted.IsZero() && m.causes.Going.IsZero()
}

// deletes reports whether a pod has to be deleted now; true at most once a minute for each
// pod.
func (g *Guard) deletes(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	maps.DeleteFunc(g.deleted, func(_ types.UID, at time.Time) bool { return now.Sub(at) > deletedFor })
	if _, done := g.deleted[uid]; done {
		return false
	}
	g.deleted[uid] = now
	return true
}

func (g *Guard) forgetDelete(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.deleted, uid)
}
