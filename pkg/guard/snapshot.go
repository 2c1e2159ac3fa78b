// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

const (
	daemonSet    = "DaemonSet"
	podKind      = "Pod"
	appsGroup    = "apps/v1"
	hashLabel    = appsv1.DefaultDeploymentUniqueLabelKey
	revisionMark = "deployment.kubernetes.io/revision"
	// daemonGeneration is the generation of a DaemonSet's template, which its pods
	// carry as a label.
	daemonGeneration = appsv1.DeprecatedTemplateGeneration
	daemonPodLabel   = "pod-template-generation"
)

// Key names a workload: the top owner of pods that do the same work, or a pod without an
// owner.
type Key struct {
	types.NamespacedName

	APIVersion, Kind string
	UID              types.UID
}

func (k Key) String() string { return k.Kind + " " + k.NamespacedName.String() }

// owner holds what the guard reads of an object that controls pods.
type owner struct {
	ref        metav1.OwnerReference
	controller *metav1.OwnerReference
	// going reports that it is being deleted together with its dependents.
	going       bool
	replicas    int
	annotations map[string]string

	// selector is its pod selector in the form that the API server accepts; empty if it
	// selects nothing.
	selector string
	hash     string // the label by which a ReplicaSet selects pods of its template; empty where by none
	recreate bool   // a Deployment without rolling updates
	surge    int
	// maxUnavailable is how many replicas may be missing during a rollout.
	maxUnavailable int
	// guarded reports whether its pod template has call.GuardedLabel. If not, its new pods are
	// not guarded.
	guarded bool
	// ready is the number of ready pods in its status, guarded or not.
	ready int
	// placed is the part of its pod template that decides where pods run.
	placed corev1.PodSpec
	// revision is the revision that its pods should have; empty if that is not known.
	revision string
	// rolls reports whether a StatefulSet or DaemonSet replaces pods of other revisions by
	// itself.
	rolls        bool
	first, floor int // a StatefulSet's first ordinal, and the lowest that is updated

	// other says that it is of a kind that an administrator has the guard follow; see others.
	other bool
	// unsaid says that nobody knows how many replicas it wants.
	unsaid bool
	// partition is how many of its pods stay of old revisions.
	partition int
	// named are pods that it wants to be deleted.
	named []string
}

// snapshot is the state of a namespace at one moment.
type snapshot struct {
	owners map[types.UID]*owner
	pods   []*corev1.Pod
	// gone has the owners that are known not to exist. An owner that is merely not in owners
	// does not count as gone.
	gone map[types.UID]bool
	// others are the kinds of owners that are followed beside those of apps/v1; nil for none.
	others *others
	// strangers counts, by owner, the ready pods that are not guarded of those whose pod
	// template is not any more. Nil in a snapshot that has not asked for them.
	strangers map[types.UID]int
}

// of reports whether the owner, or its controller, is in tops.
func (o *owner) of(tops map[types.UID]bool) bool {
	return tops[o.ref.UID] || o.controller != nil && tops[o.controller.UID]
}

// strangersOf counts the ready unguarded pods of a workload that also has guarded ones. If
// they were not requested, it uses the status of their owners.
func (s *snapshot) strangersOf(w *workload) (n int) {
	for _, o := range s.owners {
		switch {
		case o.guarded || s.overReplicaSets(o) || !o.of(map[types.UID]bool{w.key.UID: true}):
		case s.strangers != nil:
			n += s.strangers[o.ref.UID]
		default:
			ready := 0
			for _, m := range w.members {
				if m.owner == o && m.ready {
					ready++
				}
			}
			n += max(0, o.ready-ready)
		}
	}
	return n
}

// overReplicaSets reports whether the owner's pods are those of its ReplicaSets.
func (s *snapshot) overReplicaSets(o *owner) bool {
	if o.ref.Kind == pods.Deployment {
		return true
	}
	for _, under := range s.owners {
		if o.other && under.controller != nil && under.controller.UID == o.ref.UID {
			return true
		}
	}
	return false
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (s *snapshot) add(o *owner) { s.owners[o.ref.UID] = o }

// top returns the workload of a pod: the end of its chain of controllers.
func (s *snapshot) top(pod *corev1.Pod) Key {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return Key{
			NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name},
			APIVersion:     "v1", Kind: podKind, UID: pod.UID,
		}
	}
	if o := s.owners[ref.UID]; o != nil && o.controller != nil {
		ref = o.controller
	}
	return keyOf(pod.Namespace, *ref)
}

