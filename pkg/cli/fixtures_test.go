// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
)

// The objects of these tests live in namespace voice, and the UID of each is its name.
const voice = "voice"

func noon() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }

// edit changes a pod of a test.
type edit func(*corev1.Pod)

// newPod is a guarded pod of Deployment web that runs on node-1.
func newPod(name string, edits ...edit) *corev1.Pod {
	grace, yes := int64(3600), true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: voice, Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(noon().Add(-time.Hour)),
			Labels:          map[string]string{call.GuardedLabel: "true", "app": "web", "pod-template-hash": "1"},
			Annotations:     map[string]string{},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: "web-1", Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: "node-1", TerminationGracePeriodSeconds: &grace},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
	for _, e := range edits {
		e(pod)
	}
	return pod
}

func draining(p *corev1.Pod) {
	yes := true
	p.Labels["pod-template-hash"] = "1-aside"
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "web", Controller: &yes}}
	p.Annotations[call.AsideAnnotation] = "drain 2026-01-01T11:57:00Z"
	p.Annotations[call.DrainingAnnotation] = "drain 2026-01-01T11:58:00Z"
}

func released(intent call.Intent) edit {
	return func(p *corev1.Pod) { p.Labels[call.ReleasedLabel] = string(intent) }
}

func annotated(key, value string) edit { return func(p *corev1.Pod) { p.Annotations[key] = value } }

func in(namespace string) edit { return func(p *corev1.Pod) { p.Namespace = namespace } }

func ownedBy(apiVersion, kind string) edit {
	return func(p *corev1.Pod) { p.OwnerReferences[0].APIVersion, p.OwnerReferences[0].Kind = apiVersion, kind }
}

func unguarded(p *corev1.Pod) { delete(p.Labels, call.GuardedLabel) }

func pending(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }

// creating has no container yet.
func creating(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }

// failedMount is a kubelet's Event of a volume.
func failedMount(pod, why string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "mount-" + pod}, Reason: "FailedMount", Message: `MountVolume.SetUp failed for volume "keys" : ` + why,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: voice, Name: pod, UID: types.UID(pod)},
	}
}

func grace(seconds int64) edit {
	return func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &seconds }
}

// gated adds a call-gate that has run for this long, with a readiness probe.
func gated(ready bool, runs time.Duration) edit {
	return func(p *corev1.Pod) {
		p.Annotations[call.GatePortAnnotation], p.Annotations[call.SecretAnnotation] = "8089", "livekit"
		p.Spec.InitContainers = []corev1.Container{{Name: "call-gate", ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz"}}}}}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "call-gate", Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(noon().Add(-runs))}}}}
	}
}

func newNamespace(name string, enabled bool) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	if enabled {
		ns.Labels[call.EnabledLabel] = "true"
	}
	return ns
}

// labelledNamespace has the label, with a value that enables nothing.
func labelledNamespace(name, value string) *corev1.Namespace {
	ns := newNamespace(name, false)
	ns.Labels[call.EnabledLabel] = value
	return ns
}

// newBudget is the budget that the guard makes.
func newBudget(namespace string) *policyv1.PodDisruptionBudget {
	most := intstr.FromInt32(math.MaxInt32)
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: guard.BudgetName},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &most, Selector: &metav1.LabelSelector{
			MatchLabels:      map[string]string{call.GuardedLabel: "true"},
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: call.ReleasedLabel, Operator: metav1.LabelSelectorOpDoesNotExist}},
		}},
	}
}

func otherBudget(name string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
}

func newNode(cordoned bool) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "node-1"}, Spec: corev1.NodeSpec{Unschedulable: cordoned}}
	if cordoned {
		node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &metav1.Time{Time: noon().Add(-5 * time.Minute)}}}
	}
	return node
}

func workload(replicas int32) []runtime.Object {
	yes := true
	return []runtime.Object{
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "web", UID: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas}},
		&appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "web-1", UID: "web-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "web", Controller: &yes}}},
			Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": "1"}}},
		},
	}
}

// scaledWorkload is a Deployment without pods, whose template is guarded or not.
func scaledWorkload(name string, guarded bool) *appsv1.Deployment {
	labels := map[string]string{}
	if guarded {
		labels[call.GuardedLabel] = "true"
	}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name},
		Spec:       appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{PriorityClassName: "callguard-calls"}}},
	}
}

// autoscaler is that of a Deployment of its name.
func autoscaler(name string, least int32) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &least, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}},
	}
}

// newGuardDeployment is the guard's own, with these flags.
func newGuardDeployment(args ...string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: manifests.DefaultNamespace, Name: call.GuardName},
		Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: call.GuardName, Image: "callguard:dev", Command: []string{"/drain-guard"}, Args: append([]string{"--log-level=info"}, args...)},
		}}}},
	}
}

// stage is a cluster with callguard, and the answers of its metrics API.
type stage struct {
	*cluster

	fake *fake.Clientset
	// calls of pods; for others they are unknown.
	calls map[string]int64
	// metrics is the error of the metrics API.
	metrics error
	// ends are the seconds until nodes are idle, by quantile; without them it is unknown.
	ends map[string]int64
	// gate is what gates answer through the API server; empty: not allowed.
	gate string
	// apiServices is the problem of the APIServices.
	apiServices error
	// owners are the Services of APIServices by version, instead of callguard's; empty: there is no such APIService.
	owners map[string]string
	// before is the APIServices' note of the adapter that had them; empty: none.
	before string
	// scaledObjects are KEDA's; they are asked for where KEDA is installed.
	scaledObjects []scaledObject
}

