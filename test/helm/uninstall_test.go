// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/test/trial"
)

const unlockStep = "drain-guard-unlock"

// runs returns a command that runs drain-guard as an account of the add-on's namespace.
func runs(t *testing.T, account string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := program()
	trial.Must(t, err)
	kubeconfig, err := stage.cluster.ServiceAccountKubeconfig(t.Context(), addonNamespace, account)
	trial.Must(t, err)
	return exec.CommandContext(t.Context(), path, append(args, "--kubeconfig="+kubeconfig, "--namespace="+addonNamespace)...)
}

// guardLives starts a drain-guard, which keeps the budgets until the returned function ends it.
func guardLives(t *testing.T) (die func()) {
	t.Helper()
	ports, err := local.FreePorts(1)
	trial.Must(t, err)
	cmd := runs(t, leader.LeaseName, fmt.Sprintf("--bind-address=127.0.0.1:%d", ports[0]))
	trial.Must(t, cmd.Start())
	die = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // with the signal
	})
	t.Cleanup(die)
	return die
}

// guardedNamespace is an enabled namespace with a guarded pod and the budget that a running
// guard created.
func guardedNamespace(t *testing.T, name string) {
	t.Helper()
	makeNamespace(t, name, map[string]string{call.EnabledLabel: "true"})
	t.Cleanup(func() {
		err := stage.client.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	// Policies that were applied a moment ago may not be in effect yet, so a pod could be created without the budget.
	trial.Within(t, time.Minute, "the namespace has the guard's budget", func() error {
		_, err := stage.client.PolicyV1().PodDisruptionBudgets(name).Get(t.Context(), guard.BudgetName, metav1.GetOptions{})
		return err
	})
	trial.Within(t, time.Minute, "a guarded pod is created", func() error {
		_, err := stage.client.CoreV1().Pods(name).Create(t.Context(), guardedPod("agent"), metav1.CreateOptions{})
		return err
	})
	readyPods(t, name, call.GuardedLabel+"=true", 1)
	trial.Within(t, 20*time.Second, "no guarded pod is deleted", func() error {
		return saysDoor(stage.client.CoreV1().Pods(name).Delete(t.Context(), "agent", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), "callguard-delete")
	})
}

// lookoutIsOfARelease leaves the lookout behind as an uninstall does: a release can be
// installed only if the lookout belongs to it, or does not exist.
func lookoutIsOfARelease(t *testing.T) {
	t.Helper()
	_, err := stage.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), "callguard-lookout", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		installAddon(t)
		uninstallAddon(t)
		return
	}
	trial.Must(t, err)
}

