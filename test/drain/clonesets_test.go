// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const (
	revisionLabel  = "controller-revision-hash"
	specifiedLabel = "apps.kruise.io/specified-delete"
)

func cloneSets() ownerKind {
	return ownerKind{resource: schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1beta1", Resource: "clonesets"}, kind: "CloneSet", selector: ".status.labelSelector"}
}

// cloneSetController acts as OpenKruise's does, without lifecycle hooks, volumes and partitions
// (pkg/controller/cloneset/sync): it creates and deletes pods itself. Surplus pods are chosen by deletion cost, then the
// newest (choosePodsToDelete). For a rollout it labels old pods for deletion, or changes their image in place (updatePod),
// as many at once as may be unavailable. The first pod that it may not delete ends the pass.
type cloneSetController struct {
	*owned

	made int
}

// diffs is the result of calculateDiffsWithExpectation.
type diffs struct {
	up, down, deletable  int
	behind, unavailable  int // old pods, and how many pods may be unavailable for them
	maxSurge, maxMissing int
}

func (c *cloneSetController) reconcile(ctx context.Context, object *unstructured.Unstructured) error {
	replicas, template, hash, err := c.wants(object)
	if err != nil {
		return err
	}
	revision := lab.AgentName + "-" + hash
	list, err := stage.Client.CoreV1().Pods(c.ns).List(ctx, metav1.ListOptions{LabelSelector: labels.FormatLabels(c.labels)})
	if err != nil {
		return err
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		ref := metav1.GetControllerOf(&p)
		return ref == nil || ref.UID != c.self.UID || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	err = c.say(ctx, object, map[string]any{
		"replicas": int64(len(pods)), "labelSelector": labels.FormatLabels(c.labels), "updateRevision": revision, "observedGeneration": object.GetGeneration(),
	})
	if err != nil {
		return err
	}
	named, _, _ := unstructured.NestedStringSlice(object.Object, "spec", "scaleStrategy", "podsToDelete")
	specified := func(p *corev1.Pod) bool { return p.Labels[specifiedLabel] != "" || slices.Contains(named, p.Name) }
	d := c.diffs(object, replicas, revision, pods, specified)
	scaled, err := c.rescale(ctx, d, template, revision, pods, specified)
	if scaled || d.behind == 0 {
		return err
	}
	inPlace, _, _ := unstructured.NestedString(object.Object, "spec", "updateStrategy", "rollingUpdate", "podUpdatePolicy")
	if updated := c.update(ctx, d, template, revision, pods, inPlace != ""); updated != nil {
		return updated
	}
	return err
}

func (c *cloneSetController) diffs(object *unstructured.Unstructured, replicas int, revision string, pods []corev1.Pod, specified func(*corev1.Pod) bool) (d diffs) {
	d.maxSurge = number(object, "spec", "updateStrategy", "rollingUpdate", "maxSurge")
	d.maxMissing = number(object, "spec", "updateStrategy", "rollingUpdate", "maxUnavailable")
	going, missing, current := 0, 0, 0
	for _, p := range pods {
		switch {
		case specified(&p):
			going++
		case !ready(&p):
			missing++
		}
		if p.Labels[revisionLabel] == revision {
			current++
		}
	}
	d.behind = len(pods) - current
	surge := min(d.maxSurge, max(
		min(max(missing+going-d.maxMissing, 0), going), // for pods that should be deleted
		min(d.behind, max(replicas-current, 0)),        // for old ones
	))
	expected := replicas + surge
	d.up = max(0, expected-len(pods))
	d.down = max(0, len(pods)-going-expected)
	d.deletable = max(0, d.maxMissing+len(pods)-replicas-missing)
	d.unavailable = d.maxMissing + len(pods) - replicas
	return d
}

// rescale creates pods, or deletes those that are named, or surplus ones.
func (c *cloneSetController) rescale(ctx context.Context, d diffs, template corev1.PodTemplateSpec, revision string, pods []corev1.Pod, specified func(*corev1.Pod) bool) (did bool, err error) {
	for range d.up {
		if err := c.make(ctx, template, revision); err != nil {
			return did, err
		}
		did = true
	}
	if did {
		return true, nil
	}
	victims := slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return !specified(&p) })
	if len(victims) == 0 && d.down > 0 {
		victims = slices.SortedFunc(slices.Values(pods), func(a, b corev1.Pod) int { return first(&a, &b, revision) })[:d.down]
	}
	for _, p := range victims {
		if ready(&p) {
			if d.deletable == 0 {
				continue
			}
			d.deletable--
		}
		if err := stage.Client.CoreV1().Pods(c.ns).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return did, err
		}
		did = true
	}
	return did, nil
}

// first returns which of two pods is deleted first: of an old revision, not ready, with the lower cost, the newer.
func first(a, b *corev1.Pod, revision string) int {
	yes := func(is bool) int {
		if is {
			return 0
		}
		return 1
	}
	cost := func(p *corev1.Pod) int {
		n, _ := strconv.Atoi(p.Annotations[corev1.PodDeletionCost]) // zero without a valid one
		return n
	}
	return slices.Compare(
		[]int{yes(a.Labels[revisionLabel] != revision), yes(!ready(a)), cost(a), -int(a.CreationTimestamp.Unix())},
		[]int{yes(b.Labels[revisionLabel] != revision), yes(!ready(b)), cost(b), -int(b.CreationTimestamp.Unix())})
}

