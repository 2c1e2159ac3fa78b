// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/servingcert"
	"github.com/callguard/callguard/test/trial"
)

const (
	addon          = "callguard"
	addonNamespace = "callguard-system"
	addonChart     = "charts/callguard"
)

func versions() []string {
	return []string{"v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"}
}

// ways are Helm's two ways of writing objects.
func ways() map[string]string {
	return map[string]string{"ServerSide": "--server-side=true", "ClientSide": "--server-side=false"}
}

func addonArgs(verb string, more ...string) []string {
	return append([]string{verb, addon, addonChart, "-n", addonNamespace}, more...)
}

func installAddon(t *testing.T, more ...string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		// The next test can begin anyway.
		_, err := command(context.WithoutCancel(t.Context()), "", stage.helm, "uninstall", addon, "-n", addonNamespace, "--no-hooks", "--ignore-not-found")
		trial.Must(t, err)
	})
	helm(t, addonArgs("install", append([]string{"--create-namespace"}, more...)...)...)
}

// uninstallAddon uninstalls it as with a guard that cannot run: the hook that unlocks is a Job, which no simulated node
// completes.
func uninstallAddon(t *testing.T) {
	t.Helper()
	helm(t, "uninstall", addon, "-n", addonNamespace, "--no-hooks")
}

// TestAddon runs through the life of a release of charts/callguard, with either way of writing.
func TestAddon(t *testing.T) {
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			calls := "calls-" + strings.ToLower(name)
			installAddon(t, way)
			makeNamespace(t, calls, map[string]string{call.EnabledLabel: "true"})
			doorsHold(t, calls)

			// The adapter writes its authority to both APIServices, and every upgrade keeps it.
			bundles := adapterPublishes(t)
			helm(t, addonArgs("upgrade", "--set-string", "image.tag=2")...)
			if diff := cmp.Diff(bundles, caBundles(t)); diff != "" {
				t.Errorf("an upgrade changes caBundle (-before +after):\n%s", diff)
			}
			if got := image(t, "drain-guard"); got != "callguard:2" {
				t.Errorf("drain-guard runs %s after the upgrade; want callguard:2", got)
			}
			if name == "ServerSide" {
				onlyOne(t)
				manifestIsTheTemplate(t, "--set-string", "image.tag=2")
			}
			helm(t, "rollback", addon, "1", "-n", addonNamespace)
			if diff := cmp.Diff(bundles, caBundles(t)); diff != "" {
				t.Errorf("a rollback changes caBundle (-before +after):\n%s", diff)
			}
			if got := image(t, "drain-guard"); got != "callguard:dev" {
				t.Errorf("drain-guard runs %s after the rollback; want callguard:dev", got)
			}
			doorsRefuse(t, calls)

			uninstall(t, calls)
		})
	}
}

// onlyOne installs a second one.
func onlyOne(t *testing.T) {
	t.Helper()
	for _, mode := range []string{"own", "none"} {
		refused(t, []string{"callguard is already installed, as release callguard in namespace callguard-system", "Upgrade that one, or uninstall it"},
			"install", "second", addonChart, "-n", "second", "--create-namespace", "--set", "metricsAdapter.mode="+mode)
	}
}

// manifestIsTheTemplate compares the manifest that Helm stores with its rendering of the same values.
func manifestIsTheTemplate(t *testing.T, values ...string) {
	t.Helper()
	rendered := helm(t, append([]string{"template", addon, addonChart, "-n", addonNamespace, "--no-hooks", "--dry-run=server"}, values...)...)
	if diff := cmp.Diff(objects(helm(t, "get", "manifest", addon, "-n", addonNamespace)), objects(rendered)); diff != "" {
		t.Errorf("helm get manifest is not what helm template says (-get +template):\n%s", diff)
	}
}

