// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

const (
	// namedLabel is on pods that an owner of OpenKruise wants to be deleted: its user has said so, or a
	// rollout has come to them (PatchPodSpecifiedDelete in its pkg/util/specifieddelete).
	namedLabel = "apps.kruise.io/specified-delete"
	// mostNamed bounds the pods that an owner can name.
	mostNamed = 1000
	// lookForKinds is how often kinds are looked for that the cluster does not have yet.
	lookForKinds = 10 * time.Second
	// soonFollowed is for how long after the start nobody is told that a kind is not followed.
	soonFollowed = time.Minute
)

// others are the kinds of owners that an administrator has the guard follow beside those of apps/v1: whatever has
// a scale subresource, and so says in spec.replicas how many pods it wants. It owns ReplicaSets, as an Argo Rollout
// does, or the pods themselves, as a CloneSet of OpenKruise does, and then says in status.updateRevision of which
// revision they should be, and takes those with the lowest deletion cost first. A kind that the cluster does not
// have yet is followed when it is there. A nil others follows none.
type others struct {
	client  dynamic.Interface
	server  kubernetes.Interface
	wanted  []schema.GroupResource
	changed func(before, after metav1.Object)
	log     *slog.Logger
	expects time.Time

	mu    sync.RWMutex
	kinds map[schema.GroupKind]*otherKind
}

// otherKind is one that the cluster has.
type otherKind struct {
	resource schema.GroupVersionResource
	informer cache.SharedIndexInformer
}

func newOthers(client dynamic.Interface, server kubernetes.Interface, names []string, log *slog.Logger) *others {
	o := &others{client: client, server: server, log: log, expects: time.Now().Add(soonFollowed), kinds: map[schema.GroupKind]*otherKind{}}
	for _, name := range names {
		if wanted, ok := ParseOwner(name); ok {
			o.wanted = append(o.wanted, wanted)
		}
	}
	return o
}

// ParseOwner reads a resource and its group as --owners has them.
func ParseOwner(name string) (of schema.GroupResource, ok bool) {
	of = schema.ParseGroupResource(name)
	return of, of.Resource != "" && strings.Contains(of.Group, ".") && name == strings.ToLower(name) && !strings.ContainsAny(name, " /")
}

// run follows what the cluster has, or gets, until ctx is done.
func (o *others) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, wanted := range o.wanted {
		all.Go(func() { o.follow(ctx, wanted) })
	}
	<-ctx.Done()
	all.Wait()
}

func (o *others) follow(ctx context.Context, wanted schema.GroupResource) {
	var kind *otherKind
	said := ""
	_ = wait.PollUntilContextCancel(ctx, lookForKinds, true, func(context.Context) (found bool, _ error) { // ends with ctx
		var err error
		if kind, err = o.find(wanted); err != nil && err.Error() != said {
			said = err.Error()
			o.log.Warn("Cannot follow owners of pods; retrying", "resource", wanted.String(), "err", err)
		}
		return err == nil, nil
	})
	if kind == nil {
		return
	}
	o.log.Info("Following owners of pods", "resource", kind.resource.String())
	kind.informer.RunWithContext(ctx)
}

// find asks the API server for a kind, and enters it.
func (o *others) find(wanted schema.GroupResource) (*otherKind, error) {
	groups, err := o.server.Discovery().ServerGroups()
	if err != nil {
		return nil, fmt.Errorf("cannot list the API groups: %w", err)
	}
	i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == wanted.Group })
	if i < 0 {
		return nil, fmt.Errorf("the cluster has no %s", wanted)
	}
	group := groups.Groups[i]
	versions := append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...)
	for _, version := range versions {
		list, err := o.server.Discovery().ServerResourcesForGroupVersion(version.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("cannot list the resources of %s: %w", version.GroupVersion, err)
		}
		kind, scales := "", false
		for _, r := range list.APIResources {
			switch r.Name {
			case wanted.Resource:
				kind = r.Kind
			case wanted.Resource + "/scale":
				scales = true
			}
		}
		if kind != "" && scales {
			return o.enter(schema.GroupKind{Group: wanted.Group, Kind: kind}, wanted.WithVersion(version.Version))
		}
	}
	return nil, fmt.Errorf("the cluster has no %s with a scale subresource", wanted)
}

