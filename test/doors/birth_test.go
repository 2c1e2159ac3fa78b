// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

func TestBirthNeedsTheBudget(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "birth-budget", map[string]string{call.EnabledLabel: "true"})
	born := func(id identity, pod *corev1.Pod) error {
		_, err := stage.as(id).CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{DryRun: dry()})
		return err
	}
	for _, id := range everybody() {
		if !isOneOf(id, kubelet(), guard()) { // a kubelet creates only mirror pods, drain-guard none
			expect(t, id.name+" creates a guarded pod where no budget stands", "callguard-birth: failed to configure binding: no params found", born(id, agentPod("newborn")))
		}
	}
	plain := agentPod("newborn")
	delete(plain.Labels, call.GuardedLabel)
	plain.Spec.PriorityClassName = ""
	expect(t, "A pod that is not guarded needs no budget.", allowed, born(admin(), plain))

	// A budget in another namespace, or with another name, does not count.
	other := budget()
	other.Name = "other"
	_, err := stage.admin.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, other, metav1.CreateOptions{})
	trial.Must(t, err)
	expect(t, "A budget of another name is none.", "callguard-birth: failed to configure binding", born(admin(), agentPod("newborn")))

	_, err = stage.as(guard()).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget(), metav1.CreateOptions{})
	trial.Must(t, err)
	awaitBirth(t, ns)
	for _, id := range everybody() {
		if !isOneOf(id, kubelet(), guard()) {
			expect(t, id.name+" creates a guarded pod where the budget stands", allowed, born(id, agentPod("newborn")))
		}
	}

	trial.Must(t, stage.as(guard()).PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "callguard", metav1.DeleteOptions{}))
	trial.Must(t, eventually(ctx, "births are refused again without the budget", func() (bool, error) {
		return born(admin(), agentPod("newborn")) != nil, nil
	}))
}

// TestBirthAfterAReinstall removes the birth policy and installs it again, as an
// uninstall and a later install do. Meanwhile the lookout stays: without it Kubernetes
// stops watching budgets, and does not start again (kubernetes/kubernetes#130887), so
// that no guarded pod could ever be created.
func TestBirthAfterAReinstall(t *testing.T) {
	ctx := t.Context()
	const policyName, bindingName = "callguard-birth", "callguard-birth-needs-pdb-callguard"
	ns := enabled(t, "birth-reinstall")
	policies := stage.as(admin()).AdmissionregistrationV1().ValidatingAdmissionPolicies()
	bindings := stage.as(admin()).AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	policy, err := policies.Get(ctx, policyName, metav1.GetOptions{})
	trial.Must(t, err)
	binding, err := bindings.Get(ctx, bindingName, metav1.GetOptions{})
	trial.Must(t, err)
	born := func() error {
		_, err := stage.as(admin()).CoreV1().Pods(ns).Create(ctx, agentPod("newborn"), metav1.CreateOptions{DryRun: dry()})
		return err
	}
	budgets := stage.as(guard()).PolicyV1().PodDisruptionBudgets(ns)
	trial.Must(t, budgets.Delete(ctx, "callguard", metav1.DeleteOptions{}))
	trial.Must(t, eventually(ctx, "births are refused without the budget", func() (bool, error) { return born() != nil, nil }))

	trial.Must(t, bindings.Delete(ctx, bindingName, metav1.DeleteOptions{}))
	trial.Must(t, policies.Delete(ctx, policyName, metav1.DeleteOptions{}))
	trial.Must(t, eventually(ctx, "births need no budget once the door is gone", func() (bool, error) { err := born(); return err == nil, err }))

	policy.ObjectMeta = metav1.ObjectMeta{Name: policyName, Labels: policy.Labels, Annotations: policy.Annotations}
	_, err = policies.Create(ctx, policy, metav1.CreateOptions{})
	trial.Must(t, err)
	binding.ObjectMeta = metav1.ObjectMeta{Name: bindingName, Labels: binding.Labels, Annotations: binding.Annotations}
	_, err = bindings.Create(ctx, binding, metav1.CreateOptions{})
	trial.Must(t, err)
	trial.Must(t, eventually(ctx, "births are refused again", func() (bool, error) { return born() != nil, nil }))
	_, err = budgets.Create(ctx, budget(), metav1.CreateOptions{})
	trial.Must(t, err)
	awaitBirth(t, ns)
}

