// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/fleet"
)

const (
	// kubelets limits how many pods are created, or their statuses written, at once.
	kubelets = 16
	// statusEvery is the interval at which the status of a ReplicaSet and its Deployment is written.
	statusEvery = time.Second
)

// light does the work of the controllers that a bare control plane lacks, for the pods of one namespace: the Deployment's first
// ReplicaSet, its pods, on nodes that are not cordoned, and the nodes' kubelets. It implements no rollouts, scale-downs or
// evictions.
type light struct {
	client kubernetes.Interface            // with the rights of kube-controller-manager's controllers
	asNode map[string]kubernetes.Interface // callguard's policies let only a pod's own node write its statuses
	pods   cache.Indexer
	nodes  cache.Store
	queue  workqueue.TypedRateLimitingInterface[string] // keys of pods, and "set/" with a ReplicaSet's UID

	mu   sync.Mutex
	sets map[types.UID]*replicaSet
	next int // counter for nodes and addresses
}

// replicaSet is a ReplicaSet and the state of its pods.
type replicaSet struct {
	deployment *appsv1.Deployment
	set        *appsv1.ReplicaSet
	selector   labels.Selector

	made    int             // number of names used
	missing map[string]bool // pods that were created and not yet seen
	told    [2]int32        // replicas and ready ones, as last written
	last    time.Time       // when that was written
}

const ownedBy = "owner"

func byOwner(o any) ([]string, error) {
	if owner := metav1.GetControllerOf(o.(*corev1.Pod)); owner != nil {
		return []string{string(owner.UID)}, nil
	}
	return nil, nil
}

// startLight runs until ctx ends.
func startLight(ctx context.Context, cluster *local.Cluster, client kubernetes.Interface, pods, nodes cache.SharedIndexInformer) (*light, error) {
	asNode := map[string]kubernetes.Interface{}
	for i := range emptied + spare {
		name := local.NodeName(i + 1)
		config, err := cluster.NodeConfig(name)
		if err != nil {
			return nil, err
		}
		config.QPS = -1
		if asNode[name], err = kubernetes.NewForConfig(config); err != nil {
			return nil, err
		}
	}
	l := &light{
		client: client, asNode: asNode, pods: pods.GetIndexer(), nodes: nodes.GetStore(), sets: map[types.UID]*replicaSet{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("cannot make the service account of the pods: %w", err)
	}
	changed := func(o any) {
		if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = unknown.Obj
		}
		pod := o.(*corev1.Pod)
		l.queue.Add(pod.Name)
		if owner := metav1.GetControllerOf(pod); owner != nil {
			l.queue.Add(setKey(owner.UID))
		}
	}
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, DeleteFunc: changed,
		UpdateFunc: func(was, is any) {
			changed(was) // its owner may be another
			changed(is)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot follow pods: %w", err)
	}
	for range kubelets {
		go func() {
			for l.work(ctx) {
			}
		}()
	}
	go func() { <-ctx.Done(); l.queue.ShutDown() }()
	return l, nil
}

func setKey(uid types.UID) string { return "set/" + string(uid) }

func (l *light) work(ctx context.Context) bool {
	key, ended := l.queue.Get()
	if ended {
		return false
	}
	defer l.queue.Done(key)
	var err error
	if uid, is := strings.CutPrefix(key, "set/"); is {
		err = l.keep(ctx, types.UID(uid))
	} else {
		err = l.play(ctx, key)
	}
	switch {
	case err == nil, apierrors.IsNotFound(err):
		l.queue.Forget(key)
	case ctx.Err() == nil:
		if !apierrors.IsConflict(err) {
			fmt.Fprintln(os.Stderr, "played controllers:", err)
		}
		l.queue.AddRateLimited(key)
	}
	return true
}

// follow creates the ReplicaSet of a Deployment and then keeps its pods.
func (l *light) follow(ctx context.Context, d *appsv1.Deployment) error {
	hash := map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: fmt.Sprintf("%x", d.UID[:8])}
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-1", Labels: labels.Merge(d.Spec.Template.Labels, hash),
			Annotations:     map[string]string{"deployment.kubernetes.io/revision": "1"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: d.Spec.Replicas, Template: *d.Spec.Template.DeepCopy(),
			Selector: &metav1.LabelSelector{MatchLabels: labels.Merge(d.Spec.Selector.MatchLabels, hash)},
		},
	}
	set.Spec.Template.Labels = set.Labels
	set, err := l.client.AppsV1().ReplicaSets(namespace).Create(ctx, set, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot make the ReplicaSet of Deployment %s: %w", d.Name, err)
	}
	l.mu.Lock()
	l.sets[set.UID] = &replicaSet{deployment: d, set: set, selector: labels.SelectorFromSet(set.Spec.Selector.MatchLabels), missing: map[string]bool{}}
	l.mu.Unlock()
	l.queue.Add(setKey(set.UID))
	return nil
}