// newStage returns a stage without problems, at noon.
func newStage(t *testing.T, objects ...runtime.Object) *stage {
	t.Helper()
	doors, err := manifests.Parse(manifests.DefaultValues())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range doors.Policies {
		objects = append(objects, p)
	}
	for _, p := range doors.Bindings {
		objects = append(objects, p)
	}
	for _, p := range doors.MutatingPolicies {
		objects = append(objects, p)
	}
	for _, p := range doors.MutatingBindings {
		objects = append(objects, p)
	}
	s := newBareStage(t, objects...)
	renewed, holder := 0, "guard-1"
	s.fake.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		renewed++
		at := metav1.NewMicroTime(noon().Add(time.Duration(renewed) * time.Second))
		return true, &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &at}}, nil
	})
	s.fake.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("ValidatingAdmissionPolicy 'callguard-delete' denied request"))
	})
	return s
}

// newBareStage returns one on which callguard is not installed.
func newBareStage(t *testing.T, objects ...runtime.Object) *stage {
	t.Helper()
	s := &stage{fake: fake.NewClientset(objects...), calls: map[string]int64{}}
	discovery, _ := s.fake.Discovery().(*fakediscovery.FakeDiscovery)
	discovery.FakedServerVersion = &version.Info{GitVersion: "v1.37.1"}
	s.fake.Resources = []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1"}}},
		{GroupVersion: "admissionregistration.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "validatingadmissionpolicies"}, {Name: "mutatingadmissionpolicies"}}},
	}
	s.fake.PrependReactor("list", "pods", s.selectedPods)
	s.cluster = &cluster{client: s.fake, get: s.get, callguard: manifests.DefaultNamespace, now: noon}
	return s
}

// selectedPods lists only the pods that match the field selector, which client-go's fake ignores.
func (s *stage) selectedPods(a clienttesting.Action) (bool, runtime.Object, error) {
	asked, is := a.(clienttesting.ListActionImpl)
	if !is || asked.GetListRestrictions().Fields.Empty() {
		return false, nil, nil
	}
	listed, err := s.fake.Tracker().List(a.GetResource(), asked.Kind, a.GetNamespace())
	if err != nil {
		return true, nil, err
	}
	list, is := listed.(*corev1.PodList)
	if !is {
		return true, nil, fmt.Errorf("the list of pods is a %T", listed)
	}
	list.Items = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return !asked.GetListRestrictions().Fields.Matches(fields.Set{"spec.nodeName": p.Spec.NodeName, "status.phase": string(p.Status.Phase)})
	})
	return true, list, nil
}

// get answers for the metrics API and the APIServices.
func (s *stage) get(_ context.Context, asked string, into any) error {
	if strings.Contains(asked, "/apiservices/") {
		if s.apiServices != nil {
			return s.apiServices
		}
		owner := "metrics-adapter"
		if s.owners != nil {
			version, _, _ := strings.Cut(path.Base(asked), ".")
			if owner = s.owners[version]; owner == "" {
				return apierrors.NewNotFound(schema.GroupResource{Resource: "apiservices"}, path.Base(asked))
			}
		}
		var noted map[string]string
		if s.before != "" {
			noted = map[string]string{apiservice.BeforeAnnotation: s.before}
		}
		return assign(into, apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: path.Base(asked), Annotations: noted},
			Spec:       apiregistrationv1.APIServiceSpec{Service: &apiregistrationv1.ServiceReference{Namespace: "callguard-system", Name: owner}},
			Status:     apiregistrationv1.APIServiceStatus{Conditions: []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue}}},
		})
	}
	if asked == "/apis/keda.sh/v1alpha1/scaledobjects" {
		return assign(into, map[string]any{"items": s.scaledObjects})
	}
	if strings.HasSuffix(asked, "/proxy/calls") {
		if s.gate == "" {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "pods/proxy"}, "", errors.New("no right to get"))
		}
		return json.Unmarshal([]byte(s.gate), into)
	}
	if s.metrics != nil {
		return s.metrics
	}
	if strings.Contains(asked, "/seconds_until_idle?") {
		_, quantile, _ := strings.Cut(asked, "quantile%3D")
		n, known := s.ends[quantile]
		if !known {
			return apierrors.NewServiceUnavailable("seconds_until_idle is not known: nobody has seen enough calls end")
		}
		return assign(into, v1beta2.MetricValueList{Items: []v1beta2.MetricValue{{Value: *resource.NewQuantity(n, resource.DecimalSI)}}})
	}
	pod := path.Base(path.Dir(asked))
	var list v1beta2.MetricValueList
	for name, n := range s.calls {
		if pod == "*" || pod == name {
			list.Items = append(list.Items, v1beta2.MetricValue{
				DescribedObject: corev1.ObjectReference{Name: name}, Timestamp: metav1.NewTime(noon().Add(-time.Second)), Value: *resource.NewQuantity(n, resource.DecimalSI),
			})
		}
	}
	if pod != "*" && len(list.Items) == 0 {
		return apierrors.NewServiceUnavailable("active_calls is not known: 1 of 1 pods are unknown; pod " + pod + ": its agent does not answer")
	}
	return assign(into, list)
}

func assign(into, from any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// refuse forbids a verb on a resource.
func (s *stage) refuse(verb, resource string) {
	s.fake.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no right to "+verb))
	})
}

// newCommon is what a verb has, and what it prints.
func newCommon() (c *common, out, errOut *bytes.Buffer) {
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	return &common{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true), callguard: manifests.DefaultNamespace}, out, errOut
}
