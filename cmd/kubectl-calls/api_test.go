// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/trial"
)

// api is an HTTP API server of a cluster with callguard: node-1 has guarded pods of Deployment web in namespace voice, which
// are draining. It evicts those that hold no call.
type api struct {
	mu      sync.Mutex
	objects map[string][]metav1.Object // by resource
	calls   map[string]int64           // by pod
}

// newAPI returns an API server whose pods have the given calls, and a kubeconfig for it.
func newAPI(t *testing.T, calls map[string]int64) (a *api, kubeconfig string) {
	t.Helper()
	yes, replicas, most := true, int32(len(calls)), intstr.FromInt32(1<<31-1)
	meta := func(name string, uid string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "voice", Name: name, UID: types.UID(uid)}
	}
	web := meta("web-1", "web-1")
	web.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "web", Controller: &yes}}
	a = &api{calls: calls, objects: map[string][]metav1.Object{
		"nodes":       {&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "node-1"}}},
		"namespaces":  {&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "voice", Labels: map[string]string{call.EnabledLabel: "true"}}}},
		"deployments": {&appsv1.Deployment{ObjectMeta: meta("web", "web"), Spec: appsv1.DeploymentSpec{Replicas: &replicas}}},
		"replicasets": {&appsv1.ReplicaSet{ObjectMeta: web, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": "1"}}}}},
		"poddisruptionbudgets": {&policyv1.PodDisruptionBudget{ObjectMeta: meta(guard.BudgetName, "pdb"), Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &most, Selector: &metav1.LabelSelector{
			MatchLabels:      map[string]string{call.GuardedLabel: "true"},
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: call.ReleasedLabel, Operator: metav1.LabelSelectorOpDoesNotExist}},
		}}}},
	}}
	for name := range calls {
		pod := &corev1.Pod{ObjectMeta: meta(name, name), Spec: corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		}}
		pod.Labels = map[string]string{call.GuardedLabel: "true", "pod-template-hash": "1-aside"}
		since := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
		pod.Annotations = map[string]string{call.AsideAnnotation: "drain " + since, call.DrainingAnnotation: "drain " + since}
		pod.OwnerReferences = web.OwnerReferences
		a.objects["pods"] = append(a.objects["pods"], pod)
	}
	doors, err := manifests.Parse(manifests.DefaultValues())
	trial.Must(t, err)
	for _, o := range doors.Policies {
		a.objects["validatingadmissionpolicies"] = append(a.objects["validatingadmissionpolicies"], o)
	}
	for _, o := range doors.Bindings {
		a.objects["validatingadmissionpolicybindings"] = append(a.objects["validatingadmissionpolicybindings"], o)
	}
	for _, o := range doors.MutatingPolicies {
		a.objects["mutatingadmissionpolicies"] = append(a.objects["mutatingadmissionpolicies"], o)
	}
	for _, o := range doors.MutatingBindings {
		a.objects["mutatingadmissionpolicybindings"] = append(a.objects["mutatingadmissionpolicybindings"], o)
	}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	trial.Must(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, "{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: a, cluster: {server: %q}}], contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a, user: {}}]}", server.URL), 0o600))
	return a, kubeconfig
}

// hangUp ends the calls of a pod.
func (a *api) hangUp(pod string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[pod] = 0
}

// ServeHTTP answers what the plugin requests.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := a.answer(r)
	if status, is := answer.(*apierrors.StatusError); is {
		w.WriteHeader(int(status.ErrStatus.Code))
		status.ErrStatus.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		answer = status.ErrStatus
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (a *api) answer(r *http.Request) any {
	switch r.URL.Path {
	case "/version":
		return map[string]string{"gitVersion": "v1.37.2", "major": "1", "minor": "37"}
	case "/api":
		return metav1.APIVersions{Versions: []string{"v1"}}
	case "/apis":
		v := metav1.GroupVersionForDiscovery{GroupVersion: "policy/v1", Version: "v1"}
		return metav1.APIGroupList{Groups: []metav1.APIGroup{{Name: "policy", Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}}}
	case "/apis/admissionregistration.k8s.io/v1":
		return metav1.APIResourceList{GroupVersion: "admissionregistration.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "validatingadmissionpolicies"}, {Name: "mutatingadmissionpolicies"}}}
	case "/api/v1":
		return metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1"}}}
	}
	if strings.HasPrefix(r.URL.Path, "/apis/custom.metrics.k8s.io/") {
		return a.metric(r.URL.Path)
	}
	words := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	words = words[2:] // api and its version
	if strings.HasPrefix(r.URL.Path, "/apis/") {
		words = words[1:]
	}
	if len(words) > 2 && words[0] == "namespaces" {
		words = words[2:]
	}
	switch len(words) {
	case 0: // the resources of a group
		return apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path)
	case 1:
		return a.list(words[0], r.URL.Query().Get("fieldSelector"))
	}
	return a.one(r.Method, words[0], words[1], words[2:])
}

// metric returns the calls of all pods. When they end is not known.
func (a *api) metric(path string) any {
	if !strings.HasSuffix(path, "/active_calls") {
		return apierrors.NewServiceUnavailable("seconds_until_idle is not known: nobody has seen enough calls end")
	}
	list := v1beta2.MetricValueList{Items: []v1beta2.MetricValue{}}
	for name, n := range a.calls {
		list.Items = append(list.Items, v1beta2.MetricValue{DescribedObject: corev1.ObjectReference{Name: name}, Timestamp: metav1.Now(), Value: *resource.NewQuantity(n, resource.DecimalSI)})
	}
	return list
}

func (a *api) list(of, selector string) any {
	matches, err := fields.ParseSelector(selector)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	items := []metav1.Object{}
	for _, o := range a.objects[of] {
		if pod, is := o.(*corev1.Pod); is && !matches.Matches(fields.Set{"spec.nodeName": pod.Spec.NodeName, "status.phase": string(pod.Status.Phase)}) {
			continue
		}
		items = append(items, o)
	}
	return map[string]any{"metadata": metav1.ListMeta{}, "items": items}
}

func (a *api) one(method, of, name string, sub []string) any {
	if of == "leases" {
		holder, now := "guard-1", metav1.NowMicro()
		return coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &now}}
	}
	i := slices.IndexFunc(a.objects[of], func(o metav1.Object) bool { return o.GetName() == name })
	kind := schema.GroupResource{Resource: of}
	switch {
	case i < 0:
		return apierrors.NewNotFound(kind, name)
	case slices.Contains(sub, "eviction") && a.calls[name] > 0:
		return apierrors.NewTooManyRequests("disruption budget callguard", 0)
	case slices.Contains(sub, "eviction"):
		a.objects[of] = slices.Delete(a.objects[of], i, i+1)
		delete(a.calls, name)
		return metav1.Status{Status: metav1.StatusSuccess}
	case method == http.MethodDelete:
		return apierrors.NewForbidden(kind, name, fmt.Errorf("ValidatingAdmissionPolicy 'callguard-delete' denied request"))
	case method == http.MethodPatch:
		if node, is := a.objects[of][i].(*corev1.Node); is {
			node.Spec.Unschedulable = true // the plugin patches nothing else
		}
	}
	return a.objects[of][i]
}
