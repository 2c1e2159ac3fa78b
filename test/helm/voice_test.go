// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/callguard/callguard/test/trial"
)

const (
	voiceChart    = "charts/voice-agent"
	agentSelector = "app.kubernetes.io/component=agent"
	// fixed is a number of agents that the chart renders, because no autoscaler sets it.
	fixed = "agent.autoscaling.enabled=false"
)

// release is a release of charts/voice-agent, in its test's namespace.
type release struct{ namespace, name, file string }

// voice waits for its turn among the parallel tests and returns a release to install.
func voice(t *testing.T) release {
	t.Helper()
	t.Parallel()
	trial.Must(t, theAddon())
	namespace := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	makeNamespace(t, namespace, nil)
	// No guard runs that would create a budget, so an administrator declares that calls are not protected here.
	kubectl(t, "", "annotate", "namespace", namespace, "callguard.dev/disable=true", "--overwrite")
	return release{namespace: namespace, name: "voice", file: "default"}
}

func (r release) args(verb string, more ...string) []string {
	return append([]string{verb, r.name, voiceChart, "-n", r.namespace, "-f", filepath.Join(voiceChart, "ci", r.file+"-values.yaml")}, more...)
}

func (r release) agent() string { return r.name + "-voice-agent-agent" }

func (r release) deployment(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	d, err := stage.client.AppsV1().Deployments(r.namespace).Get(t.Context(), name, metav1.GetOptions{})
	trial.Must(t, err)
	return d
}

// agents waits for this many replicas of an image.
func (r release) agents(t *testing.T, image string, replicas int32) {
	t.Helper()
	d := r.deployment(t, r.agent())
	got := fmt.Sprintf("%d of %s", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image)
	if want := fmt.Sprintf("%d of registry.example.com/agent:%s", replicas, image); got != want {
		t.Errorf("the Deployment wants %s; want %s", got, want)
	}
}

// scale does what the autoscaler does, as its account.
func (r release) scale(t *testing.T, replicas int32) {
	t.Helper()
	_, err := stage.client.AppsV1().Deployments(r.namespace).UpdateScale(t.Context(), r.agent(), &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: r.agent()}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas},
	}, metav1.UpdateOptions{FieldManager: "kube-controller-manager"})
	trial.Must(t, err)
}

// method is how Helm writes the release: ssa, by server-side apply, or csa, client-side.
func (r release) method(t *testing.T) string {
	t.Helper()
	var said struct{ ApplyMethod string }
	trial.Must(t, json.Unmarshal([]byte(helm(t, "get", "metadata", r.name, "-n", r.namespace, "-o", "json")), &said))
	return said.ApplyMethod
}

// TestUpgradeAfterScale: the autoscaler sets the number of agents. Upgrades and rollbacks neither conflict with it nor
// reset it.
func TestUpgradeAfterScale(t *testing.T) {
	r := voice(t)
	helm(t, r.args("install", "--wait", "--timeout", "2m")...)
	readyPods(t, r.namespace, agentSelector, 2) // minReplicas, with no metric at all
	r.scale(t, 7)
	helm(t, r.args("upgrade", "--set-string", "agent.image.tag=2.0.0", "--wait", "--timeout", "2m")...)
	r.agents(t, "2.0.0", 7)
	helm(t, "rollback", r.name, "1", "-n", r.namespace, "--wait", "--timeout", "2m")
	r.agents(t, "1.0.0", 7)
}

// TestUpgradeFromClientSide: a release of Helm 3, or of --server-side=false, stays so until the user changes it, and the
// number of agents is kept at each step.
func TestUpgradeFromClientSide(t *testing.T) {
	r := voice(t)
	helm(t, r.args("install", "--server-side=false")...)
	readyPods(t, r.namespace, agentSelector, 2)
	r.scale(t, 7)
	helm(t, r.args("upgrade", "--set-string", "agent.image.tag=2.0.0")...)
	r.agents(t, "2.0.0", 7)
	if got := r.method(t); got != "csa" {
		t.Errorf("the release is written by %s; want csa until it is changed", got)
	}
	helm(t, r.args("upgrade", "--server-side=true", "--set-string", "agent.image.tag=3.0.0")...)
	r.agents(t, "3.0.0", 7)
	if got := r.method(t); got != "ssa" {
		t.Errorf("the release is written by %s; want ssa", got)
	}
	helm(t, r.args("upgrade", "--set-string", "agent.image.tag=4.0.0")...)
	r.agents(t, "4.0.0", 7)
}