func (c *cloneSetController) make(ctx context.Context, template corev1.PodTemplateSpec, revision string) error {
	c.made++
	hash := revision[strings.LastIndexByte(revision, '-')+1:]
	of := maps.Clone(template.Labels)
	maps.Copy(of, map[string]string{revisionLabel: revision, "pod-template-hash": hash, "apps.kruise.io/cloneset-instance-id": fmt.Sprint(c.made)})
	_, err := stage.Client.CoreV1().Pods(c.ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.ns, Name: fmt.Sprintf("%s-%05d", lab.AgentName, c.made), Labels: of, Annotations: template.Annotations, OwnerReferences: []metav1.OwnerReference{c.self},
		},
		Spec: template.Spec,
	}, metav1.CreateOptions{})
	return err
}

// update deletes old pods, or changes their image.
func (c *cloneSetController) update(ctx context.Context, d diffs, template corev1.PodTemplateSpec, revision string, pods []corev1.Pod, inPlace bool) error {
	missing := 0
	for _, p := range pods {
		if !ready(&p) {
			missing++
		}
	}
	for _, p := range slices.SortedFunc(slices.Values(pods), func(a, b corev1.Pod) int { return first(&a, &b, revision) }) {
		if p.Labels[revisionLabel] == revision || ready(&p) && missing >= d.unavailable {
			continue
		}
		missing++
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"true"}}}`, specifiedLabel)
		if inPlace {
			patch = fmt.Sprintf(`{"metadata":{"labels":{%q:%q}},"spec":{"containers":[{"name":"agent","image":%q}]}}`, revisionLabel, revision, template.Spec.Containers[0].Image)
		}
		if _, err := stage.Client.CoreV1().Pods(c.ns).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// TestCloneSet: a CloneSet rolls out, by replacing pods and in place, is drained, is scaled down and deletes a pod that it
// names while its agents have calls.
func TestCloneSet(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	rolling := map[string]any{"maxUnavailable": int64(2)}
	cs := s.own(cloneSets(), 4, map[string]any{"updateStrategy": map[string]any{"rollingUpdate": rolling}})
	cs.play((&cloneSetController{owned: cs}).reconcile)
	s.steady(4)
	s.fill()

	rolled := func(to string) {
		old := s.pods(all)
		for range 2 { // two at a time
			s.eventually(inTime, "two old pods take no new call", func() (bool, error) {
				return s.so(len(s.pods(func(p *corev1.Pod) bool { return !image(to)(p) && leaving(p) })) == 2)
			})
			if !s.talking() {
				t.Errorf("calls ended with the rollout: %+v", s.callers.Report())
			}
			leavers := s.pods(func(p *corev1.Pod) bool { return !image(to)(p) && leaving(p) })
			s.hangUpOn(leavers...)
			s.gone(inTime, leavers...)
		}
		s.gone(inTime, old...)
		s.eventually(inTime, "four new pods serve", func() (bool, error) {
			return s.so(len(s.pods(func(p *corev1.Pod) bool { return image(to)(p) && ready(p) && stateOf(p) == call.Serving })) == 4 && s.registered() == 4)
		})
		s.bounds(4, 2)
	}
	cs.rollOutTo(newImage)
	rolled(newImage)

	s.fill()
	rolling["podUpdatePolicy"] = "InPlaceIfPossible"
	cs.set(map[string]any{"updateStrategy": map[string]any{"rollingUpdate": rolling}})
	cs.rollOutTo(oldImage)
	rolled(oldImage)

	s.fill()
	cs.drainOf(s.nodes[0])
	s.does("uncordon", s.nodes[0])
	s.eventually(inTime, "four pods serve", func() (bool, error) { return s.so(len(s.pods(in(call.Serving))) == 4 && s.registered() == 4) })

	cs.refill()
	named := s.pods(all)[0]
	cs.set(map[string]any{"replicas": 2, "scaleStrategy": map[string]any{"podsToDelete": []any{named}}})
	s.eventually(inTime, "the named pod and another take no new call", func() (bool, error) {
		return s.so(len(s.pods(leaving)) == 2 && slices.Contains(s.pods(leaving), named))
	})
	if !s.talking() {
		t.Errorf("calls ended with the scale-down: %+v", s.callers.Report())
	}
	leavers := s.pods(leaving)
	s.hangUpOn(leavers...)
	s.gone(inTime, leavers...)
	s.always(5*s1, "two talk on", func() (bool, error) { return len(s.pods(in(call.Serving))) == 2 && s.talking(), nil })

	s.does("delete", cs.name(), cs.self.Name, "--wait=false")
	s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return s.so(len(s.pods(leaving)) == 2) })
	s.hangUpAll()
	s.eventually(inTime, "no pod is left", func() (bool, error) { return s.so(len(s.pods(all)) == 0) })
	s.noneDropped()
}
