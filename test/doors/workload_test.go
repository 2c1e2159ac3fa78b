// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// agentTemplate is the pod template of an agent that is guarded correctly.
func agentTemplate() corev1.PodTemplateSpec {
	pod, always := agentPod("agent"), corev1.ContainerRestartPolicyAlways
	pod.Labels["app"] = "agent"
	pod.Spec.TerminationGracePeriodSeconds = new(int64(4020))
	pod.Annotations = map[string]string{call.GatePortAnnotation: "8089"}
	pod.Spec.InitContainers = []corev1.Container{{Name: "gate", Image: "callguard:dev", Command: []string{"/call-gate"}, RestartPolicy: &always}}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations}, Spec: pod.Spec}
}

// TestWorkloadAdvice: whoever applies a workload is warned of each mistake, with the line to write, and nothing is
// refused.
func TestWorkloadAdvice(t *testing.T) {
	on := enabled(t, "workload-advice")
	off := namespace(t, "workload-advice-off", map[string]string{call.EnabledLabel: "True"})
	const (
		line    = `; write under spec.template.metadata.labels: callguard.dev/guarded: "true"`
		missing = "the pod template has no label callguard.dev/guarded, so nothing holds or counts its calls" + line
		bears   = "a guarded pod tolerates the taint karpenter.sh/disrupted:NoSchedule: Karpenter neither evicts such a pod nor waits for it, and its calls end with its node; name what it is to tolerate, rather than everything (operator Exists without a key)"
	)
	type object struct {
		meta     *metav1.ObjectMeta
		template *corev1.PodTemplateSpec
	}
	cases := map[string]struct {
		reason    string
		namespace string
		change    func(object)
		warns     []string
	}{
		"Right":   {reason: "Without a mistake there is no warning."},
		"Others":  {reason: "A workload that does not mention callguard is not checked.", change: func(o object) { o.template.Labels, o.template.Annotations = map[string]string{"app": "agent"}, nil }},
		"OptOut":  {reason: "The value false is deliberate.", change: func(o object) { o.template.Labels[call.GuardedLabel] = "false" }},
		"NoLabel": {reason: "Annotations alone make no pod guarded.", change: func(o object) { delete(o.template.Labels, call.GuardedLabel) }, warns: []string{missing}},
		"LabelOfTheWorkload": {reason: "A label outside the pod template does not reach the pods.",
			change: func(o object) {
				o.meta.Labels = map[string]string{call.GuardedLabel: "true"}
				o.template.Labels, o.template.Annotations = map[string]string{"app": "agent"}, nil
			}, warns: []string{missing}},
		"Yes": {reason: "Only the value true counts.", change: func(o object) { o.template.Labels[call.GuardedLabel] = "yes" },
			warns: []string{`label callguard.dev/guarded of the pod template is "yes", so nothing holds or counts its calls` + line}},
		"NotEnabled": {reason: "The most common mistake: the namespace is not enabled, or has another value.", namespace: off,
			warns: []string{"namespace " + off + " is not enabled, so nothing holds or counts the calls of these pods. An administrator enables it: kubectl label namespace " + off + " callguard.dev/enabled=true --overwrite"}},
		"Misspelt": {reason: "Without the port the gate is not asked.", change: func(o object) { o.template.Annotations = map[string]string{"callguard.dev/gateport": "8089"} },
			warns: []string{
				"callguard knows no annotation callguard.dev/gateport of a pod template; it knows callguard.dev/witnesses, gate-port, worker-port, agent-container, livekit-secret, livekit-secret-keys, launch-limit, drain-deadline, on-deadline, agent-name, waiting-rooms and dispatch-again",
				`the pod template has a call-gate, and callguard does not know of it; write under spec.template.metadata.annotations: callguard.dev/gate-port: "8089"`,
			}},
		"GateByWitness": {reason: "Then the port has a default.", change: func(o object) { o.template.Annotations = map[string]string{call.WitnessesAnnotation: "gate"} }},
		"Misplaced": {reason: "Pods do not have their owner's annotations.", change: func(o object) {
			o.meta.Annotations = map[string]string{call.DeadlineAnnotation: "2h", call.MinAvailableAnnotation: "1"}
		}, warns: []string{"annotation callguard.dev/drain-deadline has no effect on the workload itself, where callguard reads callguard.dev/min-available alone; write it under spec.template.metadata.annotations"}},
		"TwoContainers": {reason: "Another container that does not start leaves the pod Pending.", change: func(o object) {
			o.template.Spec.Containers = append(o.template.Spec.Containers, corev1.Container{Name: "log", Image: "log:1"})
		}, warns: []string{"a guarded pod has more than one regular container: while one of them has not started, the pod is evicted whatever calls the others hold; make helpers native sidecars: initContainers with restartPolicy: Always"}},
		"NoPriority": {reason: "The scheduler tries to preempt it first.", change: func(o object) { o.template.Spec.PriorityClassName = "" },
			warns: []string{"a guarded pod has no priority, and the scheduler may try to preempt it, again and again; write under spec.template.spec: priorityClassName: callguard-calls"}},
		"ShortGrace": {reason: "Kubernetes' default cuts calls that outlive it.", change: func(o object) { o.template.Spec.TerminationGracePeriodSeconds = nil },
			warns: []string{"terminationGracePeriodSeconds is 30, and an agent that is told to end may take 3600 s to finish its calls (drain_timeout): those that last longer are cut; write under spec.template.spec: terminationGracePeriodSeconds: 4020"}},
		"JustEnough": {reason: "It is as long as an agent drains.", change: func(o object) { o.template.Spec.TerminationGracePeriodSeconds = new(int64(3600)) }},
		"UnguardedShortGrace": {reason: "Nobody is held, so nobody is told.", change: func(o object) {
			o.template.Labels[call.GuardedLabel], o.template.Spec.TerminationGracePeriodSeconds = "false", new(int64(5))
		}},
		"ToleratesAll": {reason: "Karpenter takes the node past every door.", change: func(o object) {
			o.template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}, warns: []string{bears}},
		"ToleratesOthers": {reason: "A taint of its node pool is not Karpenter's.", change: func(o object) {
			o.template.Spec.Tolerations = []corev1.Toleration{{Key: "pool", Operator: corev1.TolerationOpExists}}
		}},
		"DeadlyProbe": {reason: "LiveKit's outage is no reason to end calls.", change: func(o object) {
			o.template.Spec.Containers[0].LivenessProbe = asks("/healthz/realtime")
		}, warns: []string{"a liveness probe asks /readyz or /healthz/realtime, which say no while LiveKit or the Realtime API is away: the kubelet then ends the container with its calls; make it a readinessProbe"}},
		"Probe": {reason: "Checking whether the process answers is fine.", change: func(o object) {
			o.template.Spec.Containers[0].LivenessProbe, o.template.Spec.Containers[0].ReadinessProbe = asks("/healthz"), asks("/readyz")
		}},
		"OfAController": {reason: "Whoever writes this object's owner is warned there.", change: func(o object) {
			delete(o.template.Labels, call.GuardedLabel)
			o.meta.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.org/v1", Kind: "Agent", Name: "agent", UID: "1", Controller: new(true)}}
		}},
	}
	for name, tc := range cases {
		for kind, create := range map[string]func(kubernetes.Interface, string) error{
			"Deployment": func(c kubernetes.Interface, ns string) error {
				d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DeploymentSpec{Template: agentTemplate(), Selector: appLabel()}}
				apply(tc.change, object{&d.ObjectMeta, &d.Spec.Template})
				_, err := c.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{DryRun: dry()})
				return err
			},
			"StatefulSet": func(c kubernetes.Interface, ns string) error {
				s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.StatefulSetSpec{Template: agentTemplate(), Selector: appLabel()}}
				apply(tc.change, object{&s.ObjectMeta, &s.Spec.Template})
				_, err := c.AppsV1().StatefulSets(ns).Create(t.Context(), s, metav1.CreateOptions{DryRun: dry()})
				return err
			},
			"DaemonSet": func(c kubernetes.Interface, ns string) error {
				s := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{Template: agentTemplate(), Selector: appLabel()}}
				apply(tc.change, object{&s.ObjectMeta, &s.Spec.Template})
				_, err := c.AppsV1().DaemonSets(ns).Create(t.Context(), s, metav1.CreateOptions{DryRun: dry()})
				return err
			},
			"ReplicaSet": func(c kubernetes.Interface, ns string) error {
				s := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.ReplicaSetSpec{Template: agentTemplate(), Selector: appLabel()}}
				apply(tc.change, object{&s.ObjectMeta, &s.Spec.Template})
				_, err := c.AppsV1().ReplicaSets(ns).Create(t.Context(), s, metav1.CreateOptions{DryRun: dry()})
				return err
			},
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				heard := &warnings{}
				config := rest.CopyConfig(stage.config)
				config.WarningHandler = heard
				client, err := kubernetes.NewForConfig(config)
				trial.Must(t, err)
				ns := on
				if tc.namespace != "" {
					ns = tc.namespace
				}
				expect(t, tc.reason, allowed, create(client, ns))
				var got []string
				for _, said := range heard.said {
					text, is := strings.CutPrefix(said, "Validation failed for ValidatingAdmissionPolicy 'callguard-workload-advice' with binding 'callguard-workload-advice': ")
					if !is {
						t.Errorf("somebody else warns: %s", said)
					}
					got = append(got, text)
				}
				if diff := cmp.Diff(tc.warns, got); diff != "" {
					t.Errorf("%s Warnings: -want, +got:\n%s", tc.reason, diff)
				}
			})
		}
	}
}

// asks returns a probe of a path.
func asks(path string) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8089)}}}
}

func appLabel() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}
}

func apply[T any](change func(T), to T) {
	if change != nil {
		change(to)
	}
}
