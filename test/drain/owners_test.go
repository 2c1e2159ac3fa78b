// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// ownerKind is a kind of owner that is not part of Kubernetes: our own definition with the fields that matter here, and
// the right that the chart's drainGuard.owners gives the guard.
type ownerKind struct {
	resource schema.GroupVersionResource
	kind     string
	selector string // where its status has the selector for its scale subresource
}

// name is its name for kubectl and for the guard's --owners.
func (k ownerKind) name() string { return k.resource.GroupResource().String() }

// owned is a workload whose controller this test simulates.
type owned struct {
	*story
	ownerKind

	objects dynamic.ResourceInterface
	self    metav1.OwnerReference
	labels  map[string]string // labels that it selects pods by
}

// own installs a kind and creates an object of it, with these fields in its spec besides replicas, selector and template.
func (s *story) own(kind ownerKind, replicas int64, spec map[string]any) *owned {
	s.t.Helper()
	client, err := dynamic.NewForConfig(stage.Config)
	s.must(err)
	group := kind.resource.Group
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": kind.name()},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced", "names": map[string]any{"plural": kind.resource.Resource, "kind": kind.kind},
			"versions": []any{map[string]any{
				"name": kind.resource.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
				"subresources": map[string]any{
					"status": map[string]any{},
					"scale":  map[string]any{"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": kind.selector},
				},
			}},
		},
	}}
	_, err = client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(s.t.Context(), definition, metav1.CreateOptions{})
	s.must(err)
	meta := metav1.ObjectMeta{Name: "test:" + kind.name()}
	_, err = stage.Client.RbacV1().ClusterRoles().Create(s.t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{group}, Resources: []string{kind.resource.Resource}, Verbs: []string{"get", "list", "watch"}},
	}}, metav1.CreateOptions{})
	s.must(err)
	_, err = stage.Client.RbacV1().ClusterRoleBindings().Create(s.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: lab.GuardNamespace, Name: lab.GuardName}},
	}, metav1.CreateOptions{})
	s.must(err)

	o := &owned{story: s, ownerKind: kind, objects: client.Resource(kind.resource).Namespace(s.ns), labels: map[string]string{"app": lab.AgentName}}
	spec["replicas"] = replicas
	spec["selector"] = asFields(s.t, metav1.LabelSelector{MatchLabels: o.labels})
	spec["template"] = asFields(s.t, s.template())
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": kind.resource.GroupVersion().String(), "kind": kind.kind, "metadata": map[string]any{"name": lab.AgentName}, "spec": spec,
	}}
	s.eventually(soon, kind.name()+" are served", func() (bool, error) {
		made, err := o.objects.Create(s.t.Context(), object, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		object = made
		return true, nil
	})
	yes := true
	o.self = metav1.OwnerReference{
		APIVersion: object.GetAPIVersion(), Kind: kind.kind, Name: object.GetName(), UID: object.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes,
	}
	return o
}