// TestFixedNumber: what README.md says about a number of agents that the chart renders and somebody else changes.
func TestFixedNumber(t *testing.T) {
	r := voice(t)
	helm(t, r.args("install", "--set", fixed)...)
	r.scale(t, 7)
	refused(t, []string{`conflict with "kube-controller-manager" with subresource "scale"`, ".spec.replicas"},
		r.args("upgrade", "--set", fixed, "--set-string", "agent.image.tag=2.0.0")...)
	r.agents(t, "1.0.0", 7)
	helm(t, r.args("upgrade", "--set-string", "agent.image.tag=2.0.0")...) // the autoscaler takes over
	r.agents(t, "2.0.0", 7)
}

// TestHandOver turns autoscaling on in a release that rendered the number.
func TestHandOver(t *testing.T) {
	// An autoscaler of another owner; the chart's would soon scale it to its minimum.
	const external = "agent.autoscaling.external=true"
	t.Run("Without", func(t *testing.T) {
		r := voice(t)
		helm(t, r.args("install", "--set", fixed, "--set", "agent.replicas=6")...)
		helm(t, r.args("upgrade", "--set", external)...)
		r.agents(t, "1.0.0", 1)
	})
	t.Run("AsDocumented", func(t *testing.T) {
		r := voice(t)
		command, object := documentedHandOver(t)
		object = strings.ReplaceAll(object, "namespace: voice", "namespace: "+r.namespace)
		helm(t, r.args("install", "--set", fixed, "--set", "agent.replicas=6")...)
		kubectl(t, object, command...)
		helm(t, r.args("upgrade", "--set", external)...)
		r.agents(t, "1.0.0", 6)
		r.scale(t, 9)
		helm(t, r.args("upgrade", "--set-string", "agent.image.tag=2.0.0")...)
		r.agents(t, "2.0.0", 9)
	})
}

// documentedHandOver is the command in README.md, and the objects it reads.
func documentedHandOver(t *testing.T) (command []string, object string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, voiceChart, "README.md"))
	trial.Must(t, err)
	_, rest, found := strings.Cut(string(text), "\nkubectl apply --server-side --field-manager=handover")
	line, rest, _ := strings.Cut(rest, " <<'Y'\n")
	object, _, ended := strings.Cut(rest, "\nY\n")
	if !found || !ended {
		t.Fatalf("README.md of %s has no command that hands the number over", voiceChart)
	}
	return append([]string{"apply", "--server-side", "--field-manager=handover"}, strings.Fields(line)...), object
}

// TestSideBySide installs two releases whose names could collide in one namespace, one of them with a PodDisruptionBudget
// for its agents.
func TestSideBySide(t *testing.T) {
	one := voice(t)
	one.file = "unguarded"
	two := release{namespace: one.namespace, name: "voice-voice-agent", file: "default"}
	helm(t, one.args("install")...)
	helm(t, two.args("install")...)
	readyPods(t, one.namespace, agentSelector+",app.kubernetes.io/instance="+one.name, 3)
	readyPods(t, two.namespace, agentSelector+",app.kubernetes.io/instance="+two.name, 2)
	budgets, err := stage.client.PolicyV1().PodDisruptionBudgets(one.namespace).List(t.Context(), metav1.ListOptions{})
	trial.Must(t, err)
	pods, err := stage.client.CoreV1().Pods(one.namespace).List(t.Context(), metav1.ListOptions{})
	trial.Must(t, err)
	for _, pod := range pods.Items {
		for _, b := range budgets.Items {
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			trial.Must(t, err)
			if selector.Matches(labels.Set(pod.Labels)) && b.Labels["app.kubernetes.io/instance"] != pod.Labels["app.kubernetes.io/instance"] {
				t.Errorf("PodDisruptionBudget %s holds pod %s of the other release", b.Name, pod.Name)
			}
		}
		if got := evict(t, one.namespace, pod.Name, metav1.DryRunAll); got != 201 && got != 429 {
			t.Errorf("the eviction of pod %s is answered %d; want 201 or 429: on anything else kubectl drain gives up", pod.Name, got)
		}
	}
	helm(t, "uninstall", two.name, "-n", two.namespace)
	readyPods(t, one.namespace, agentSelector, 3)
}

