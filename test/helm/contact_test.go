// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/callguard/callguard/test/trial"
)

// TestAdapterOnTheHostsNetwork: each replica has its own node, the Service points to a port that the kubelet does not use,
// and an upgrade finds a node for the next replica.
func TestAdapterOnTheHostsNetwork(t *testing.T) {
	installAddon(t, "--set", "metricsAdapter.hostNetwork=true")
	const adapters = "app.kubernetes.io/name=metrics-adapter"
	nodes := map[string]bool{}
	pods := readyPods(t, addonNamespace, adapters, 2)
	for _, pod := range pods {
		nodes[pod.Spec.NodeName] = true
		if !pod.Spec.HostNetwork || pod.Spec.Containers[0].Ports[0].HostPort != 10270 || pod.Spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
			t.Errorf("pod %s: host's network %t, port %d, dnsPolicy %s", pod.Name, pod.Spec.HostNetwork, pod.Spec.Containers[0].Ports[0].HostPort, pod.Spec.DNSPolicy)
		}
	}
	if len(nodes) != 2 {
		t.Errorf("two replicas share a port on %v", nodes)
	}
	// The simulated nodes are on loopback, for which Kubernetes creates no endpoints, so the test checks what these would be.
	service, err := stage.client.CoreV1().Services(addonNamespace).Get(t.Context(), "metrics-adapter", metav1.GetOptions{})
	trial.Must(t, err)
	if to := service.Spec.Ports[0].TargetPort.String(); to != pods[0].Spec.Containers[0].Ports[0].Name {
		t.Errorf("the Service leads to port %s; want the adapter's own, %s", to, pods[0].Spec.Containers[0].Ports[0].Name)
	}
	helm(t, addonArgs("upgrade", "--set", "metricsAdapter.hostNetwork=true", "--set-string", "image.tag=2")...)
	trial.Within(t, 2*time.Minute, "both replicas are new ones, and ready", func() error {
		d, err := stage.client.AppsV1().Deployments(addonNamespace).Get(t.Context(), "metrics-adapter", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration != d.Generation || s.UpdatedReplicas != 2 || s.ReadyReplicas != 2 || s.Replicas != 2 {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
	uninstallAddon(t)
}

// TestNobodySaysAUser: in a namespace that enforces pod security "restricted", and under a policy that refuses pods with a
// user, as OpenShift does, all pods start.
func TestNobodySaysAUser(t *testing.T) {
	const policy = "no-user"
	policies, bindings := stage.client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), stage.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	fail := admissionregistrationv1.Fail
	_, err := policies.Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: policy},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}}}},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "!object.spec.?securityContext.?runAsUser.hasValue() && !object.spec.?securityContext.?fsGroup.hasValue() && " +
					"object.spec.containers.all(c, !c.?securityContext.?runAsUser.hasValue() && !c.?securityContext.?runAsGroup.hasValue())",
				Message: "the pod says a user",
			}},
		},
	}, metav1.CreateOptions{})
	trial.Must(t, err)
	afterwards(t, "delete", "validatingadmissionpolicy", policy)
	makeNamespace(t, addonNamespace, nil)
	_, err = bindings.Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policy},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policy, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": addonNamespace}}},
		},
	}, metav1.CreateOptions{})
	trial.Must(t, err)
	afterwards(t, "delete", "validatingadmissionpolicybinding", policy)
	user := int64(65532)
	trial.Within(t, 20*time.Second, "a pod that says a user is refused", func() error {
		pod := guardedPod("user")
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user}
		pod.Spec.PriorityClassName = ""
		_, err := stage.client.CoreV1().Pods(addonNamespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return saysDoor(err, policy)
	})
	const enforce = "pod-security.kubernetes.io/enforce"
	kubectl(t, "", "label", "namespace", addonNamespace, enforce+"=restricted", "--overwrite")
	afterwards(t, "label", "namespace", addonNamespace, enforce+"-")
	installAddon(t)
	readyPods(t, addonNamespace, "app.kubernetes.io/name=drain-guard", 2)
	readyPods(t, addonNamespace, "app.kubernetes.io/name=metrics-adapter", 2)
	uninstallAddon(t)
}

// afterwards runs kubectl after the test.
func afterwards(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := command(context.WithoutCancel(t.Context()), "", stage.kubectl, args...)
		trial.Must(t, err)
	})
}

// TestReusedValues: an upgrade with --reuse-values has all values of the last release and no new ones, and restarts no pod.
func TestReusedValues(t *testing.T) {
	before := filepath.Join(t.TempDir(), "callguard")
	trial.Must(t, os.CopyFS(before, os.DirFS(filepath.Join(repository, addonChart))))
	text, err := os.ReadFile(filepath.Join(before, "values.yaml"))
	trial.Must(t, err)
	values := map[string]any{}
	trial.Must(t, yaml.Unmarshal(text, &values))
	for _, key := range []string{"commonLabels", "commonAnnotations", "ca", "proxy", "podDefaults", "resourceQuota"} {
		if _, there := values[key]; !there {
			t.Fatalf("values.yaml has no %s", key)
		}
		delete(values, key)
	}
	for _, component := range []string{"drainGuard", "metricsAdapter"} {
		of, ok := values[component].(map[string]any)
		if !ok {
			t.Fatalf("values.yaml has no %s", component)
		}
		of["priorityClassName"] = "system-cluster-critical"
		for _, key := range []string{"hostNetwork", "securePort", "webhookPort"} {
			delete(of, key)
		}
	}
	text, err = yaml.Marshal(values)
	trial.Must(t, err)
	trial.Must(t, os.WriteFile(filepath.Join(before, "values.yaml"), text, 0o600))

	t.Cleanup(func() {
		_, err := command(context.WithoutCancel(t.Context()), "", stage.helm, "uninstall", addon, "-n", addonNamespace, "--no-hooks", "--ignore-not-found")
		trial.Must(t, err)
	})
	helm(t, "install", addon, before, "-n", addonNamespace, "--create-namespace", "--set", "metricsAdapter.replicas=1")
	generations := func() map[string]int64 {
		list, err := stage.client.AppsV1().Deployments(addonNamespace).List(t.Context(), metav1.ListOptions{})
		trial.Must(t, err)
		found := map[string]int64{}
		for _, d := range list.Items {
			found[d.Name] = d.Generation
		}
		return found
	}
	was := generations()
	helm(t, addonArgs("upgrade", "--reuse-values")...)
	if diff := cmp.Diff(was, generations()); diff != "" || len(was) != 2 {
		t.Errorf("the upgrade changes Deployments (-before +after)\n%s", diff)
	}
}