func TestBirth(t *testing.T) {
	ns := enabled(t, "birth")
	const (
		noLabel = "callguard-birth: a pod cannot be created with label callguard.dev/released"
		noNote  = "callguard-birth: a pod cannot be created with annotation callguard.dev/draining, callguard.dev/aside, callguard.dev/hash or callguard.dev/leave"
		bears   = "a guarded pod tolerates the taint karpenter.sh/disrupted:NoSchedule: Karpenter neither evicts such a pod nor waits for it, and its calls end with its node; name what it is to tolerate, rather than everything (operator Exists without a key)"
		tooLong = "callguard-birth: a guarded pod's terminationGracePeriodSeconds is 86400, a day, at most"
	)
	cases := map[string]struct {
		reason string
		change func(*corev1.Pod)
		want   string
		warns  []string
	}{
		"Plain":         {reason: "This is how a guarded pod should be.", change: func(*corev1.Pod) {}, want: allowed},
		"Released":      {reason: "Nobody is born free to go.", change: func(p *corev1.Pod) { p.Labels[call.ReleasedLabel] = "drain" }, want: noLabel},
		"ADaysGrace":    {reason: "Whose calls last so long has to say so.", change: func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(86400)) }, want: allowed},
		"LongerGrace":   {reason: "A pod that hangs would hold every drain for as long.", change: func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(86401)) }, want: tooLong},
		"TenYearsGrace": {reason: "The same for years.", change: func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(10 * 365 * 86400)) }, want: tooLong},
		"EmptyReleased": {reason: "Nor with an empty label: the budget asks only whether it exists.",
			change: func(p *corev1.Pod) { p.Labels[call.ReleasedLabel] = "" }, want: noLabel},
		"Draining": {reason: "No pod is created draining.", change: note(call.DrainingAnnotation), want: noNote},
		"Aside":    {reason: "No pod is created set aside.", change: note(call.AsideAnnotation), want: noNote},
		"Hash":     {reason: "No pod has a former hash at its creation.", change: note(call.HashAnnotation), want: noNote},
		"Leave":    {reason: "A pod that is created with callguard.dev/leave would be recreated forever.", change: note(call.LeaveAnnotation), want: noNote},
		"Others":   {reason: "The template's own settings are allowed.", change: note(call.WitnessesAnnotation), want: allowed},
		"NoName": {reason: "The API server generates the name before.",
			change: func(p *corev1.Pod) { p.GenerateName, p.Name, p.Labels[call.ReleasedLabel] = "agent-", "", "x" }, want: noLabel},
		"TwoContainers": {reason: "Another container that does not start leaves the pod Pending.", want: allowed,
			change: func(p *corev1.Pod) {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "log", Image: "log:1"})
			},
			warns: []string{"a guarded pod has more than one regular container: while one of them has not started, the pod is evicted whatever calls the others hold; make helpers native sidecars (initContainers with restartPolicy Always)"}},
		"NativeSidecar": {reason: "A native sidecar is not a regular container.", want: allowed,
			change: func(p *corev1.Pod) {
				always := corev1.ContainerRestartPolicyAlways
				p.Spec.InitContainers = []corev1.Container{{Name: "gate", Image: "gate:1", RestartPolicy: &always}}
			}},
		"NoPriority": {reason: "The scheduler tries to preempt a pod of priority 0 first.", want: allowed,
			change: func(p *corev1.Pod) { p.Spec.PriorityClassName = "" },
			warns:  []string{"a guarded pod has a lower priority than PriorityClass callguard-calls: the scheduler may try to preempt it, again and again; set priorityClassName: callguard-calls"}},
		"Deadline": {reason: "activeDeadlineSeconds at creation comes from the template, and is a mistake.", want: allowed,
			change: func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(60)) },
			warns:  []string{"a guarded pod has activeDeadlineSeconds: the kubelet ends it then, with its calls; leave it out"}},
		"ToleratesAll": {reason: "Karpenter removes the node, and no policy is asked.", want: allowed,
			change: func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			}, warns: []string{bears}},
		"ToleratesKarpenter": {reason: "The same with the taint's name.", want: allowed,
			change: func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "karpenter.sh/disrupted", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
			}, warns: []string{bears}},
		"ToleratesOthers": {reason: "A taint of its node pool, and the kubelet's eviction taints, are not Karpenter's.", want: allowed,
			change: func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{
					{Key: "example.org/voice", Operator: corev1.TolerationOpExists}, {Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
				}
			}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			heard := &warnings{}
			config := rest.CopyConfig(stage.config)
			config.WarningHandler = heard
			client, err := kubernetes.NewForConfig(config)
			trial.Must(t, err)
			pod := agentPod("newborn")
			tc.change(pod)
			_, err = client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: dry()})
			expect(t, tc.reason, tc.want, err)
			var want []string
			for _, w := range tc.warns {
				want = append(want, "Validation failed for ValidatingAdmissionPolicy 'callguard-birth-advice' with binding 'callguard-birth-advice': "+w)
			}
			if diff := cmp.Diff(want, heard.said); diff != "" {
				t.Errorf("%s Warnings: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func note(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{key: "rooms"} }
}

// warnings records the API server's warnings.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

func TestBinding(t *testing.T) {
	ns := enabled(t, "binding")
	pod := agentPod("unplaced")
	pod.Spec.SchedulerName = "nobody"
	create(t, ns, pod)
	const want = "callguard-tamper-binding: a binding cannot give a pod labels or annotations of callguard.dev"
	for name, tc := range map[string]struct {
		reason string
		meta   metav1.ObjectMeta
		want   string
	}{
		"Plain":    {"This is how a scheduler binds.", metav1.ObjectMeta{}, allowed},
		"Others":   {"A scheduler may note something of its own.", metav1.ObjectMeta{Annotations: map[string]string{"example.org/zone": "a"}}, allowed},
		"Released": {"A binding's labels become the pod's.", metav1.ObjectMeta{Labels: map[string]string{call.ReleasedLabel: "drain"}}, want},
		"Draining": {"So do its annotations.", metav1.ObjectMeta{Annotations: map[string]string{call.DrainingAnnotation: "x"}}, want},
	} {
		tc.meta.Name = pod.Name
		for _, id := range []identity{admin(), {"scheduler", "system:kube-scheduler", nil}} {
			err := stage.as(id).CoreV1().Pods(ns).Bind(t.Context(), &corev1.Binding{ObjectMeta: tc.meta, Target: corev1.ObjectReference{Kind: "Node", Name: "node-1"}}, metav1.CreateOptions{DryRun: dry()})
			expect(t, name+": "+tc.reason+" "+id.name, tc.want, err)
		}
	}
}