// TestLongestName: Helm allows 53 characters, and Services 63.
func TestLongestName(t *testing.T) {
	r := voice(t)
	r.name = strings.Repeat("longest-", 6) + "name1"
	if len(r.name) != 53 {
		t.Fatalf("the name has %d characters; want 53", len(r.name))
	}
	helm(t, r.args("install")...)
	readyPods(t, r.namespace, agentSelector+",app.kubernetes.io/instance="+r.name, 2)
	helm(t, r.args("upgrade", "--set-string", "agent.image.tag=2.0.0")...)
	refused(t, []string{"invalid release name"}, release{r.namespace, r.name + "1", r.file}.args("install")...)
}

// TestRefusedInstall: if values cannot be right, nothing is sent, and no release is left.
func TestRefusedInstall(t *testing.T) {
	r := voice(t)
	for value, want := range map[string]string{
		"agent.image.tag=1234567": `agent.image.tag is the number 1234567, and a tag is text; write tag: "1234567", or --set-string agent.image.tag=1234567`,
		"agnet.replicas=2":        "additional properties 'agnet' not allowed",
		"agent.imgae.tag=x":       "at '/agent': additional properties 'imgae' not allowed",
		"agent.image.tga=x":       "at '/agent/image': additional properties 'tga' not allowed",
		"image.tag=3f9c2ab":       "image.tag is not a value of this chart; use agent.image.tag: agent, worker, LiveKit and MCP servers have an image each",
		"agent.minReplicas=3":     "agent.minReplicas is not a value of this chart; use agent.autoscaling.minReplicas",
		"livekit.apiSecret=short": "livekit.apiSecret has 5 characters, fewer than the 32 that LiveKit asks for; make one with `openssl rand -hex 32`",
	} {
		refused(t, []string{want}, r.args("install", "--set", value)...)
	}
	if got := releases(t, r.namespace); len(got) > 0 {
		t.Errorf("refused installs leave releases %v", got)
	}
	helm(t, r.args("install", "--set-string", "agent.image.tag=1234567")...)
	if got := r.deployment(t, r.agent()).Spec.Template.Spec.Containers[0].Image; got != "registry.example.com/agent:1234567" {
		t.Errorf("the agent runs %s; want the tag as it was written", got)
	}
}

// TestNoValueChangesASelector: selectors are immutable, so an upgrade that changed one would fail. Each upgrade here has
// other values, the last one another version of the chart.
func TestNoValueChangesASelector(t *testing.T) {
	r := voice(t)
	helm(t, r.args("install")...)
	before := r.selectors(t)
	if len(before) != 3 {
		t.Fatalf("%d Deployments; want agent, worker and livekit: %v", len(before), before)
	}
	check := func(after string) {
		t.Helper()
		now := r.selectors(t)
		for name, was := range before {
			if is, there := now[name]; there && is != was {
				t.Errorf("%s: the selector of %s is %s; it was %s", after, name, is, was)
			}
		}
	}
	for _, r.file = range []string{"full", "unguarded"} {
		helm(t, r.args("upgrade", "--force-conflicts")...) // the removed autoscaler has set LiveKit's replicas, and may do so once more
		check(r.file)
	}
	next := filepath.Join(t.TempDir(), "voice-agent")
	trial.Must(t, os.CopyFS(next, os.DirFS(filepath.Join(repository, voiceChart))))
	about, err := os.ReadFile(filepath.Join(next, "Chart.yaml"))
	trial.Must(t, err)
	newer := strings.Replace(string(about), "\nversion: ", "\nversion: 9", 1)
	trial.Must(t, os.WriteFile(filepath.Join(next, "Chart.yaml"), []byte(newer), 0o600))
	args := r.args("upgrade", "--force-conflicts")
	args[slices.Index(args, voiceChart)] = next
	helm(t, args...)
	check("another version")
	if got := r.deployment(t, r.agent()).Labels["helm.sh/chart"]; !strings.HasPrefix(got, "voice-agent-9") {
		t.Errorf("label helm.sh/chart is %s; want that of the other version", got)
	}
}

// selectors of the Deployments, by name.
func (r release) selectors(t *testing.T) map[string]string {
	t.Helper()
	list, err := stage.client.AppsV1().Deployments(r.namespace).List(t.Context(), metav1.ListOptions{})
	trial.Must(t, err)
	found := map[string]string{}
	for _, d := range list.Items {
		found[d.Name] = metav1.FormatLabelSelector(d.Spec.Selector)
	}
	return found
}