// doorsHold waits until the policies protect the pods of an enabled namespace, with the budget that the guard creates.
func doorsHold(t *testing.T, namespace string) {
	t.Helper()
	trial.Within(t, 20*time.Second, "no guarded pod is born before its budget", func() error {
		_, err := stage.client.CoreV1().Pods(namespace).Create(t.Context(), guardedPod("early"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return saysDoor(err, "callguard-birth")
	})
	owner, err := stage.client.RbacV1().ClusterRoles().Get(t.Context(), guard.BudgetOwner, metav1.GetOptions{})
	trial.Must(t, err)
	most := intstr.FromInt32(math.MaxInt32)
	_, err = asGuard(t).PolicyV1().PodDisruptionBudgets(namespace).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: guard.BudgetName, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: owner.Name, UID: owner.UID},
		}},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &most, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{call.GuardedLabel: "true"}}},
	}, metav1.CreateOptions{})
	trial.Must(t, err)
	trial.Within(t, 20*time.Second, "a guarded pod is born", func() error {
		_, err := stage.client.CoreV1().Pods(namespace).Create(t.Context(), guardedPod("agent"), metav1.CreateOptions{})
		return err
	})
	readyPods(t, namespace, call.GuardedLabel+"=true", 1)
	trial.Within(t, 20*time.Second, "no guarded pod is deleted", func() error {
		return saysDoor(stage.client.CoreV1().Pods(namespace).Delete(t.Context(), "agent", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), "callguard-delete")
	})
	trial.Within(t, 20*time.Second, "the budget is not deleted", func() error {
		return saysDoor(stage.client.PolicyV1().PodDisruptionBudgets(namespace).Delete(t.Context(), guard.BudgetName, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), "callguard-tamper-budget")
	})
	doorsRefuse(t, namespace)
}

// doorsRefuse tries what the policies should refuse.
func doorsRefuse(t *testing.T, namespace string) {
	t.Helper()
	trial.Must(t, saysDoor(stage.client.CoreV1().Pods(namespace).Delete(t.Context(), "agent", metav1.DeleteOptions{}), "callguard-delete"))
	if got := evict(t, namespace, "agent"); got != 429 {
		t.Errorf("an eviction is answered %d; want 429", got)
	}
	trial.Must(t, saysDoor(stage.client.PolicyV1().PodDisruptionBudgets(namespace).Delete(t.Context(), guard.BudgetName, metav1.DeleteOptions{}), "callguard-tamper-budget"))
}

// saysDoor expects a refusal by a policy.
func saysDoor(err error, door string) error {
	if err == nil {
		return errors.New("it was allowed; want a refusal by " + door)
	}
	if !strings.Contains(err.Error(), door) {
		return fmt.Errorf("want a refusal by %s, got: %w", door, err)
	}
	return nil
}

