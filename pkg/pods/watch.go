// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/call"
)

// Watcher keeps a Store up to date.
type Watcher struct {
	store    *Store
	all      informers.SharedInformerFactory // every object of a kind
	guarded  informers.SharedInformerFactory // those labelled guarded
	enabled  informers.SharedInformerFactory // those labelled enabled
	synced   []cache.InformerSynced
	onChange func()
	log      *slog.Logger
}

// NewWatcher returns a Watcher that calls onChange after a pod or a namespace has changed.
// Pods are read completely and trimmed at once, because address, node and container states
// are needed, which metadata does not include.
func NewWatcher(client kubernetes.Interface, store *Store, onChange func(), log *slog.Logger) (*Watcher, error) {
	labelled := func(label string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = label + "=true" }))
	}
	w := &Watcher{
		store:    store,
		all:      informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)),
		guarded:  labelled(call.GuardedLabel),
		enabled:  labelled(call.EnabledLabel),
		onChange: onChange,
		log:      log,
	}
	type source struct {
		informer    cache.SharedIndexInformer
		set, delete func(any)
	}
	sources := []source{
		{w.guarded.Core().V1().Pods().Informer(), w.setPod, w.deletePod},
		{w.guarded.Apps().V1().ReplicaSets().Informer(), w.setObject, w.deleteObject},
		{w.all.Apps().V1().Deployments().Informer(), w.setObject, w.deleteObject},
		{w.all.Apps().V1().StatefulSets().Informer(), w.setObject, w.deleteObject},
		{w.all.Core().V1().Nodes().Informer(), w.setObject, w.deleteObject},
		{w.enabled.Core().V1().Namespaces().Informer(), w.setObject, w.deleteObject},
	}
	for _, s := range sources {
		registration, err := s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    s.set,
			UpdateFunc: func(_, now any) { s.set(now) },
			DeleteFunc: func(last any) {
				if unseen, ok := last.(cache.DeletedFinalStateUnknown); ok {
					last = unseen.Obj
				}
				s.delete(last)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("cannot watch the cluster: %w", err)
		}
		w.synced = append(w.synced, registration.HasSynced)
	}
	return w, nil
}

// Run watches until ctx is done.
func (w *Watcher) Run(ctx context.Context) error {
	for _, f := range []informers.SharedInformerFactory{w.all, w.guarded, w.enabled} {
		f.StartWithContext(ctx)
		defer f.Shutdown()
	}
	<-ctx.Done()
	return nil
}

// IsNode reports whether a node has this address.
func (w *Watcher) IsNode(addr netip.Addr) bool {
	return IsNode(w.all.Core().V1().Nodes().Lister(), addr)
}

// Synced reports whether everything that existed at the start is in the Store.
func (w *Watcher) Synced() bool {
	for _, synced := range w.synced {
		if !synced() {
			return false
		}
	}
	return true
}

func (w *Watcher) setPod(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		w.deletePod(obj)
		return
	}
	p, errs := FromPod(pod)
	if fresh := w.store.SetPod(p); fresh {
		for _, err := range errs {
			w.log.Warn("Invalid annotation on a pod; its default applies", "pod", p.NamespacedName.String(), "err", err)
		}
	}
	w.onChange()
}

func (w *Watcher) deletePod(obj any) {
	if pod, ok := obj.(*corev1.Pod); ok {
		w.store.DeletePod(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, pod.UID)
		w.onChange()
	}
}

func (w *Watcher) setObject(obj any) {
	if o := fromObject(obj); o != nil {
		if w.store.SetObject(o) {
			w.tellFormer(o)
		}
		if o.Kind == Namespace || o.Guarded {
			w.onChange()
		}
	}
}

// tellFormer logs once that pods of a deleted workload count for the present one of its
// name.
func (w *Watcher) tellFormer(o *Object) {
	if o.Kind != Deployment && o.Kind != StatefulSet {
		return
	}
	if former := w.store.Former(o); len(former) > 0 {
		w.log.Info("Pods of an earlier workload with this name count as its own until they are gone",
			"kind", o.Kind, "name", o.NamespacedName.String(), "pods", len(former), "such", former[0].Name)
	}
}

func (w *Watcher) deleteObject(obj any) {
	if o := fromObject(obj); o != nil {
		w.store.DeleteObject(o.Kind, o.NamespacedName, o.UID)
		if o.Kind == Namespace || o.Guarded {
			w.onChange()
		}
	}
}