// TestBudgetWithoutCallguard: with callguard.enabled=false a PodDisruptionBudget keeps one agent, and does not treat
// agents that are not ready as idle.
func TestBudgetWithoutCallguard(t *testing.T) {
	r := voice(t)
	r.file = "unguarded"
	helm(t, r.args("install")...)
	pods := readyPods(t, r.namespace, agentSelector, 3)
	// No replacement may be created, so that only the budget matters.
	_, err := stage.client.CoreV1().ResourceQuotas(r.namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "no-more-pods"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: {}}},
	}, metav1.CreateOptions{})
	trial.Must(t, err)
	r.allows(t, 2, 3)

	for i := range pods {
		r.setReady(t, pods[i].Name, corev1.ConditionFalse)
	}
	r.allows(t, 0, 0)
	for _, pod := range pods {
		if got := evict(t, r.namespace, pod.Name); got != 429 {
			t.Errorf("no agent is ready, and the eviction of one is answered %d; want 429", got)
		}
	}
	for i := range pods {
		r.setReady(t, pods[i].Name, corev1.ConditionTrue)
	}
	r.allows(t, 2, 3)
	var answers []int
	for _, pod := range pods {
		answers = append(answers, evict(t, r.namespace, pod.Name))
	}
	if diff := cmp.Diff([]int{201, 201, 429}, answers); diff != "" {
		t.Errorf("the evictions of three agents (-want +got):\n%s", diff)
	}
}

// allows waits until the agents' budget allows this many evictions, and has seen that so many of them are ready: as long as it
// counts enough of those, it lets others be evicted without counting them.
func (r release) allows(t *testing.T, n, ready int32) {
	t.Helper()
	trial.Within(t, 20*time.Second, fmt.Sprintf("the budget allows %d evictions", n), func() error {
		b, err := stage.client.PolicyV1().PodDisruptionBudgets(r.namespace).Get(t.Context(), r.agent(), metav1.GetOptions{})
		if err == nil && (b.Status.DisruptionsAllowed != n || b.Status.CurrentHealthy != ready || b.Status.ExpectedPods != 3 || b.Status.ObservedGeneration != b.Generation) {
			err = fmt.Errorf("its status is %+v", b.Status)
		}
		return err
	})
}

