// SPDX-License-Identifier: Apache-2.0

// This story needs the guard for itself for minutes, so make e2e-long runs it.

//go:build long

package drain

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// beside begins a story in its own namespace, on the nodes of another.
func (s *story) beside(kind string) *story {
	s.t.Helper()
	other := &story{t: s.t, rooms: lab.Telephone(lines.Add(1)), ns: s.ns + "-" + kind}
	s.must(stage.Namespace(s.t.Context(), other.ns))
	s.t.Cleanup(func() { other.clear() })
	other.callers = stage.NewCallers()
	s.t.Cleanup(other.callers.Close)
	other.watch = newWatch(s.t, other.ns, true)
	s.eventually(soon, "the guard has locked namespace "+other.ns, func() (bool, error) {
		_, err := stage.Client.PolicyV1().PodDisruptionBudgets(other.ns).Get(s.t.Context(), budgetName, metav1.GetOptions{})
		return err == nil, err
	})
	return other
}

// refusePods installs a policy of somebody else that refuses to change or delete pods of the
// namespace.
func (s *story) refusePods() {
	s.t.Helper()
	admission := stage.Client.AdmissionregistrationV1()
	here := &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.ns}}
	fails := admissionregistrationv1.Fail
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fails,
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: podsRule(),
			}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "false", Message: "frozen by the tenant"}},
		},
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: s.ns, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: here},
		},
	}
	s.t.Cleanup(func() { // before the namespace is cleared
		ctx := context.WithoutCancel(s.t.Context())
		if err := errors.Join(admission.ValidatingAdmissionPolicyBindings().Delete(ctx, s.ns, metav1.DeleteOptions{}),
			admission.ValidatingAdmissionPolicies().Delete(ctx, s.ns, metav1.DeleteOptions{})); err != nil {
			s.t.Error(err)
		}
	})
	_, err := admission.ValidatingAdmissionPolicies().Create(s.t.Context(), policy, metav1.CreateOptions{})
	s.must(err)
	_, err = admission.ValidatingAdmissionPolicyBindings().Create(s.t.Context(), binding, metav1.CreateOptions{})
	s.must(err)
}

func podsRule() admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update, admissionregistrationv1.Delete},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
	}
}

// hangPods installs a webhook for changes of the namespace's pods that never answers.
func (s *story) hangPods() {
	s.t.Helper()
	silent, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0") // accepts connections and stays silent
	s.must(err)
	s.t.Cleanup(func() { _ = silent.Close() })
	url, fails, none, patience := "https://"+silent.Addr().String()+"/", admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone, int32(10)
	webhooks := stage.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	s.t.Cleanup(func() {
		if err := webhooks.Delete(context.WithoutCancel(s.t.Context()), s.ns, metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
	})
	_, err = webhooks.Create(s.t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "silent.example.com", FailurePolicy: &fails, SideEffects: &none, TimeoutSeconds: &patience, AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: &url},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.ns}},
			Rules:             []admissionregistrationv1.RuleWithOperations{podsRule()},
		}},
	}, metav1.CreateOptions{})
	s.must(err)
}

// secondBudget selects the guarded pods in addition to callguard's.
func (s *story) secondBudget() {
	s.t.Helper()
	_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Create(s.t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "second"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}}},
	}, metav1.CreateOptions{})
	s.must(err)
}

// quota admits this many pods and no replacement.
func (s *story) quota(pods string) {
	s.t.Helper()
	_, err := stage.Client.CoreV1().ResourceQuotas(s.ns).Create(s.t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "full"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse(pods)}},
	}, metav1.CreateOptions{})
	s.must(err)
}