// uninstall uninstalls the add-on while a namespace with a guarded pod is being deleted, which has to wait: the APIServices
// point to no pod that answers.
func uninstall(t *testing.T, namespace string) {
	t.Helper()
	makeNamespace(t, namespace+"-empty", nil)
	trial.Must(t, stage.client.CoreV1().Namespaces().Delete(t.Context(), namespace+"-empty", metav1.DeleteOptions{}))
	trial.Within(t, 3*time.Minute, "the deletion of a namespace waits for the metrics-adapter", func() error {
		ns, err := stage.client.CoreV1().Namespaces().Get(t.Context(), namespace+"-empty", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceDeletionDiscoveryFailure && c.Status == corev1.ConditionTrue && strings.Contains(c.Message, "custom.metrics.k8s.io") {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", ns.Status.Conditions)
	})

	uninstallAddon(t)
	trial.Within(t, 3*time.Minute, "the garbage collector takes the budget", func() error {
		_, err := stage.client.PolicyV1().PodDisruptionBudgets(namespace).Get(t.Context(), guard.BudgetName, metav1.GetOptions{})
		return gone(err)
	})
	if left := leftBehind(t); len(left) > 0 {
		t.Errorf("an uninstall leaves %v", left)
	}
	trial.Must(t, stage.client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
	for _, ns := range []string{namespace + "-empty", namespace} {
		trial.Within(t, 3*time.Minute, "namespace "+ns+" goes", func() error {
			_, err := stage.client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
			return gone(err)
		})
	}
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("it is there (%w)", err)
}

// leftBehind lists the chart's objects in the cluster. The lookout, which refuses nothing, stays on purpose.
func leftBehind(t *testing.T) []string {
	t.Helper()
	out := kubectl(t, "", "get", "-A", "-l", "app.kubernetes.io/part-of=callguard", "-o", "name",
		"validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings,"+
			"clusterroles,clusterrolebindings,roles,rolebindings,priorityclasses,apiservices,deployments,jobs,services,serviceaccounts,networkpolicies,poddisruptionbudgets")
	var left []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "callguard-lookout") {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return left
}

func image(t *testing.T, deployment string) string {
	t.Helper()
	d, err := stage.client.AppsV1().Deployments(addonNamespace).Get(t.Context(), deployment, metav1.GetOptions{})
	trial.Must(t, err)
	return d.Spec.Template.Spec.Containers[0].Image
}

// objects are the documents of a manifest, without the space between them.
func objects(manifest string) []string {
	var out []string
	for doc := range strings.SplitSeq(manifest, "\n---\n") {
		out = append(out, strings.TrimSpace(strings.TrimPrefix(doc, "---\n")))
	}
	return out
}

func caBundles(t *testing.T) map[string]string {
	t.Helper()
	bundles := map[string]string{}
	for _, name := range versions() {
		s, err := stage.apiServices.ApiregistrationV1().APIServices().Get(t.Context(), name, metav1.GetOptions{})
		trial.Must(t, err)
		if s.Spec.InsecureSkipTLSVerify {
			t.Errorf("APIService %s does not verify its server", name)
		}
		bundles[name] = string(s.Spec.CABundle)
	}
	return bundles
}

// keeper is a metrics-adapter's certificate keeper, with the rights that the chart gives it.
func keeper(t *testing.T) *servingcert.Keeper {
	t.Helper()
	client, err := dynamic.NewForConfig(configOf(addonNamespace, "metrics-adapter"))
	trial.Must(t, err)
	k, err := servingcert.New(servingcert.Config{
		APIServices: servingcert.APIServices(client), Names: versions(), Lifetime: time.Hour, Log: slog.New(slog.DiscardHandler),
		Service: types.NamespacedName{Namespace: addonNamespace, Name: "metrics-adapter"},
	})
	trial.Must(t, err)
	return k
}

// adapterPublishes acts as one replica of the metrics-adapter until its authority is in both APIServices.
func adapterPublishes(t *testing.T) map[string]string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	k := keeper(t)
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	trial.Within(t, 20*time.Second, "the adapter's authority stands in the APIServices", k.Published)
	stop()
	trial.Must(t, <-ended)
	bundles := caBundles(t)
	for name, bundle := range bundles {
		if bundle == "" {
			t.Fatalf("caBundle of %s is empty", name)
		}
	}
	return bundles
}

// TestAnotherAdapter installs where another adapter serves custom metrics.
func TestAnotherAdapter(t *testing.T) {
	makeNamespace(t, "monitoring", nil)
	theirs := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: versions()[0]},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "custom.metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "monitoring", Name: "prometheus-adapter"},
		},
	}
	services := stage.apiServices.ApiregistrationV1().APIServices()
	_, err := services.Create(t.Context(), theirs, metav1.CreateOptions{})
	trial.Must(t, err)
	t.Cleanup(func() {
		trial.Must(t, services.Delete(context.WithoutCancel(t.Context()), versions()[0], metav1.DeleteOptions{}))
	})
	untouched := func() {
		t.Helper()
		is, err := services.Get(t.Context(), versions()[0], metav1.GetOptions{})
		trial.Must(t, err)
		if is.Spec.Service.Namespace != "monitoring" || is.Spec.Service.Name != "prometheus-adapter" || len(is.Labels) > 0 {
			t.Errorf("the APIService was changed: %+v", is)
		}
		if _, err := services.Get(t.Context(), versions()[1], metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("APIService %s would redirect every autoscaler from the other adapter: %v", versions()[1], err)
		}
	}
	want := []string{"APIService " + versions()[0] + " belongs to Service monitoring/prometheus-adapter", "metricsAdapter.mode=compose", "metricsAdapter.mode=none", "kubectl delete apiservice " + versions()[0]}
	for _, way := range ways() {
		refused(t, want, addonArgs("install", "--create-namespace", way)...)
		untouched()
		if left := leftBehind(t); len(left) > 0 {
			t.Errorf("a refused install leaves %v", left)
		}
		if got := releases(t, addonNamespace); len(got) > 0 {
			t.Errorf("a refused install leaves releases %v", got)
		}
	}

	// The solutions that the message names. With the other adapter, nothing takes over its API while no adapter runs, and Helm
	// never does.
	beside := func(name string) []string {
		return []string{"--set", "metricsAdapter.mode=compose", "--set", "metricsAdapter.compose.insecure=true",
			"--set", "metricsAdapter.compose.service.namespace=monitoring", "--set", "metricsAdapter.compose.service.name=" + name}
	}
	refused(t, []string{"belongs to Service monitoring/prometheus-adapter", "--set metricsAdapter.compose.service.name=prometheus-adapter"}, addonArgs("install", append(beside("other"), "--create-namespace")...)...)
	installAddon(t, beside("prometheus-adapter")...)
	untouched()
	helm(t, addonArgs("upgrade", append(beside("prometheus-adapter"), "--set-string", "image.tag=2")...)...)
	untouched()
	uninstallAddon(t)
	untouched()
	if left := leftBehind(t); len(left) > 0 {
		t.Errorf("an uninstall leaves %v", left)
	}

	installAddon(t, "--set", "metricsAdapter.mode=none")
	refused(t, want, addonArgs("upgrade", "--set", "metricsAdapter.mode=own")...)
	untouched()
	if diff := cmp.Diff(map[string]string{addon: "deployed"}, releases(t, addonNamespace)); diff != "" {
		t.Errorf("releases after a refused upgrade (-want +got):\n%s", diff)
	}
	uninstallAddon(t)
	untouched()
}

