// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// What pods, and ReplicaSets, are indexed by.
const (
	byNode       = "node"       // its name
	byController = "controller" // its UID
)

// cluster has what the informers know: guarded pods, their owners, nodes and namespaces.
type cluster struct {
	all         informers.SharedInformerFactory
	guarded     informers.SharedInformerFactory
	budgetOwner informers.SharedInformerFactory // one object

	pods     corelisters.PodLister
	podIndex cache.Indexer
	// replicaSetIndex has the ReplicaSets by their controllers.
	replicaSetIndex cache.Indexer
	nodes           corelisters.NodeLister
	namespaces      corelisters.NamespaceLister
	deployments     appslisters.DeploymentLister
	replicaSets     appslisters.ReplicaSetLister
	statefulSets    appslisters.StatefulSetLister
	daemonSets      appslisters.DaemonSetLister
	budgets         policylisters.PodDisruptionBudgetLister
	// budgetOwners has only BudgetOwner.
	budgetOwners rbaclisters.ClusterRoleLister
	// others are owners of further kinds; they are apart, too: nobody waits for them.
	others *others

	synced []cache.InformerSynced
	// ownerSynced is separate, because everything else works even if the owner cannot be read.
	ownerSynced cache.InformerSynced
}

// changes are called when an informer sees a change. The object before is nil if the object
// is new, the object after is nil if it is gone.
type changes struct {
	pod, node, namespace, owner, budget, budgetOwner func(before, after metav1.Object)
}

func newCluster(client kubernetes.Interface, others *others, on changes) (*cluster, error) {
	others.changed = on.owner
	c := &cluster{
		others: others,
		all:    informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)),
		guarded: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = call.GuardedLabel + "=true" })),
		budgetOwner: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, BudgetOwner).String()
			})),
	}
	guarded := c.guarded.Core().V1().Pods()
	if err := guarded.Informer().AddIndexers(indexers()); err != nil {
		return nil, fmt.Errorf("cannot index pods: %w", err)
	}
	replicaSets := c.all.Apps().V1().ReplicaSets()
	if err := replicaSets.Informer().AddIndexers(indexers()); err != nil {
		return nil, fmt.Errorf("cannot index ReplicaSets: %w", err)
	}
	c.pods, c.podIndex = guarded.Lister(), guarded.Informer().GetIndexer()
	c.replicaSets, c.replicaSetIndex = replicaSets.Lister(), replicaSets.Informer().GetIndexer()
	c.nodes = c.all.Core().V1().Nodes().Lister()
	c.namespaces = c.all.Core().V1().Namespaces().Lister()
	c.deployments = c.all.Apps().V1().Deployments().Lister()
	c.statefulSets = c.all.Apps().V1().StatefulSets().Lister()
	c.daemonSets = c.all.Apps().V1().DaemonSets().Lister()
	c.budgets = c.all.Policy().V1().PodDisruptionBudgets().Lister()
	c.budgetOwners = c.budgetOwner.Rbac().V1().ClusterRoles().Lister()
	watch := func(informer cache.SharedIndexInformer, changed func(before, after metav1.Object)) (cache.InformerSynced, error) {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { changed(nil, meta(o)) },
			UpdateFunc: func(was, is any) { changed(meta(was), meta(is)) },
			DeleteFunc: func(o any) { changed(meta(o), nil) },
		})
		if err != nil {
			return nil, fmt.Errorf("cannot watch the cluster: %w", err)
		}
		return registration.HasSynced, nil
	}
	var err error
	if c.ownerSynced, err = watch(c.budgetOwner.Rbac().V1().ClusterRoles().Informer(), on.budgetOwner); err != nil {
		return nil, err
	}
	for _, source := range []struct {
		informer cache.SharedIndexInformer
		changed  func(before, after metav1.Object)
	}{
		{guarded.Informer(), on.pod},
		{c.all.Core().V1().Nodes().Informer(), on.node},
		{c.all.Core().V1().Namespaces().Informer(), on.namespace},
		{c.all.Apps().V1().ReplicaSets().Informer(), on.owner},
		{c.all.Apps().V1().Deployments().Informer(), on.owner},
		{c.all.Apps().V1().StatefulSets().Informer(), on.owner},
		{c.all.Apps().V1().DaemonSets().Informer(), on.owner},
		{c.all.Policy().V1().PodDisruptionBudgets().Informer(), on.budget},
	} {
		synced, err := watch(source.informer, source.changed)
		if err != nil {
			return nil, err
		}
		c.synced = append(c.synced, synced)
	}
	return c, nil
}

// onNode returns the guarded pods of a node.
func (c *cluster) onNode(name string) (list []*corev1.Pod) {
	objs, _ := c.podIndex.ByIndex(byNode, name) // the index is there from the start
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok {
			list = append(list, pod)
		}
	}
	return list
}