func (o *others) enter(kind schema.GroupKind, resource schema.GroupVersionResource) (*otherKind, error) {
	informer := dynamicinformer.NewFilteredDynamicInformer(o.client, resource, metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { o.changed(nil, meta(obj)) },
		UpdateFunc: func(was, is any) { o.changed(meta(was), meta(is)) },
		DeleteFunc: func(obj any) { o.changed(meta(obj), nil) },
	})
	if err := errors.Join(err, informer.SetTransform(trimOther)); err != nil {
		return nil, fmt.Errorf("cannot watch %s: %w", resource, err)
	}
	k := &otherKind{resource: resource, informer: informer}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kinds[kind] = k
	return k, nil
}

// of is the kind of an owner; nil where it is not followed.
func (o *others) of(ref metav1.OwnerReference) *otherKind {
	if o == nil || ref.APIVersion == appsGroup {
		return nil
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.kinds[schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()]
}

// has reports whether owners of this kind can be asked for.
func (o *others) has(ref metav1.OwnerReference) bool { return o.of(ref) != nil }

// complete reports whether all owners of this kind are known: one that is not may be gone.
func (o *others) complete(ref metav1.OwnerReference) bool {
	kind := o.of(ref)
	return kind != nil && kind.informer.HasSynced()
}

// follows reports whether owners of this kind are known, or will be soon.
func (o *others) follows(ref metav1.OwnerReference) bool {
	group := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).Group
	return o.complete(ref) || o != nil && time.Now().Before(o.expects) &&
		slices.ContainsFunc(o.wanted, func(wanted schema.GroupResource) bool { return wanted.Group == group })
}

// asServed is a reference with the version in which owners of its kind are read: pods may carry several.
func (o *others) asServed(ref metav1.OwnerReference) metav1.OwnerReference {
	if kind := o.of(ref); kind != nil {
		ref.APIVersion = kind.resource.GroupVersion().String()
	}
	return ref
}

// cached is the owner of a workload as far as it is known; nil where it is not.
func (o *others) cached(key Key) *owner {
	kind := o.of(metav1.OwnerReference{APIVersion: key.APIVersion, Kind: key.Kind})
	if kind == nil {
		return nil
	}
	obj, there, err := kind.informer.GetStore().GetByKey(key.NamespacedName.String())
	is, ok := obj.(*unstructured.Unstructured)
	if err != nil || !there || !ok || is.GetUID() != key.UID {
		return nil
	}
	return ofOther(is)
}

// ask reads one owner.
func (o *others) ask(ctx context.Context, namespace string, ref metav1.OwnerReference) (*owner, error) {
	kind := o.of(ref)
	is, err := o.client.Resource(kind.resource).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return nil, errors.New("the API server no longer serves its kind, so it is unknown whether it is gone: " + err.Error()) // which is no "not found"
	case err != nil:
		return nil, err
	}
	return ofOther(is), nil
}

// NotFollowed is the kind of a pod's controller if neither Kubernetes has it nor --owners names one of its group, or if it
// numbers its pods; empty if not.
func NotFollowed(pod *corev1.Pod, owners []string) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || inApps(*ref) {
		return ""
	}
	group := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).Group
	named := slices.ContainsFunc(owners, func(name string) bool {
		of, ok := ParseOwner(name)
		return ok && of.Group == group
	})
	if named && !numbered(pod) {
		return ""
	}
	return ref.Kind
}

// strategies are where owners say how they roll out.
func strategies() [][]string {
	return [][]string{{"spec", "updateStrategy", "rollingUpdate"}, {"spec", "updateStrategy"}, {"spec", "strategy", "rollingUpdate"}, {"spec", "strategy", "canary"}}
}

// read are the fields of an owner that ofOther reads, but for its selector: of the one that is cached nobody needs it.
func read() [][]string {
	fields := [][]string{
		{"spec", "replicas"}, {"spec", "template", "metadata", "labels", call.GuardedLabel}, {"spec", "updateStrategy", "type"},
		{"status", "readyReplicas"}, {"status", "updateRevision"}, {"status", "observedGeneration"},
	}
	for _, at := range strategies() {
		for _, name := range []string{"maxSurge", "maxUnavailable", "partition", "paused"} {
			fields = append(fields, append(slices.Clone(at), name))
		}
	}
	return fields
}