// keep creates a ReplicaSet's missing pods and writes its status. The queue ensures that only one goroutine works on a set.
func (l *light) keep(ctx context.Context, uid types.UID) error {
	l.mu.Lock()
	r := l.sets[uid]
	l.mu.Unlock()
	if r == nil {
		return nil
	}
	objects, err := l.pods.ByIndex(ownedBy, string(uid))
	if err != nil {
		return err
	}
	has, isReadyNow := int32(0), int32(0)
	for _, o := range objects {
		pod := o.(*corev1.Pod)
		delete(r.missing, pod.Name)
		if pod.DeletionTimestamp != nil || !r.selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if has++; isReady(pod) {
			isReadyNow++
		}
	}
	lacks := int(*r.set.Spec.Replicas-has) - len(r.missing)
	var made sync.WaitGroup
	errs := make(chan error, max(lacks, 0))
	slots := make(chan struct{}, kubelets)
	for range lacks {
		r.made++
		pod := l.podOf(r)
		r.missing[pod.Name] = true
		slots <- struct{}{}
		made.Go(func() {
			defer func() { <-slots }()
			if _, err := l.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
				errs <- fmt.Errorf("cannot make pod %s: %w", pod.Name, err)
			}
		})
	}
	made.Wait()
	close(errs)
	for err := range errs {
		return err
	}
	return l.tell(ctx, r, [2]int32{has, isReadyNow})
}

// podOf returns the next pod of a ReplicaSet, on the next node that is not cordoned.
func (l *light) podOf(r *replicaSet) *corev1.Pod {
	template := r.set.Spec.Template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name = fmt.Sprintf("%s-%d", r.set.Name, r.made)
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(r.set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	pod.Spec.NodeName = l.place()
	return pod
}

// place returns the next node that is not cordoned.
func (l *light) place() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range emptied + spare {
		l.next++
		name := fmt.Sprint("node-", 1+l.next%(emptied+spare))
		if node, there, _ := l.nodes.GetByKey(name); there && !node.(*corev1.Node).Spec.Unschedulable {
			return name
		}
	}
	return ""
}

// tell writes the status of a ReplicaSet and its Deployment, now and then.
func (l *light) tell(ctx context.Context, r *replicaSet, numbers [2]int32) error {
	if numbers == r.told {
		return nil
	}
	if wait := time.Until(r.last.Add(statusEvery)); wait > 0 {
		l.queue.AddAfter(setKey(r.set.UID), wait)
		return nil
	}
	of := fmt.Sprintf(`"observedGeneration":%%d,"replicas":%d,"readyReplicas":%d,"availableReplicas":%d`, numbers[0], numbers[1], numbers[1])
	set := fmt.Appendf(nil, `{"status":{`+of+`,"fullyLabeledReplicas":%d}}`, r.set.Generation, numbers[0])
	if _, err := l.client.AppsV1().ReplicaSets(namespace).Patch(ctx, r.set.Name, types.MergePatchType, set, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("cannot write the status of ReplicaSet %s: %w", r.set.Name, err)
	}
	deployment := fmt.Appendf(nil, `{"status":{`+of+`,"updatedReplicas":%d,"unavailableReplicas":%d}}`, r.deployment.Generation, numbers[0], *r.set.Spec.Replicas-numbers[1])
	if _, err := l.client.AppsV1().Deployments(namespace).Patch(ctx, r.deployment.Name, types.MergePatchType, deployment, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("cannot write the status of Deployment %s: %w", r.deployment.Name, err)
	}
	r.told, r.last = numbers, time.Now()
	return nil
}

// play does what the node's kubelet does with one pod.
func (l *light) play(ctx context.Context, name string) error {
	o, there, err := l.pods.GetByKey(namespace + "/" + name)
	if err != nil || !there {
		return err
	}
	pod := o.(*corev1.Pod)
	switch {
	case pod.DeletionTimestamp != nil && (pod.Labels[fleet.UnplayedLabel] != "" || !runs(pod)):
		atOnce := int64(0)
		return l.asNode[pod.Spec.NodeName].CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &atOnce, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodPending:
		return l.run(ctx, pod)
	}
	return nil
}

func runs(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil {
			return true
		}
	}
	return false
}

// run sets a pod's containers running, and ready unless the fleet runs their probes.
func (l *light) run(ctx context.Context, pod *corev1.Pod) error {
	now, started := metav1.Now(), true
	ready := pod.Annotations[fleet.ProbedAnnotation] != "true"
	is := corev1.ConditionFalse
	if ready {
		is = corev1.ConditionTrue
	}
	status := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now, PodIP: l.address(pod.Spec.NodeName)}
	status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	for kind, is := range map[corev1.PodConditionType]corev1.ConditionStatus{
		corev1.PodScheduled: corev1.ConditionTrue, corev1.PodInitialized: corev1.ConditionTrue, corev1.ContainersReady: is, corev1.PodReady: is,
	} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: is, LastTransitionTime: now})
	}
	of := func(c corev1.Container) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: c.Name, Image: c.Image, Ready: ready, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}
	}
	for _, c := range pod.Spec.InitContainers { // of these pods, all are native sidecars
		status.InitContainerStatuses = append(status.InitContainerStatuses, of(c))
	}
	for _, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, of(c))
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = l.asNode[pod.Spec.NodeName].CoreV1().Pods(namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// address returns the next address of a node's loopback slice. The last one is the node's own.
func (l *light) address(node string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	o, there, _ := l.nodes.GetByKey(node)
	if !there || len(o.(*corev1.Node).Status.Addresses) == 0 {
		return ""
	}
	slice, _, _ := strings.Cut(o.(*corev1.Node).Status.Addresses[0].Address, ".255.254")
	return fmt.Sprintf("%s.%d.%d", slice, l.next>>8%250, l.next%256)
}