// TestTemplateUnlocksNothing applies everything that `helm template` renders, including hooks,
// while a guard runs. Helm's uninstall hook is then an ordinary Job: it says that callguard is
// installed, and cannot do anything else.
func TestTemplateUnlocksNothing(t *testing.T) {
	lookoutIsOfARelease(t)
	makeNamespace(t, addonNamespace, nil)
	docs := objects(helm(t, "template", addon, addonChart, "-n", addonNamespace, "--dry-run=server"))
	var mine []string
	for _, doc := range docs {
		if !strings.Contains(doc, "callguard-lookout") {
			mine = append(mine, doc)
		}
	}
	all := strings.Join(mine, "\n---\n")
	// The Job may be created long before the rest.
	job := strings.Join(only(mine, "kind: Job", "kind: ServiceAccount", "name: callguard:drain-guard:unlock"), "\n---\n")
	kubectl(t, job, "apply", "--server-side", "-f", "-")
	trial.Within(t, 20*time.Second, "the Job's account has its rights", func() error {
		_, err := command(t.Context(), "", stage.kubectl, "auth", "can-i", "get", "deployments.apps", "-n", addonNamespace, "--as=system:serviceaccount:"+addonNamespace+":"+unlockStep)
		return err
	})
	first := runs(t, unlockStep, "unlock", "--after-uninstall")
	var said strings.Builder
	first.Stdout, first.Stderr = &said, &said
	trial.Must(t, first.Start())
	kubectl(t, all, "apply", "--server-side", "-f", "-")
	t.Cleanup(func() {
		_, err := command(context.WithoutCancel(t.Context()), all, stage.kubectl, "delete", "--ignore-not-found", "--wait=false", "-f", "-")
		trial.Must(t, err)
	})
	const ns = "calls-template"
	guardLives(t)
	guardedNamespace(t, ns)
	trial.Must(t, first.Wait())
	if !strings.Contains(said.String(), "callguard is installed") {
		t.Errorf("the Job that came first says %q", said.String())
	}

	leased := func() string {
		lease, err := stage.client.CoordinationV1().Leases(addonNamespace).Get(t.Context(), leader.LeaseName, metav1.GetOptions{})
		trial.Must(t, err)
		return *lease.Spec.HolderIdentity
	}
	holder, began := leased(), time.Now()
	out, err := runs(t, unlockStep, "unlock", "--after-uninstall").CombinedOutput()
	trial.Must(t, err)
	t.Logf("after %s the Job says: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(string(out)))
	if !strings.Contains(string(out), "callguard is installed") {
		t.Errorf("the Job says %q", out)
	}
	// Its account cannot do more with another command either.
	if out, err := runs(t, unlockStep, "unlock").CombinedOutput(); err == nil || !strings.Contains(string(out), "forbidden") {
		t.Errorf("the Job's account could unlock: %v %s", err, out)
	}
	if now := leased(); now != holder {
		t.Errorf("the lease is %s's; it was %s's", now, holder)
	}
	doorsRefuse(t, ns)
}

// only returns the documents that contain one of the texts.
func only(docs []string, texts ...string) (found []string) {
	for _, doc := range docs {
		for _, text := range texts {
			if strings.Contains(doc, text) {
				found = append(found, doc)
				break
			}
		}
	}
	return found
}

// TestUninstall uninstalls in every way and state, and measures how long budgets outlive it.
// Nothing of callguard may be left except the lookout.
func TestUninstall(t *testing.T) {
	lookoutIsOfARelease(t)
	deleteOwner := func(t *testing.T, ns string) {
		t.Helper()
		// A policy takes effect some time after it is created.
		trial.Within(t, 30*time.Second, "the budget cannot be deleted", func() error {
			return saysDoor(stage.client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), guard.BudgetName, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), "callguard-tamper-budget")
		})
		trial.Must(t, stage.client.RbacV1().ClusterRoles().Delete(t.Context(), guard.BudgetOwner, metav1.DeleteOptions{}))
	}
	cases := map[string]struct {
		reason string
		hooks  bool
		alive  bool // the guard runs during the uninstall
		before func(t *testing.T, namespace string)
		within time.Duration
	}{
		"Hooks":   {reason: "As an operator does.", hooks: true, alive: true, within: 30 * time.Second},
		"NoHooks": {reason: "Like a guard whose image cannot be pulled.", alive: true, within: 30 * time.Second},
		"Dead":    {reason: "Kubernetes alone frees the namespaces.", within: 30 * time.Second},
		"OwnerGone": {
			reason: "Somebody deleted the owner by accident: the collector was refused since, and tries ever more seldom.",
			before: func(t *testing.T, ns string) {
				t.Helper()
				deleteOwner(t, ns)
				refusedTimes(t, 11)
				doorsRefuse(t, ns)
			},
			within: 30 * time.Second,
		},
		"OwnerAnew": {
			reason: "The owner was replaced by force, as a sync does: the budgets are the new one's.", alive: true,
			before: func(t *testing.T, ns string) {
				t.Helper()
				owner, err := stage.client.RbacV1().ClusterRoles().Get(t.Context(), guard.BudgetOwner, metav1.GetOptions{})
				trial.Must(t, err)
				deleteOwner(t, ns)
				owner.ObjectMeta = metav1.ObjectMeta{Name: owner.Name, Labels: owner.Labels, Annotations: owner.Annotations}
				owner, err = stage.client.RbacV1().ClusterRoles().Create(t.Context(), owner, metav1.CreateOptions{})
				trial.Must(t, err)
				trial.Within(t, 20*time.Second, "the budget is the new owner's", func() error {
					is, err := stage.client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), guard.BudgetName, metav1.GetOptions{})
					if err != nil {
						return err
					}
					if len(is.OwnerReferences) != 1 || is.OwnerReferences[0].UID != owner.UID {
						return fmt.Errorf("it is %v's", is.OwnerReferences)
					}
					return nil
				})
				doorsRefuse(t, ns)
			},
			within: 30 * time.Second,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			installAddon(t)
			die := guardLives(t)
			ns := "calls-" + strings.ToLower(name)
			guardedNamespace(t, ns)
			if tc.before != nil {
				tc.before(t, ns)
			}
			if !tc.alive {
				die()
			}
			began := time.Now()
			ended := make(chan error, 1)
			if tc.hooks {
				go func() { ended <- playUnlockStep(t.Context(), t) }()
				helm(t, "uninstall", addon, "-n", addonNamespace)
				trial.Must(t, <-ended)
			} else {
				uninstallAddon(t)
			}
			uninstalled := time.Since(began)
			trial.Within(t, tc.within, "no budget is left", func() error {
				_, err := stage.client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), guard.BudgetName, metav1.GetOptions{})
				return gone(err)
			})
			t.Logf("%s The uninstall took %s, the budget was gone after %s", tc.reason, uninstalled.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			if left := leftBehind(t); len(left) > 0 {
				t.Errorf("an uninstall leaves %v", left)
			}
			trial.Within(t, 20*time.Second, "the pod is an ordinary one", func() error {
				if got := evict(t, ns, "agent", metav1.DryRunAll); got != 201 {
					return fmt.Errorf("its eviction is answered %d", got)
				}
				return nil
			})
		})
	}
}