// FromPod reads what callguard needs of a pod. For an invalid setting the default applies;
// the errors name values that would work.
func FromPod(pod *corev1.Pod) (*call.Pod, []error) {
	witnesses, _ := call.ParseWitnesses(pod.Annotations[call.WitnessesAnnotation], pod.Annotations[call.GatePortAnnotation])
	port, _ := call.ParseWorkerPort(pod.Annotations[call.WorkerPortAnnotation])
	gatePort, _ := call.ParseGatePort(pod.Annotations[call.GatePortAnnotation])
	demand := call.DemandOf(pod.Namespace, pod.Annotations)
	running := Runs(pod.Status.ContainerStatuses)
	if running && !Runs(agentStatuses(pod, witnesses)) {
		// It has no page that could answer, and no job. The other witnesses are still asked.
		witnesses = slices.DeleteFunc(slices.Clone(witnesses), func(w call.Witness) bool { return w == call.Worker })
		running = len(witnesses) > 0
	}
	return &call.Pod{
		NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name},
		UID:            pod.UID,
		Labels:         pod.Labels,
		Node:           pod.Spec.NodeName,
		IP:             pod.Status.PodIP,
		Owner:          controllerOf(pod),
		Hash:           call.HashOf(pod.Labels),
		State:          call.StateOf(pod.Labels, pod.Annotations),
		Terminating:    pod.DeletionTimestamp != nil,
		Born:           pod.CreationTimestamp.Time,
		Running:        running,
		Ready:          slices.ContainsFunc(pod.Status.Conditions, isReady),
		Witnesses:      witnesses,
		Project:        demand.Project,
		Demand:         demand,
		WorkerPort:     port,
		GatePort:       gatePort,
	}, call.Mistakes(pod.Annotations)
}

// Runs reports whether one of these containers runs.
func Runs(list []corev1.ContainerStatus) bool {
	return slices.ContainsFunc(list, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}

// isReady reports whether a condition is that of a ready pod.
func isReady(c corev1.PodCondition) bool {
	return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
}

// agentStatuses returns the statuses of the containers that may be the agent: the one that
// call.AgentContainerAnnotation names or, if GET /worker is a witness, the only one with
// its port; all regular containers if neither decides.
func agentStatuses(pod *corev1.Pod, witnesses []call.Witness) []corev1.ContainerStatus {
	list := pod.Status.ContainerStatuses
	name := pod.Annotations[call.AgentContainerAnnotation]
	if name == "" && slices.Contains(witnesses, call.Worker) {
		name = withPort(pod)
	}
	for _, c := range list {
		if name != "" && c.Name == name {
			return []corev1.ContainerStatus{c}
		}
	}
	return list
}

// withPort returns the name of the only regular container that declares the port of the
// agent's server; empty if none or several do.
func withPort(pod *corev1.Pod) (name string) {
	port, err := call.ParseWorkerPort(pod.Annotations[call.WorkerPortAnnotation])
	if err != nil {
		return ""
	}
	for _, c := range pod.Spec.Containers {
		if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return int(p.ContainerPort) == port }) {
			continue
		}
		if name != "" {
			return ""
		}
		name = c.Name
	}
	return name
}

// TrimContainers keeps what FromPod reads of a pod's regular containers and their statuses:
// names, ports, and whether they run.
func TrimContainers(pod *corev1.Pod) (containers []corev1.Container, statuses []corev1.ContainerStatus) {
	for _, c := range pod.Status.ContainerStatuses {
		statuses = append(statuses, corev1.ContainerStatus{Name: c.Name, State: corev1.ContainerState{Running: c.State.Running}})
	}
	if len(statuses) < 2 {
		return nil, statuses // it does not matter which one is the agent
	}
	for _, c := range pod.Spec.Containers {
		kept := corev1.Container{Name: c.Name}
		for _, p := range c.Ports {
			kept.Ports = append(kept.Ports, corev1.ContainerPort{ContainerPort: p.ContainerPort})
		}
		containers = append(containers, kept)
	}
	return containers, statuses
}