// asFields converts a value to its form in an unstructured object.
func asFields(t *testing.T, value any) map[string]any {
	t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// play calls a controller again and again until the story ends. It retries refused requests, as controllers do; if the
// story fails, the last refusals are logged.
func (o *owned) play(reconcile func(context.Context, *unstructured.Unstructured) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(o.t.Context()))
	refused := map[string]int{}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			object, err := o.objects.Get(ctx, o.self.Name, metav1.GetOptions{})
			if err == nil && object.GetDeletionTimestamp() == nil {
				err = reconcile(ctx, object)
			}
			if err != nil {
				refused[err.Error()]++
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	o.t.Cleanup(func() {
		cancel()
		done.Wait()
		for text, n := range refused {
			if o.t.Failed() {
				o.t.Logf("the controller of %s was refused %d times: %s", o.name(), n, text)
			}
		}
	})
}

// set changes fields of its spec.
func (o *owned) set(spec map[string]any) {
	o.t.Helper()
	body, err := json.Marshal(map[string]any{"spec": spec})
	o.must(err)
	_, err = o.objects.Patch(o.t.Context(), o.self.Name, types.MergePatchType, body, metav1.PatchOptions{})
	o.must(err)
}

// rollOutTo gives its pods another image.
func (o *owned) rollOutTo(image string) {
	o.t.Helper()
	pod := o.template()
	pod.Spec.Containers[0].Image = image
	o.set(map[string]any{"template": asFields(o.t, pod)})
}

// scale sets its replicas, by its scale subresource.
func (o *owned) scale(replicas int) {
	o.t.Helper()
	o.does("scale", o.name()+"/"+o.self.Name, fmt.Sprint("--replicas=", replicas))
}

// say writes its status.
func (o *owned) say(ctx context.Context, object *unstructured.Unstructured, status map[string]any) error {
	object.Object["status"] = status
	_, err := o.objects.UpdateStatus(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // the next pass writes it
	}
	return err
}

// wants returns its replicas, its pods' template and the template's hash.
func (o *owned) wants(object *unstructured.Unstructured) (replicas int, pod corev1.PodTemplateSpec, hash string, err error) {
	n, _, err := unstructured.NestedInt64(object.Object, "spec", "replicas")
	if err != nil {
		return 0, pod, "", err
	}
	fields, _, err := unstructured.NestedMap(object.Object, "spec", "template")
	if err != nil {
		return 0, pod, "", err
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return 0, pod, "", err
	}
	sum := fnv.New32a()
	_, _ = sum.Write(body)
	return int(n), pod, fmt.Sprintf("%08x", sum.Sum32()), json.Unmarshal(body, &pod)
}

// number returns a number in its spec.
func number(object *unstructured.Unstructured, fields ...string) int {
	n, _, _ := unstructured.NestedInt64(object.Object, fields...)
	return int(n)
}

// drainOf drains a node during its calls, and ends them.
func (o *owned) drainOf(node string) {
	o.t.Helper()
	busy := o.pods(on(node))
	if len(busy) == 0 {
		o.t.Fatalf("%s has no pod: %s", node, o.watch.describe())
	}
	drain := o.drain(node)
	o.eventually(inTime, "a pod of the node takes no new call", func() (bool, error) {
		return o.so(len(o.pods(func(p *corev1.Pod) bool { return p.Spec.NodeName == node && leaving(p) })) > 0)
	})
	o.waits(drain)
	o.hangUpOn(busy...)
	o.ends(drain, inTime)
}

// refill dials a call for each agent that has none.
func (o *owned) refill() {
	o.t.Helper()
	idle := 0
	for _, a := range o.agents() {
		if a.Registered && !a.Closed && !a.Draining && a.ActiveJobs == 0 {
			idle++
		}
	}
	o.first(idle)
}

// replicaSets returns those that it controls.
func (o *owned) replicaSets(ctx context.Context) (mine []appsv1.ReplicaSet, err error) {
	list, err := stage.Client.AppsV1().ReplicaSets(o.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, r := range list.Items {
		if ref := metav1.GetControllerOf(&r); ref != nil && ref.UID == o.self.UID {
			mine = append(mine, r)
		}
	}
	return mine, nil
}

// TestJobIsLeftToDrains has a Job of an agent with a call: nothing about it is followed, an Event on its owner says so,
// and its pod leaves when its node is drained, after its call.
func TestJobIsLeftToDrains(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	pod := s.template()
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever

	job := map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"name": lab.AgentName}, "spec": map[string]any{"template": asFields(t, pod)}}
	client, err := dynamic.NewForConfig(stage.Config)
	s.must(err)
	_, err = client.Resource(schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}).Namespace(s.ns).
		Create(t.Context(), &unstructured.Unstructured{Object: job}, metav1.CreateOptions{})
	s.must(err)
	s.steady(1)
	s.fill()
	s.told(s.ns, "Job", lab.AgentName, "OwnerNotFollowed", call.LeaveAnnotation)
	was := s.pods(all)
	s.does("annotate", "pod", was[0], call.LeaveAnnotation+"=")
	s.eventually(inTime, "its pod takes no new call", func() (bool, error) { return s.so(len(s.pods(leaving)) == 1) })
	if !s.talking() {
		t.Errorf("calls ended: %+v", s.callers.Report())
	}
	s.hangUpAll()
	s.gone(inTime, was...)
	s.noneDropped()
}