func keyOf(namespace string, ref metav1.OwnerReference) Key {
	return Key{
		NamespacedName: types.NamespacedName{Namespace: namespace, Name: ref.Name},
		APIVersion:     ref.APIVersion, Kind: ref.Kind, UID: ref.UID,
	}
}

func newOwner(obj metav1.Object, kind string, replicas *int32, selects *metav1.LabelSelector, template corev1.PodTemplateSpec, ready int32) *owner {
	o := &owner{
		guarded:     template.Labels[call.GuardedLabel] == "true",
		ready:       int(ready),
		placed:      template.Spec,
		ref:         metav1.OwnerReference{APIVersion: appsGroup, Kind: kind, Name: obj.GetName(), UID: obj.GetUID()},
		controller:  metav1.GetControllerOfNoCopy(obj),
		annotations: obj.GetAnnotations(),
		surge:       1,
		replicas:    1,
		// With the orphan finalizer its dependents stay.
		going: obj.GetDeletionTimestamp() != nil && !slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents),
	}
	if replicas != nil {
		o.replicas = int(*replicas)
	}
	if selects != nil {
		o.selector = metav1.FormatLabelSelector(selects)
	}
	return o
}

func ofDeployment(d *appsv1.Deployment) *owner {
	o := newOwner(d, pods.Deployment, d.Spec.Replicas, d.Spec.Selector, d.Spec.Template, d.Status.ReadyReplicas)
	o.recreate = d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
	o.revision = d.Annotations[revisionMark]
	if rolling := d.Spec.Strategy.RollingUpdate; rolling != nil {
		surge := scaled(rolling.MaxSurge, o.replicas, true)
		o.surge, o.maxUnavailable = max(1, surge), scaled(rolling.MaxUnavailable, o.replicas, false)
		if rolling.MaxSurge != nil && surge == 0 {
			o.maxUnavailable = max(1, o.maxUnavailable) // as its controller does, which could not continue otherwise
		}
	}
	return o
}

// scaled returns a number of pods, given as a number or as a percentage of another; zero if
// it is not set.
func scaled(n *intstr.IntOrString, of int, up bool) int {
	if n == nil {
		return 0
	}
	scaled, err := intstr.GetScaledValueFromIntOrPercent(n, of, up)
	if err != nil {
		return 0 // the API server accepts no such value
	}
	return scaled
}

func ofReplicaSet(r *appsv1.ReplicaSet) *owner {
	o := newOwner(r, pods.ReplicaSet, r.Spec.Replicas, r.Spec.Selector, r.Spec.Template, r.Status.ReadyReplicas)
	o.revision = r.Annotations[revisionMark]
	if r.Spec.Selector != nil {
		o.hash = call.HashLabel(r.Spec.Selector.MatchLabels)
	}
	return o
}

func ofStatefulSet(t *appsv1.StatefulSet) *owner {
	o := newOwner(t, pods.StatefulSet, t.Spec.Replicas, t.Spec.Selector, t.Spec.Template, t.Status.ReadyReplicas)
	o.rolls = t.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
	if t.Status.ObservedGeneration >= t.Generation {
		o.revision = t.Status.UpdateRevision
	}
	if t.Spec.Ordinals != nil {
		o.first = int(t.Spec.Ordinals.Start)
	}
	if rolling := t.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		o.floor, o.maxUnavailable = int(ptr.Deref(rolling.Partition, 0)), scaled(rolling.MaxUnavailable, o.replicas, false)
	}
	return o
}

func ofDaemonSet(d *appsv1.DaemonSet) *owner {
	o := newOwner(d, daemonSet, &d.Status.DesiredNumberScheduled, d.Spec.Selector, d.Spec.Template, d.Status.NumberReady)
	o.rolls = d.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType
	if rolling := d.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		o.maxUnavailable = scaled(rolling.MaxUnavailable, o.replicas, true)
	}
	o.revision = d.Annotations[daemonGeneration]
	return o
}

// ordinal returns the number at the end of the name of a StatefulSet's pod.
func ordinal(pod *corev1.Pod) (int, bool) {
	for i := len(pod.Name) - 1; i >= 0; i-- {
		if pod.Name[i] == '-' {
			n, err := strconv.Atoi(pod.Name[i+1:])
			return n, err == nil
		}
	}
	return 0, false
}