// releases lists those of a namespace, with their states.
func releases(t *testing.T, namespace string) map[string]string {
	t.Helper()
	var list []struct{ Name, Status string }
	trial.Must(t, json.Unmarshal([]byte(helm(t, "list", "-n", namespace, "-o", "json")), &list))
	states := map[string]string{}
	for _, r := range list {
		states[r.Name] = r.Status
	}
	return states
}

// TestOwnCertificate switches from selfRotate to the user's own certificate and back. The owner of caBundle changes from the
// adapter to the chart.
func TestOwnCertificate(t *testing.T) {
	const authority = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
	file := filepath.Join(t.TempDir(), "ca.crt")
	trial.Must(t, os.WriteFile(file, []byte(authority), 0o600))
	toOwn := addonArgs("upgrade", "--set", "tls.mode=existingSecret", "--set", "tls.existingSecret=own", "--set-file", "tls.caBundle="+file)
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			installAddon(t, way)
			before := adapterPublishes(t)
			if name == "ServerSide" {
				refused(t, []string{`conflict with "callguard-metrics-adapter"`, ".spec.caBundle"}, toOwn...)
				if diff := cmp.Diff(before, caBundles(t)); diff != "" {
					t.Errorf("an upgrade that failed changed caBundle (-before +after):\n%s", diff)
				}
				// Helm stopped half-way, as README.md says: new pods have a certificate that nobody trusts yet.
				d, err := stage.client.AppsV1().Deployments(addonNamespace).Get(t.Context(), "metrics-adapter", metav1.GetOptions{})
				trial.Must(t, err)
				if args := strings.Join(d.Spec.Template.Spec.Containers[0].Args, " "); !strings.Contains(args, "--tls-cert-file") {
					t.Errorf("the Deployment was not changed by the upgrade that failed, as README.md says: %s", args)
				}
				helm(t, append(toOwn, "--force-conflicts")...)
			} else {
				refused(t, []string{"forceConflicts enabled when serverSideApply disabled"}, append(toOwn, "--force-conflicts")...)
				helm(t, toOwn...)
			}
			own := map[string]string{versions()[0]: authority, versions()[1]: authority}
			if diff := cmp.Diff(own, caBundles(t)); diff != "" {
				t.Errorf("caBundle after the change (-want +got):\n%s", diff)
			}
			// Old replicas that still run cannot take it back, so later upgrades need no force.
			mayNotPublish(t)
			if name == "ClientSide" {
				uninstallAddon(t)
				return
			}
			helm(t, append(toOwn, "--set-string", "image.tag=3")...)
			if diff := cmp.Diff(own, caBundles(t)); diff != "" {
				t.Errorf("caBundle after the next upgrade (-want +got):\n%s", diff)
			}
			helm(t, "rollback", addon, "1", "-n", addonNamespace)
			adapterPublishes(t)
			uninstallAddon(t)
		})
	}
}