// trimOther keeps of an owner what is read. Anybody who may write in a namespace can make one as large as the API
// server takes it.
func trimOther(obj any) (any, error) {
	is, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	small := &unstructured.Unstructured{Object: map[string]any{}}
	small.SetAPIVersion(is.GetAPIVersion())
	small.SetKind(is.GetKind())
	small.SetNamespace(is.GetNamespace())
	small.SetName(is.GetName())
	small.SetUID(is.GetUID())
	small.SetResourceVersion(is.GetResourceVersion())
	small.SetGeneration(is.GetGeneration())
	small.SetDeletionTimestamp(is.GetDeletionTimestamp())
	small.SetFinalizers(is.GetFinalizers())
	small.SetOwnerReferences(is.GetOwnerReferences())
	small.SetAnnotations(pods.Only(is.GetAnnotations(), call.MinAvailableAnnotation))
	keep := func(value any, field []string) error {
		return unstructured.SetNestedField(small.Object, value, field...)
	}
	if templated(is) {
		if err := keep(map[string]any{}, template()); err != nil {
			return nil, err
		}
	}
	for _, field := range read() {
		value, found, err := unstructured.NestedFieldNoCopy(is.Object, field...)
		if !found || err != nil {
			continue // it is not of a form that anybody reads
		}
		if err := keep(value, field); err != nil {
			return nil, fmt.Errorf("cannot keep %s of %s: %w", strings.Join(field, "."), is.GetName(), err)
		}
	}
	return small, unstructured.SetNestedStringSlice(small.Object, namedBy(is), named()...)
}

func template() []string { return []string{"spec", "template"} }

// templated reports whether an owner has a pod template of its own: an Argo Rollout may have that of a Deployment.
func templated(is *unstructured.Unstructured) bool {
	_, found, err := unstructured.NestedMap(is.Object, template()...)
	return found && err == nil
}

func named() []string { return []string{"spec", "scaleStrategy", "podsToDelete"} }

// namedBy are the pods that an owner wants to be deleted.
func namedBy(is *unstructured.Unstructured) []string {
	list, _, _ := unstructured.NestedStringSlice(is.Object, named()...) // what is no list names none
	return list[:min(len(list), mostNamed)]
}

// sameOther reports whether nothing has changed of an owner that is read.
func sameOther(before metav1.Object, after *unstructured.Unstructured) bool {
	was, ok := before.(*unstructured.Unstructured)
	return ok && was.GetAnnotations()[call.MinAvailableAnnotation] == after.GetAnnotations()[call.MinAvailableAnnotation] &&
		reflect.DeepEqual(was.Object["spec"], after.Object["spec"]) && reflect.DeepEqual(was.Object["status"], after.Object["status"])
}

// ofOther is what counts of an owner of another kind.
func ofOther(is *unstructured.Unstructured) *owner {
	replicas, said, err := unstructured.NestedInt64(is.Object, "spec", "replicas")
	ready, _, _ := unstructured.NestedInt64(is.Object, "status", "readyReplicas") // none where it is no number
	guarded, _, _ := unstructured.NestedString(is.Object, append(template(), "metadata", "labels", call.GuardedLabel)...)
	o := newOwner(is, is.GetKind(), new(int32(replicas)), selectorOf(is), corev1.PodTemplateSpec{}, int32(ready))
	o.ref.APIVersion = is.GetAPIVersion()
	o.other, o.unsaid = true, !said || err != nil
	o.guarded = guarded == "true" || !templated(is)
	o.named = namedBy(is)
	o.surge = max(1, scaled(strategyOf(is, "maxSurge"), o.replicas, true))
	surges := scaled(strategyOf(is, "maxSurge"), o.replicas, true) > 0
	o.maxUnavailable = scaled(strategyOf(is, "maxUnavailable"), o.replicas, !surges)
	o.partition = scaled(strategyOf(is, "partition"), o.replicas, true)
	kind, _, _ := unstructured.NestedString(is.Object, "spec", "updateStrategy", "type")
	o.rolls = kind != string(appsv1.OnDeleteStatefulSetStrategyType) && !paused(is)
	if observed, counts, err := unstructured.NestedInt64(is.Object, "status", "observedGeneration"); !counts || err != nil || observed >= is.GetGeneration() {
		o.revision, _, _ = unstructured.NestedString(is.Object, "status", "updateRevision")
	}
	return o
}