// setReady does what the kubelet does.
func (r release) setReady(t *testing.T, name string, ready corev1.ConditionStatus) {
	t.Helper()
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q},{"type":"ContainersReady","status":%q}]}}`, ready, ready)
	_, err := stage.client.CoreV1().Pods(r.namespace).Patch(t.Context(), name, "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
	trial.Must(t, err)
}

// TestServerTakesEveryObject: Helm's dry run does not show what a server-side apply refuses, such as a duplicate name in
// an environment; this does.
func TestServerTakesEveryObject(t *testing.T) {
	r := voice(t)
	var rendered string
	for _, r.file = range ciValues(t, voiceChart) {
		if r.file == "operators" {
			continue // The server does not have their kinds; test/charts checks these.
		}
		rendered = helm(t, r.args("template")...)
		makeAccounts(t, rendered)
		kubectl(t, rendered, "apply", "--server-side", "--dry-run=server", "-f", "-")
	}
	for mistake, want := range map[string]string{
		"- {name: ANNOTATIONS, value: x}\n${0}": `duplicate entries for key [name="ANNOTATIONS"]`,
		"- {naem: OTHER, value: x}\n${0}":       "naem: field not declared in schema",
	} {
		line := regexp.MustCompile(`(?m)^( +)- name: ANNOTATIONS$`)
		wrong := line.ReplaceAllString(rendered, "${1}"+mistake)
		if _, err := command(t.Context(), wrong, stage.kubectl, "apply", "--server-side", "--dry-run=server", "-f", "-"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the server does not refuse %q with %q: %v", mistake, want, err)
		}
	}
}

// makeAccounts creates the rendered accounts: the server accepts no pod without its account, not even in a dry run.
func makeAccounts(t *testing.T, rendered string) {
	t.Helper()
	for document := range strings.SplitSeq(rendered, "\n---\n") {
		if strings.Contains(document, "\nkind: ServiceAccount\n") {
			kubectl(t, document, "apply", "--server-side", "--force-conflicts", "-f", "-")
		}
	}
}

// TestSetEnv: kubectl owns a variable that it has set, so upgrades and rollbacks conflict with it; --force-conflicts takes
// back what the chart renders, and keeps what it does not render, as README.md says.
func TestSetEnv(t *testing.T) {
	r := voice(t)
	helm(t, r.args("install")...)
	helm(t, r.args("upgrade", "--set", "openai.voice=cedar")...)
	voices := func() string {
		var found []string
		for _, e := range r.deployment(t, r.agent()).Spec.Template.Spec.Containers[0].Env {
			if e.Name == "OPENAI_VOICE" || e.Name == "OF_MINE" {
				found = append(found, e.Name+"="+e.Value)
			}
		}
		slices.Sort(found)
		return strings.Join(found, " ")
	}
	setEnv := func() {
		kubectl(t, "", "set", "env", "deployment/"+r.agent(), "-n", r.namespace, "OPENAI_VOICE=alloy", "OF_MINE=1")
		if got, want := voices(), "OF_MINE=1 OPENAI_VOICE=alloy"; got != want {
			t.Fatalf("after kubectl set env the agent has %s; want %s", got, want)
		}
	}
	setEnv()
	refused(t, []string{"conflict", "OPENAI_VOICE"}, r.args("upgrade", "--set", "openai.voice=cedar")...)
	helm(t, r.args("upgrade", "--set", "openai.voice=cedar", "--force-conflicts")...)
	if got, want := voices(), "OF_MINE=1 OPENAI_VOICE=cedar"; got != want {
		t.Errorf("after the upgrade the agent has %s; want %s", got, want)
	}
	setEnv()
	refused(t, []string{"conflict", "OPENAI_VOICE"}, "rollback", r.name, "1", "-n", r.namespace)
	helm(t, "rollback", r.name, "1", "-n", r.namespace, "--force-conflicts")
	if got, want := voices(), "OF_MINE=1 OPENAI_VOICE=marin"; got != want {
		t.Errorf("after the rollback the agent has %s; want %s", got, want)
	}
	kubectl(t, "", "set", "env", "deployment/"+r.agent(), "-n", r.namespace, "OF_MINE-")
	if got, want := voices(), "OPENAI_VOICE=marin"; got != want {
		t.Errorf("after kubectl set env OF_MINE- the agent has %s; want %s", got, want)
	}
}

// TestRestricted: pods start in a namespace that enforces the pod security standard "restricted".
func TestRestricted(t *testing.T) {
	r := voice(t)
	kubectl(t, "", "label", "namespace", r.namespace, "pod-security.kubernetes.io/enforce=restricted")
	helm(t, r.args("install", "--wait", "--timeout", "2m")...)
	readyPods(t, r.namespace, agentSelector, 2)
}

// TestNoNumbers: OpenShift's rule, as a policy: pods that set a user or a group by number are refused.
func TestNoNumbers(t *testing.T) {
	r := voice(t)
	kubectl(t, "", "label", "namespace", r.namespace, "numbers=refused")
	kubectl(t, `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-numbers}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {numbers: refused}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  variables:
  - name: pod
    expression: object.spec.template.spec
  - name: all
    expression: "variables.pod.containers + (has(variables.pod.initContainers) ? variables.pod.initContainers : [])"
  validations:
  - expression: "!has(variables.pod.securityContext.runAsUser) && !has(variables.pod.securityContext.fsGroup) &&
      variables.all.all(c, !has(c.securityContext.runAsUser) && !has(c.securityContext.runAsGroup))"
    message: a user or group has a number
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-numbers}
spec: {policyName: no-numbers, validationActions: [Deny]}
`, "apply", "-f", "-")
	t.Cleanup(func() {
		for _, kind := range []string{"validatingadmissionpolicybinding", "validatingadmissionpolicy"} {
			if _, err := command(context.WithoutCancel(t.Context()), "", stage.kubectl, "delete", kind, "no-numbers"); err != nil {
				t.Error(err)
			}
		}
	})
	rendered := helm(t, r.args("template")...)
	trial.Within(t, 30*time.Second, "the policy is in force", func() error {
		_, err := command(t.Context(), rendered, stage.kubectl, "apply", "--dry-run=server", "-n", r.namespace, "-f", "-")
		if err == nil {
			return errors.New("numbers are let through")
		}
		if !strings.Contains(err.Error(), "a user or group has a number") {
			return err
		}
		return nil
	})
	for _, r.file = range []string{"default", "full"} {
		rendered := helm(t, r.args("template", "--set", "openshift=true")...)
		makeAccounts(t, rendered)
		kubectl(t, rendered, "apply", "--server-side", "--dry-run=server", "-f", "-")
	}
}