func mayNotPublish(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	k := keeper(t)
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	trial.Within(t, 20*time.Second, "the adapter may not write caBundle", func() error {
		if err := k.Published(); !apierrors.IsForbidden(errors.Unwrap(err)) && !strings.Contains(fmt.Sprint(err), "forbidden") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	stop()
	trial.Must(t, <-ended)
}

// TestElsewhere installs again, under another name. The remaining lookout still belongs to the former release, and the chart
// says how to transfer it.
func TestElsewhere(t *testing.T) {
	installAddon(t)
	uninstallAddon(t)
	elsewhere := []string{"install", "other", addonChart, "-n", "elsewhere", "--create-namespace"}
	const annotate = "annotate validatingadmissionpolicy,validatingadmissionpolicybinding callguard-lookout --overwrite meta.helm.sh/release-name=%s meta.helm.sh/release-namespace=%s"
	refused(t, []string{"left policy callguard-lookout", "kubectl " + fmt.Sprintf(annotate, "other", "elsewhere")}, elsewhere...)
	kubectl(t, "", strings.Fields(fmt.Sprintf(annotate, "other", "elsewhere"))...)
	helm(t, elsewhere...)
	helm(t, "uninstall", "other", "-n", "elsewhere", "--no-hooks")
	kubectl(t, "", strings.Fields(fmt.Sprintf(annotate, addon, addonNamespace))...)
}

// TestAddonValues applies what the chart renders with each of its ci values, as a server-side apply would, and misspells one.
func TestAddonValues(t *testing.T) {
	makeNamespace(t, addonNamespace, nil)
	for _, file := range ciValues(t, addonChart) {
		if file == "operators" {
			continue // it has kinds that are not part of Kubernetes
		}
		rendered := helm(t, "template", addon, addonChart, "-n", addonNamespace, "--no-hooks", "--dry-run=server", "-f", filepath.Join(addonChart, "ci", file+"-values.yaml"))
		kubectl(t, rendered, "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-") // the lookout is there
	}
	refused(t, []string{"at '/metricsAdapter': additional properties 'enabeld' not allowed"}, addonArgs("install", "--create-namespace", "--set", "metricsAdapter.enabeld=false")...)
	if got := releases(t, addonNamespace); len(got) > 0 {
		t.Errorf("a refused install leaves releases %v", got)
	}
}

// ciValues returns the names of a chart's ci/*-values.yaml.
func ciValues(t *testing.T, chart string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, chart, "ci", "*-values.yaml"))
	trial.Must(t, err)
	if len(files) == 0 {
		t.Fatalf("%s has no ci/*-values.yaml", chart)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), "-values.yaml"))
	}
	return names
}
