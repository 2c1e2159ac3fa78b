// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/callguard/callguard/pkg/call"
)

// update sends a changed pod to one of the resources by which a pod can be changed.
type update func(context.Context, typedcorev1.PodInterface, *corev1.Pod) error

func spec(ctx context.Context, pods typedcorev1.PodInterface, pod *corev1.Pod) error {
	_, err := pods.Update(ctx, pod, metav1.UpdateOptions{DryRun: dry()})
	return err
}

func status(ctx context.Context, pods typedcorev1.PodInterface, pod *corev1.Pod) error {
	_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{DryRun: dry()})
	return err
}

func resize(ctx context.Context, pods typedcorev1.PodInterface, pod *corev1.Pod) error {
	_, err := pods.UpdateResize(ctx, pod.Name, pod, metav1.UpdateOptions{DryRun: dry()})
	return err
}

func ephemeral(ctx context.Context, pods typedcorev1.PodInterface, pod *corev1.Pod) error {
	_, err := pods.UpdateEphemeralContainers(ctx, pod.Name, pod, metav1.UpdateOptions{DryRun: dry()})
	return err
}

func label(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[key] = value }
}

func unlabel(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { delete(p.Labels, key) }
}

func annotate(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[key] = value
	}
}

func unannotate(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { delete(p.Annotations, key) }
}