// TestOneTenant has a namespace for each kind of trouble, with pods that should leave, next
// to one without trouble. There a drain, a rollout, a scale-down and the metric take the
// usual time, and calls are lost only with the node that dies.
func TestOneTenant(t *testing.T) {
	well := tell(t, 3)
	well.deploy(4)
	ill := beginIn(t, well.ns+"-ill", 3, true)
	dead := ill.nodes[2]
	others := map[string]string{storyLabel: ill.ns}
	anyNode := func(d *appsv1.Deployment) { d.Spec.Template.Spec.NodeSelector = others }

	evil := map[string]*story{}
	for _, kind := range []string{"policy", "webhook", "budget", "dead", "quota", "secret", "rubbish", "words"} {
		evil[kind] = ill.beside(kind)
	}
	evil["policy"].deploy(2, anyNode)
	evil["webhook"].deploy(2, anyNode)
	evil["budget"].deploy(2, anyNode)
	evil["dead"].deploy(4, impatient, anyNode, annotated(map[string]string{call.WitnessesAnnotation: string(call.Worker)}, nil))
	evil["quota"].deploy(2, anyNode)
	evil["secret"].deploy(2, anyNode, annotated(map[string]string{call.SecretAnnotation: "nobody-made-it"}, nil))
	evil["rubbish"].must(stage.Secret(t.Context(), evil["rubbish"].ns, "lk", local.LiveKit{URL: "http://127.0.0.1:1", APIKey: "k", APISecret: "not-the-secret-of-anybody"}))
	evil["rubbish"].deploy(2, anyNode, annotated(map[string]string{call.SecretAnnotation: "lk"}, nil))
	evil["words"].deploy(2, anyNode, annotated(map[string]string{
		call.WitnessesAnnotation: "romos", call.WorkerPortAnnotation: "http", call.DeadlineAnnotation: "soon", call.OnDeadlineAnnotation: "Perhaps", call.LaunchLimitAnnotation: "never",
	}, map[string]string{call.MinAvailableAnnotation: "lots"}))
	well.fill()
	for _, e := range evil {
		e.first(1)
	}

	evil["policy"].refusePods()
	evil["webhook"].hangPods()
	evil["budget"].secondBudget()
	evil["quota"].quota("2")
	ill.unplug(dead)
	stage.Fleet.KillNode(dead)
	for _, node := range ill.nodes[:2] {
		ill.does("cordon", node)
	}
	evil["budget"].does("scale", "deployment/"+lab.AgentName, "--replicas=1")
	evil["policy"].does("scale", "deployment/"+lab.AgentName, "--replicas=0")
	evil["webhook"].does("scale", "deployment/"+lab.AgentName, "--replicas=0")
	ill.eventually(nodeGrace+inTime, "the node is known to be dead", func() (bool, error) {
		lost := evil["dead"].pods(func(p *corev1.Pod) bool { return on(dead)(p) && !ready(p) })
		return evil["dead"].so(len(lost) > 0)
	})

	began := time.Now()
	leavers := well.pods(on(well.nodes[0]))
	drain := well.drain(well.nodes[0])
	well.eventually(inTime, "the pods of the node take no new call", func() (bool, error) {
		left := well.pods(func(p *corev1.Pod) bool { return slices.Contains(leavers, p.Name) && !leaving(p) })
		return well.so(len(left) == 0)
	})
	well.hangUpOn(leavers...)
	well.ends(drain, inTime)
	t.Logf("%d pods were drained within %s", len(leavers), time.Since(began).Round(time.Second))

	began = time.Now()
	before := well.pods(all)
	well.rollOut("deployment", "agent:next")
	well.eventually(inTime, "the agents of before take no new call", func() (bool, error) {
		left := well.pods(func(p *corev1.Pod) bool { return slices.Contains(before, p.Name) && !leaving(p) })
		return well.so(len(left) == 0)
	})
	well.hangUpOn(before...)
	well.gone(inTime, before...)
	t.Logf("%d pods were replaced within %s", len(before), time.Since(began).Round(time.Second))
	well.steady(4)

	well.first(2)
	well.eventually(soon, "the metric has the calls", func() (bool, error) { return well.counts(2) })

	began = time.Now()
	well.does("scale", "deployment/"+lab.AgentName, "--replicas=2")
	well.eventually(inTime, "two are left, which talk", func() (bool, error) {
		return well.so(len(well.pods(all)) == 2 && well.talking())
	})
	t.Logf("it was scaled down within %s", time.Since(began).Round(time.Second))
	well.noneDropped()
	for _, e := range evil {
		e.droppedOnlyBy(fleet.CauseNode) // each has pods on the node that died
	}
}