// refusedTimes waits until the garbage collector was refused this many more times.
func refusedTimes(t *testing.T, n int) {
	t.Helper()
	log := filepath.Join(stage.cluster.Dir(), "logs", "kube-controller-manager.log")
	count := func() int {
		out, _ := exec.CommandContext(t.Context(), "grep", "-c", "callguard-tamper-budget", log).Output() // none is an error
		c := 0
		_, _ = fmt.Sscan(string(out), &c) // none is none
		return c
	}
	before := count()
	trial.Within(t, 2*time.Minute, fmt.Sprintf("the collector was refused %d times", n), func() error {
		if c := count() - before; c < n {
			return fmt.Errorf("%d times", c)
		}
		return nil
	})
}

// playUnlockStep does what a node would do with the uninstall Job: it runs the Job's command as
// its account, and reports that its pod has succeeded.
func playUnlockStep(ctx context.Context, t *testing.T) error {
	t.Helper()
	jobs := stage.client.BatchV1().Jobs(addonNamespace)
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := jobs.Get(ctx, unlockStep, metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("the uninstall makes no Job %s: %w", unlockStep, err)
	}
	path, err := program()
	if err != nil {
		return err
	}
	kubeconfig, err := stage.cluster.ServiceAccountKubeconfig(ctx, addonNamespace, unlockStep)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, "unlock", "--after-uninstall", "--kubeconfig="+kubeconfig, "--namespace="+addonNamespace).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "unlocked, for callguard was uninstalled") {
		return fmt.Errorf("the Job says %q: %w", out, errors.Join(err, errors.New("want it to unlock")))
	}
	t.Logf("the Job says: %s", strings.TrimSpace(string(out)))
	status, err := json.Marshal(map[string]any{"status": map[string]any{"phase": corev1.PodSucceeded}})
	if err != nil {
		return err
	}
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := stage.client.CoreV1().Pods(addonNamespace).List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + unlockStep})
		if err != nil {
			return false, err
		}
		for _, pod := range list.Items {
			_, err := stage.client.CoreV1().Pods(addonNamespace).Patch(ctx, pod.Name, types.MergePatchType, status, metav1.PatchOptions{}, "status")
			if ignoreNotFound(err) != nil {
				return false, err
			}
		}
		_, err = jobs.Get(ctx, unlockStep, metav1.GetOptions{})
		return apierrors.IsNotFound(err), ignoreNotFound(err) // Helm deletes the Job after it has succeeded
	})
	if err != nil {
		return fmt.Errorf("helm does not see that the Job succeeded: %w", err)
	}
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