func fromObject(obj any) *Object {
	meta, ok := obj.(metav1.Object)
	if !ok {
		return nil
	}
	o := &Object{
		NamespacedName: types.NamespacedName{Namespace: meta.GetNamespace(), Name: meta.GetName()},
		UID:            meta.GetUID(),
		Labels:         meta.GetLabels(),
	}
	guarded := func(template corev1.PodTemplateSpec) bool { return template.Labels[call.GuardedLabel] == "true" }
	takes := func(template corev1.PodTemplateSpec) {
		o.Demand, o.Born = call.DemandOf(o.Namespace, template.Annotations), meta.GetCreationTimestamp().Time
		witnesses, _ := call.ParseWitnesses(template.Annotations[call.WitnessesAnnotation], template.Annotations[call.GatePortAnnotation])
		o.AsksRooms = slices.Contains(witnesses, call.Rooms)
	}
	switch obj := obj.(type) {
	case *appsv1.Deployment:
		o.Kind, o.Guarded = Deployment, guarded(obj.Spec.Template)
		takes(obj.Spec.Template)
	case *appsv1.StatefulSet:
		o.Kind, o.Guarded = StatefulSet, guarded(obj.Spec.Template)
		takes(obj.Spec.Template)
	case *appsv1.ReplicaSet:
		o.Kind, o.Guarded, o.Owner = ReplicaSet, guarded(obj.Spec.Template), controllerOf(obj)
	case *corev1.Node:
		o.Kind = Node
		o.Silent = slices.ContainsFunc(obj.Spec.Taints, silences)
	case *corev1.Namespace:
		o.Kind = Namespace
	default:
		return nil
	}
	return o
}

// silences reports whether a taint means that a node does not report, or is not ready.
func silences(t corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeUnreachable || t.Key == corev1.TaintNodeNotReady)
}

func controllerOf(obj metav1.Object) call.Owner {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		return call.Owner{Kind: ref.Kind, Name: ref.Name, UID: ref.UID}
	}
	return call.Owner{}
}

// trim keeps what FromPod and fromObject read of an object, so that 5,000 pods take a few
// megabytes.
func trim(obj any) (any, error) {
	if meta, ok := obj.(metav1.Object); ok {
		meta.SetManagedFields(nil)
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		containers, statuses := TrimContainers(o)
		status := corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, ContainerStatuses: statuses}
		if slices.ContainsFunc(o.Status.Conditions, isReady) {
			status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		o.Annotations = Only(o.Annotations, call.PodAnnotations()...)
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName, Containers: containers}
		o.Status = status
	case *appsv1.Deployment:
		o.Spec, o.Status = appsv1.DeploymentSpec{Template: trimOwner(o, o.Spec.Template)}, appsv1.DeploymentStatus{}
	case *appsv1.StatefulSet:
		o.Spec, o.Status = appsv1.StatefulSetSpec{Template: trimOwner(o, o.Spec.Template)}, appsv1.StatefulSetStatus{}
	case *appsv1.ReplicaSet:
		o.Spec, o.Status = appsv1.ReplicaSetSpec{Template: trimOwner(o, o.Spec.Template)}, appsv1.ReplicaSetStatus{}
	case *corev1.Node:
		taints := slices.DeleteFunc(slices.Clone(o.Spec.Taints), func(t corev1.Taint) bool { return !silences(t) })
		o.Annotations, o.Spec, o.Status = nil, corev1.NodeSpec{Taints: taints}, OnlyAddresses(o.Status)
	case *corev1.Namespace:
		o.Labels = selectable(o.Labels)
		o.Annotations, o.Spec, o.Status = nil, corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	}
	return obj, nil
}

// trimOwner keeps the labels of an owner of guarded pods, by which metrics can be selected, drops those of any other owner,
// and returns what is read of its template.
func trimOwner(o metav1.Object, t corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	o.SetAnnotations(nil)
	var demand map[string]string
	if t.Labels[call.GuardedLabel] == "true" {
		o.SetLabels(selectable(o.GetLabels()))
		demand = Only(t.Annotations, call.SecretAnnotation, call.SecretKeysAnnotation, call.WitnessesAnnotation, call.GatePortAnnotation,
			call.AgentNameAnnotation, call.WaitingRoomsAnnotation, call.DispatchAgainAnnotation)
		maps.DeleteFunc(demand, func(_, value string) bool { return len(value) > maxAnnotation }) // no valid one is longer
	} else {
		o.SetLabels(nil)
	}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: Only(t.Labels, call.GuardedLabel), Annotations: demand}}
}

// maxLabels is the maximum size of an object's labels, in bytes, up to which they are kept for selectors. Whoever writes
// an object chooses their size, up to the API server's 1.5 MiB.
const maxLabels = 16 << 10

// maxAnnotation is the maximum length of an annotation of a template that is kept, in
// bytes.
const maxAnnotation = 1 << 10

// selectable returns the labels of an object, or only callguard's if they are too long.
func selectable(labels map[string]string) map[string]string {
	size := 0
	for k, v := range labels {
		size += len(k) + len(v)
	}
	if size > maxLabels {
		return Only(labels, call.EnabledLabel, call.GuardedLabel)
	}
	return labels
}

// Only returns the entries of a map with the given keys; nil if there are none.
func Only(m map[string]string, keys ...string) map[string]string {
	var kept map[string]string
	for _, k := range keys {
		if v, ok := m[k]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}