func selectorOf(is *unstructured.Unstructured) *metav1.LabelSelector {
	fields, found, err := unstructured.NestedMap(is.Object, "spec", "selector")
	if !found || err != nil {
		return nil
	}
	selector := &metav1.LabelSelector{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, selector); err != nil {
		return nil // its pods are asked for by name
	}
	return selector
}

// strategyOf is a number, or a part, of an owner's strategy; nil where it has none.
func strategyOf(is *unstructured.Unstructured, name string) *intstr.IntOrString {
	for _, at := range strategies() {
		switch n, _, _ := unstructured.NestedFieldNoCopy(is.Object, append(at, name)...); n := n.(type) {
		case int64:
			return new(intstr.FromInt32(int32(n)))
		case string:
			return new(intstr.FromString(n))
		}
	}
	return nil
}

func paused(is *unstructured.Unstructured) bool {
	return slices.ContainsFunc(strategies(), func(at []string) bool {
		yes, _, _ := unstructured.NestedBool(is.Object, append(at, "paused")...)
		return yes
	})
}

// numbered reports whether it is for its owner to say by the pod's number, and for nobody else, which of its pods go.
func numbered(pod *corev1.Pod) bool { return pod.Labels[appsv1.StatefulSetPodNameLabel] != "" }

// names reports whether the owner has said that it wants the pod to be deleted.
func (o *owner) names(m *member) bool {
	return m.Labels[namedLabel] != "" || slices.Contains(o.named, m.Name)
}

// outdated reports whether a pod is of another revision than its owner wants. OpenKruise writes a revision with the
// owner's name before it, or without.
func (o *owner) outdated(m *member) bool {
	hash := func(revision string) string { return revision[strings.LastIndexByte(revision, '-')+1:] }
	is := m.Labels[appsv1.ControllerRevisionHashLabelKey]
	return o.revision != "" && is != "" && hash(is) != hash(o.revision)
}

// otherExcess is what an owner has too much of that makes its pods itself: those that it has named; those of old
// revisions, as many at once as it does without; and those beyond its replicas. While it rolls out, what it has
// beyond them is its surge, for which old pods go.
func otherExcess(w *workload, o *owner) []excess {
	if o.unsaid {
		return nil
	}
	var named, old, others []*member
	active, going, outdated, unready := 0, 0, 0, 0
	for _, m := range w.members {
		if !m.owned(o) || m.aside || numbered(m.object) {
			continue
		}
		active++
		serves := m.State == call.Serving
		switch {
		case !serves && !m.unlocked():
			going++
		case serves && o.names(m):
			named = append(named, m)
		case o.outdated(m):
			outdated++
			if serves {
				old = append(old, m)
			}
		case serves:
			others = append(others, m)
			if !m.ready {
				unready++
			}
		}
	}
	surplus := active - going - o.replicas
	list := []excess{{owner: o, intent: call.ScaleDown, n: len(named), candidates: named, why: "wants it to be deleted"}}
	if surplus < len(named) {
		list[0].intent = call.Rollout // others take their place
	}
	surplus -= len(named)
	behind := 0
	if o.rolls {
		behind = max(0, outdated-o.partition)
	}
	window := max(1, o.maxUnavailable) + max(0, active-o.replicas) - going - len(named) - unready
	list = append(list, excess{owner: o, intent: call.Rollout, n: min(behind, window, len(old)), candidates: old, why: "replaces its revision"})
	if behind == 0 {
		others = append(others, old...)
	}
	return append(list, excess{owner: o, intent: call.ScaleDown, n: min(surplus-behind, len(others)), candidates: others})
}