// indexers find pods by their nodes, and pods and ReplicaSets by their controllers.
func indexers() cache.Indexers {
	return cache.Indexers{
		byNode: func(obj any) ([]string, error) {
			if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				return []string{pod.Spec.NodeName}, nil
			}
			return nil, nil
		},
		byController: func(obj any) ([]string, error) {
			if o, ok := obj.(metav1.Object); ok {
				if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
					return []string{string(ref.UID)}, nil
				}
			}
			return nil, nil
		},
	}
}

// run watches until ctx is done.
func (c *cluster) run(ctx context.Context) {
	for _, f := range []informers.SharedInformerFactory{c.all, c.guarded, c.budgetOwner} {
		f.StartWithContext(ctx)
		defer f.Shutdown()
	}
	c.others.run(ctx)
}

// ready reports whether everything that was there at the start is known.
func (c *cluster) ready() bool {
	for _, synced := range c.synced {
		if !synced() {
			return false
		}
	}
	return true
}

// enabled reports whether callguard is enabled in the namespace and the namespace is not
// being deleted.
func (c *cluster) enabled(name string) bool {
	ns, err := c.namespaces.Get(name)
	return err == nil && ns.Labels[call.EnabledLabel] == "true" && ns.DeletionTimestamp == nil
}

func meta(obj any) metav1.Object {
	if unseen, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unseen.Obj
	}
	o, _ := obj.(metav1.Object)
	return o
}

// trim drops what the guard does not read. Anybody who may write in any namespace can create such objects, as large as
// the API server accepts.
func trim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		trimPod(o)
	case *corev1.Node:
		notices := onlyNotices(o.Status.Conditions)
		o.Annotations, o.Status = pods.Only(o.Annotations, terminationAnnotation), pods.OnlyAddresses(o.Status)
		o.Status.Conditions = notices
	case *corev1.Namespace:
		o.Annotations, o.Labels = nil, pods.Only(o.Labels, call.EnabledLabel)
	case *corev1.Event:
		trimEvent(o)
	case *appsv1.Deployment:
		trimOwner(o, &o.Spec.Template)
		o.Spec.Selector, o.Status.Conditions = nil, nil
	case *appsv1.ReplicaSet:
		trimOwner(o, &o.Spec.Template)
		o.Status.Conditions = nil
		if o.Spec.Selector != nil {
			o.Spec.Selector = &metav1.LabelSelector{MatchLabels: pods.Only(o.Spec.Selector.MatchLabels, call.HashLabels()...)}
		}
	case *appsv1.StatefulSet:
		trimOwner(o, &o.Spec.Template)
		o.Spec.Selector, o.Spec.VolumeClaimTemplates, o.Status.Conditions = nil, nil, nil
	case *appsv1.DaemonSet:
		trimOwner(o, &o.Spec.Template)
		o.Spec.Selector, o.Status.Conditions = nil, nil
	}
	return obj, nil
}

// trimOwner keeps what the guard reads of an owner of pods: its labels and annotations, and
// where it places pods.
func trimOwner(o metav1.Object, t *corev1.PodTemplateSpec) {
	o.SetLabels(nil)
	o.SetAnnotations(pods.Only(o.GetAnnotations(), call.MinAvailableAnnotation, revisionMark, daemonGeneration))
	*t = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: pods.Only(t.Labels, call.GuardedLabel)},
		Spec:       corev1.PodSpec{NodeName: t.Spec.NodeName, NodeSelector: t.Spec.NodeSelector, Affinity: t.Spec.Affinity},
	}
}

// trimEvent keeps the count of an Event, and whether policy callguard-delete caused it.
func trimEvent(e *corev1.Event) {
	refused := strings.Contains(e.Message, admission.DeletePolicy)
	*e = corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name, UID: e.UID, ResourceVersion: e.ResourceVersion},
		Count:      e.Count,
	}
	if refused {
		e.Message = admission.DeletePolicy
	}
}

func trimPod(pod *corev1.Pod) {
	containers, statuses := pods.TrimContainers(pod)
	pod.Annotations = pods.Only(pod.Annotations, append(call.PodAnnotations(), append(autoscalerAnnotations(), costAnnotation)...)...)
	spec := corev1.PodSpec{
		Containers: append(containers, trimContainers(pod.Spec.Containers)...), InitContainers: trimContainers(pod.Spec.InitContainers),
		NodeName: pod.Spec.NodeName, Tolerations: pod.Spec.Tolerations,
		TerminationGracePeriodSeconds: pod.Spec.TerminationGracePeriodSeconds,
	}
	status := corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, ContainerStatuses: statuses}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady || c.Type == corev1.DisruptionTarget {
			status.Conditions = append(status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason})
		}
	}
	trimMistakes(pod, &spec, &status)
	pod.Spec, pod.Status = spec, status
}