func TestTamper(t *testing.T) {
	ns := enabled(t, "tamper")
	// The test acts as the kubelet of node-1, so the pods run there.
	born := map[string]string{}
	for _, a := range call.Annotations() {
		if a.Writer == call.AtBirth && !a.Label {
			born[a.Key] = "so"
		}
	}
	for name, annotations := range map[string]map[string]string{"serving": nil, "annotated": born, "aside": nil, "draining": nil, "released": nil} {
		pod := agentPod(name)
		pod.Annotations = annotations
		pod.Spec.NodeName = "node-1"
		small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		always := corev1.ContainerRestartPolicyAlways
		pod.Spec.Containers[0].Resources.Requests = small
		pod.Spec.InitContainers = []corev1.Container{
			{Name: "gate", Image: "gate:1", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: small.DeepCopy()}},
			{Name: "picky", Image: "picky:1", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: small.DeepCopy()},
				ResizePolicy: []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}},
		}
		create(t, ns, pod)
		kubeletReports(t, ns, name, resizable)
	}
	guardPatches(t, ns, "aside", `{"metadata":{"annotations":{"callguard.dev/hash":"x","callguard.dev/aside":"drain 2026-01-01T00:00:00Z"}}}`)
	guardPatches(t, ns, "draining", `{"metadata":{"annotations":{"callguard.dev/draining":"drain 2026-01-01T00:00:00Z"}}}`)
	guardPatches(t, ns, "released", `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`)
	plain := agentPod("plain")
	delete(plain.Labels, call.GuardedLabel)
	plain.Spec.NodeName, plain.Spec.PriorityClassName = "node-1", ""
	create(t, ns, plain)

	nobody := []identity{}
	onlyGuard := []identity{guard()}
	kubelets := []identity{kubelet()}
	const (
		guarded  = "callguard-tamper-pods: label callguard.dev/guarded of pod %s is fixed when the pod is created."
		released = "callguard-tamper-pods: label callguard.dev/released of pod %s is set by callguard, once, when its calls are over."
		draining = "callguard-tamper-pods: annotation callguard.dev/draining of pod %s is set by callguard, once, when it has to leave."
		aside    = "callguard-tamper-pods: annotations callguard.dev/aside, callguard.dev/hash and callguard.dev/autoscalers-before of pod %s are written by callguard only."
		statuses = "callguard-tamper-pods: the container statuses and the address of pod %s are written by its kubelet only."
		phase    = "callguard-tamper-pods: the phase of pod %s is written by its kubelet only."
		image    = "callguard-tamper-pods: a new image would restart a container of pod %s, which may hold calls."
		deadline = "callguard-tamper-pods: activeDeadlineSeconds would end pod %s, which may hold calls."
		resizes  = "callguard-tamper-pods: a resize would restart a container of pod %s, which may hold calls"
	)
	type attempt struct {
		reason string
		pod    string
		change func(*corev1.Pod)
		by     []update // pods/status changes labels and annotations, too
		may    []identity
		// want is the refusal for all others. Empty: nobody is refused.
		want string
	}
	cases := map[string]attempt{
		"Guarded off":          {"A pod is guarded for life.", "serving", unlabel(call.GuardedLabel), []update{spec, status}, nobody, guarded},
		"Guarded to false":     {"Any other value is off.", "serving", label(call.GuardedLabel, "false"), []update{spec, status}, nobody, guarded},
		"Guarded on":           {"A pod that was not born guarded is not.", "plain", label(call.GuardedLabel, "true"), []update{spec, status}, nobody, guarded},
		"Address":              {"Another pod would answer for its calls.", "serving", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "10.9.9.9", []corev1.PodIP{{IP: "10.9.9.9"}} }, []update{status}, kubelets, statuses},
		"Released":             {"The guard alone releases.", "serving", label(call.ReleasedLabel, "drain"), []update{spec, status}, onlyGuard, released},
		"Released empty":       {"An empty label is one.", "serving", label(call.ReleasedLabel, ""), []update{spec, status}, onlyGuard, released},
		"Released changed":     {"Once.", "released", label(call.ReleasedLabel, "unlock"), []update{spec, status}, nobody, released},
		"Released removed":     {"For good.", "released", unlabel(call.ReleasedLabel), []update{spec, status}, nobody, released},
		"Draining":             {"The guard alone says so.", "serving", annotate(call.DrainingAnnotation, "x"), []update{spec, status}, onlyGuard, draining},
		"Draining changed":     {"Once.", "draining", annotate(call.DrainingAnnotation, "x"), []update{spec, status}, nobody, draining},
		"Draining removed":     {"For good.", "draining", unannotate(call.DrainingAnnotation), []update{spec, status}, nobody, draining},
		"Aside":                {"The guard alone sets aside.", "serving", annotate(call.AsideAnnotation, "x"), []update{spec, status}, onlyGuard, aside},
		"Aside removed":        {"The guard hands pods back when it unlocks.", "aside", unannotate(call.AsideAnnotation), []update{spec, status}, onlyGuard, aside},
		"Hash":                 {"The guard alone keeps it.", "serving", annotate(call.HashAnnotation, "x"), []update{spec, status}, onlyGuard, aside},
		"Hash changed":         {"The guard alone keeps it.", "aside", annotate(call.HashAnnotation, "y"), []update{spec, status}, onlyGuard, aside},
		"Told before":          {"The guard alone keeps it.", "aside", annotate(call.ToldBeforeAnnotation, "y"), []update{spec, status}, onlyGuard, aside},
		"Told autoscalers":     {"A team may say what autoscalers may do with its pod.", "serving", annotate("karpenter.sh/do-not-disrupt", "true"), []update{spec, status}, nil, ""},
		"Leave":                {"An operator may wish it.", "serving", annotate(call.LeaveAnnotation, "now"), []update{spec, status}, nil, ""},
		"Deletion cost":        {"Others may advise a ReplicaSet.", "serving", annotate("controller.kubernetes.io/pod-deletion-cost", "5"), []update{spec, status}, nil, ""},
		"Hash label":           {"Controllers adopt and release by it; it opens no door.", "serving", label("pod-template-hash", "x-aside"), []update{spec, status}, nil, ""},
		"False owner":          {"It leads a collector to the delete door.", "serving", owner, []update{spec}, nil, ""},
		"Nothing":              {"A write that changes nothing is nobody's harm.", "serving", func(*corev1.Pod) {}, []update{spec, status, resize, ephemeral}, nil, ""},
		"Condition":            {"Conditions have many writers.", "serving", func(p *corev1.Pod) { unready(&p.Status) }, []update{status}, nil, ""},
		"Stopped":              {"A pod that seems stopped can be deleted.", "serving", func(p *corev1.Pod) { ended(&p.Status) }, []update{status}, kubelets, statuses},
		"Statuses removed":     {"So can one without statuses.", "serving", func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }, []update{status}, kubelets, statuses},
		"Sidecar stopped":      {"Of sidecars too.", "serving", func(p *corev1.Pod) { p.Status.InitContainerStatuses = p.Status.InitContainerStatuses[:1] }, []update{status}, kubelets, statuses},
		"Pending":              {"A Pending pod is evicted past every budget.", "serving", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, []update{status}, []identity{kubelet(), podCollector()}, phase},
		"Failed":               {"So is a Failed one, and the pod collector says that of pods without a node.", "serving", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, []update{status}, []identity{kubelet(), podCollector()}, phase},
		"Image":                {"A new image restarts the container.", "serving", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "agent:next" }, []update{spec}, nobody, image},
		"Image of sidecar":     {"A sidecar too.", "serving", func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "gate:next" }, []update{spec}, nobody, image},
		"Image while draining": {"Its calls go on.", "draining", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "agent:next" }, []update{spec}, nobody, image},
		"Image when released":  {"Its calls are over.", "released", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "agent:next" }, []update{spec}, nil, ""},
		"Deadline":             {"The kubelet would end the pod.", "serving", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(1)) }, []update{spec}, nobody, deadline},
		"Deadline, released":   {"Its calls are over.", "released", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(1)) }, []update{spec}, nil, ""},
		"Toleration": {"More tolerations keep it longer.", "serving", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "x", Operator: corev1.TolerationOpExists})
		}, []update{spec}, nil, ""},
		"Resize":               {"A resize in place restarts nothing.", "serving", more(func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }), []update{resize}, nil, ""},
		"Resize of sidecar":    {"A sidecar neither.", "serving", more(func(p *corev1.Pod) *corev1.Container { return &p.Spec.InitContainers[0] }), []update{resize}, nil, ""},
		"Resize that restarts": {"Its policy says that it restarts.", "serving", more(func(p *corev1.Pod) *corev1.Container { return &p.Spec.InitContainers[1] }), []update{resize}, nobody, resizes},
		"Resize, released":     {"Its calls are over.", "released", more(func(p *corev1.Pod) *corev1.Container { return &p.Spec.InitContainers[1] }), []update{resize}, nil, ""},
		"Debug container": {"To look at a pod is no harm; what is done in it is out of reach, as kubectl exec is.", "serving", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "debug:1", TerminationMessagePolicy: corev1.TerminationMessageReadFile, ImagePullPolicy: corev1.PullIfNotPresent}}}
		}, []update{ephemeral}, nil, ""},
	}
	for key := range born {
		// Who counts, and when calls may be ended, is fixed when the pod is created.
		refusal := "callguard-tamper-pods: annotation " + key + " of pod %s is fixed when the pod is created."
		cases[key+" added"] = attempt{"By nobody.", "serving", annotate(key, "other"), []update{spec, status}, nobody, refusal}
		cases[key+" changed"] = attempt{"By nobody.", "annotated", annotate(key, "other"), []update{spec, status}, nobody, refusal}
		cases[key+" removed"] = attempt{"For less or for more.", "annotated", unannotate(key), []update{spec, status}, nobody, refusal}
	}
	cases["One to come"] = attempt{"What a later version reads is fixed, too.", "serving", annotate("callguard.dev/later", "x"), []update{spec, status}, nobody,
		"callguard-tamper-pods: annotation callguard.dev/later of pod %s is fixed when the pod is created."}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := get(t, ns, tc.pod)
			for i, by := range tc.by {
				for _, id := range everybody() {
					changed := pod.DeepCopy()
					tc.change(changed)
					err := by(t.Context(), stage.as(id).CoreV1().Pods(ns), changed)
					want := allowed
					switch {
					case tc.want != "" && !isOneOf(id, tc.may...):
						want = fmt.Sprintf(tc.want, tc.pod)
					}
					if isOneOf(id, guard()) && leashed(by, pod, changed) {
						// The guard never does this, and TestLeash says what it may do. If both policies refuse, either may be first.
						want = map[bool]string{true: "callguard-leash: ", false: "callguard-"}[want == allowed]
					}
					if id.name == kubelet().name && want == allowed && !isOneOf(id, tc.may...) {
						continue // NodeRestriction, not a policy, decides what else a kubelet may write
					}
					if id.name == kubelet().name && answer(err)[0] == '4' {
						continue // NodeRestriction was first to refuse
					}
					expect(t, fmt.Sprintf("%s %s, by request %d", tc.reason, id.name, i), want, err)
				}
			}
		})
	}
}

// resizable reports the containers' resources, as kubelets do that can resize them.
func resizable(s *corev1.PodStatus) {
	for _, statuses := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses} {
		for i := range statuses {
			statuses[i].Resources = &corev1.ResourceRequirements{}
		}
	}
}

// owner names an owner that does not exist.
func owner(p *corev1.Pod) {
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "gone", UID: "00000000-0000-0000-0000-000000000000"}}
}

// more gives a container twice the memory.
func more(of func(*corev1.Pod) *corev1.Container) func(*corev1.Pod) {
	return func(p *corev1.Pod) { of(p).Resources.Requests[corev1.ResourceMemory] = resource.MustParse("2Gi") }
}

// leashed reports whether the guard's account may not write such a pod: anything but the metadata of a guarded one.
func leashed(by update, was, is *corev1.Pod) bool {
	return reflect.ValueOf(by).Pointer() != reflect.ValueOf(spec).Pointer() || was.Labels[call.GuardedLabel] != "true" || is.Labels[call.GuardedLabel] != "true" || !reflect.DeepEqual(was.Spec, is.Spec)
}
