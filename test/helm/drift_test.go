// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/trial"
)

// comparisons are the ways in which tools for GitOps look for drift, as kubectl diff has them. Flux compares what a dry run of
// server-side apply would make; Argo CD does so with ServerSideDiff, and else merges three ways as kubectl apply does.
func comparisons() map[string][]string {
	return map[string][]string{
		"server-side": {"--server-side", "--force-conflicts", "--field-manager=helm"},
		"three-way":   {"--server-side=false"},
	}
}

// drift is how the objects of a release differ from what Helm wrote; empty if they do not.
func drift(t *testing.T, release, namespace, way string) string {
	t.Helper()
	manifest := helm(t, "get", "manifest", release, "-n", namespace)
	// Helm adds these when it writes, and so do the tools.
	manifest = kubectl(t, manifest, "annotate", "--local", "-f", "-", "-o", "yaml", "meta.helm.sh/release-name="+release, "meta.helm.sh/release-namespace="+namespace)
	out, err := command(t.Context(), manifest, stage.kubectl, append([]string{"diff", "-f", "-"}, comparisons()[way]...)...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 { // kubectl's word for differences
		return out
	}
	trial.Must(t, err)
	return ""
}

// noDrift wants both releases to be as Helm wrote them.
func noDrift(t *testing.T, when string, voice release) {
	t.Helper()
	for way := range comparisons() {
		for name, namespace := range map[string]string{addon: addonNamespace, voice.name: voice.namespace} {
			if found := drift(t, name, namespace, way); found != "" {
				t.Errorf("%s, a %s comparison finds drift in release %s:\n%s", when, way, name, found)
			}
		}
	}
}

// TestNothingDrifts: whatever drain-guard, metrics-adapter and autoscalers write in a cluster, a tool that compares it with Git
// finds nothing to set back. Otherwise it would undo their work again and again.
func TestNothingDrifts(t *testing.T) {
	installAddon(t, "--set", "networkPolicy.enabled=true")
	guardLives(t)
	r := release{namespace: "drift", name: "voice", file: "default"}
	makeNamespace(t, r.namespace, map[string]string{call.EnabledLabel: "true"})
	mcp := `mcpServers={"crm":{"image":{"repository":"registry.example.com/crm","tag":"2"}}}`
	helm(t, r.args("install", "--set-json", mcp, "--set", "networkPolicy.enabled=true")...)

	adapterPublishes(t)
	readyPods(t, r.namespace, agentSelector, 2) // which the guard's budget lets be born
	r.scale(t, 4)
	readyPods(t, r.namespace, agentSelector, 4)
	noDrift(t, "after a scale-up", r)

	helm(t, addonArgs("upgrade", "--reuse-values", "--set-string", "image.tag=2")...)
	helm(t, r.args("upgrade", "--reuse-values", "--set-string", "agent.image.tag=2.0.0")...)
	noDrift(t, "in a rollout", r)
	r.agents(t, "2.0.0", 4)

	// What nobody's program writes is found.
	kubectl(t, "", "label", "deployment", "drain-guard", "-n", addonNamespace, "app.kubernetes.io/part-of=somebody", "--overwrite")
	for way := range comparisons() {
		if found := drift(t, addon, addonNamespace, way); !strings.Contains(found, "part-of: somebody") {
			t.Errorf("a %s comparison does not find that a label was changed:\n%s", way, found)
		}
	}

	// A tool prunes what has its labels and no owner.
	budget, err := stage.client.PolicyV1().PodDisruptionBudgets(r.namespace).Get(t.Context(), guard.BudgetName, metav1.GetOptions{})
	trial.Must(t, err)
	owned(t, budget)
	uninstallAddon(t)
	trial.Must(t, stage.client.CoreV1().Namespaces().Delete(t.Context(), r.namespace, metav1.DeleteOptions{}))
}

// owned wants a budget that has an owner, and no label by which tools know what is theirs.
func owned(t *testing.T, budget *policyv1.PodDisruptionBudget) {
	t.Helper()
	for _, label := range []string{"app.kubernetes.io/instance", "helm.toolkit.fluxcd.io/name"} {
		if value := budget.Labels[label]; value != "" {
			t.Errorf("the budget has label %s: %s", label, value)
		}
	}
	if len(budget.OwnerReferences) != 1 {
		t.Errorf("the budget's owners are %v; want one", budget.OwnerReferences)
	}
}
