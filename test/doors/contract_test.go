// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// TestDoorsAreAsRendered checks what the guard relies on to notice that a policy was changed.
func TestDoorsAreAsRendered(t *testing.T) {
	doors, err := manifests.Parse(manifests.DefaultValues())
	trial.Must(t, err)
	api, ctx := stage.admin.AdmissionregistrationV1(), t.Context()
	same := func(kind, name string, want, got any, err error) {
		t.Helper()
		trial.Must(t, err)
		if !equality.Semantic.DeepEqual(want, got) {
			t.Errorf("%s %s is stored differently than rendered: add what the API server adds. -rendered, +stored:\n%s", kind, name, cmp.Diff(want, got))
		}
	}
	for _, want := range doors.Policies {
		got, err := api.ValidatingAdmissionPolicies().Get(ctx, want.Name, metav1.GetOptions{})
		same("policy", want.Name, want.Spec, got.Spec, err)
		trial.Must(t, eventually(ctx, "policy "+want.Name+" is checked", func() (bool, error) {
			got, err = api.ValidatingAdmissionPolicies().Get(ctx, want.Name, metav1.GetOptions{})
			return err == nil && got.Status.TypeChecking != nil, err
		}))
		for _, w := range got.Status.TypeChecking.ExpressionWarnings {
			t.Errorf("the API server warns about policy %s: %s: %s", want.Name, w.FieldRef, w.Warning)
		}
	}
	for _, want := range doors.Bindings {
		got, err := api.ValidatingAdmissionPolicyBindings().Get(ctx, want.Name, metav1.GetOptions{})
		same("binding", want.Name, want.Spec, got.Spec, err)
	}
	if !stage.keepsGraces {
		doors.MutatingPolicies, doors.MutatingBindings = nil, nil
	}
	for _, want := range doors.MutatingPolicies {
		got, err := api.MutatingAdmissionPolicies().Get(ctx, want.Name, metav1.GetOptions{})
		same("mutating policy", want.Name, want.Spec, got.Spec, err)
	}
	for _, want := range doors.MutatingBindings {
		got, err := api.MutatingAdmissionPolicyBindings().Get(ctx, want.Name, metav1.GetOptions{})
		same("mutating binding", want.Name, want.Spec, got.Spec, err)
	}
	class, err := stage.admin.SchedulingV1().PriorityClasses().Get(ctx, doors.PriorityClass.Name, metav1.GetOptions{})
	trial.Must(t, err)
	same("PriorityClass", doors.PriorityClass.Name, doors.PriorityClass.Value, class.Value, nil)
	owner, err := stage.admin.RbacV1().ClusterRoles().Get(ctx, doors.BudgetOwner.Name, metav1.GetOptions{})
	trial.Must(t, err)
	if len(owner.Rules) > 0 || owner.AggregationRule != nil {
		t.Errorf("the owner of the budgets grants %v", owner.Rules)
	}
}

// TestElsewhere shows that the label of a pod means nothing if no administrator enabled its namespace.
func TestElsewhere(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "elsewhere", map[string]string{call.EnabledLabel: "false"})
	pod := agentPod("serving")
	pod.Labels[call.ReleasedLabel] = "drain"
	pod.Annotations = map[string]string{call.DrainingAnnotation: "x"}
	pod.Spec.PriorityClassName = ""
	create(t, ns, pod) // without a budget, and released
	pods := stage.as(editor()).CoreV1().Pods(ns)
	now := int64(1)
	live := get(t, ns, "serving")
	delete(live.Labels, call.ReleasedLabel)
	live.Labels[call.GuardedLabel] = "false"
	live.Spec.Containers[0].Image = "agent:next"
	_, err := pods.Update(ctx, live, metav1.UpdateOptions{DryRun: dry()})
	expect(t, "tampering", allowed, err)
	expect(t, "deleting without grace", allowed, pods.Delete(ctx, "serving", metav1.DeleteOptions{DryRun: dry(), GracePeriodSeconds: &now}))
	_, err = stage.as(editor()).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget(), metav1.CreateOptions{DryRun: dry()})
	expect(t, "a budget of that name", allowed, err)
	trial.Must(t, evict(t, editor(), ns, "serving", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	if got := get(t, ns, "serving").DeletionGracePeriodSeconds; got == nil || *got != 1 {
		t.Errorf("the grace period of an eviction was changed to %v", got)
	}
}

// TestEditRole tries, as a member of the namespace's team, every way out. The policies or missing rights stop whoever may edit.
func TestEditRole(t *testing.T) {
	ns := enabled(t, "team")
	serving(t, ns, "serving")
	ctx := t.Context()
	member, lead := identity{"member of the team", "mary", nil}, identity{"lead of the team", "lea", nil}
	bind(t, ns, "edit", member)
	bind(t, ns, "admin", lead)
	now := int64(0)
	merge := func(id identity, patch string, sub ...string) error {
		_, err := stage.as(id).CoreV1().Pods(ns).Patch(ctx, "serving", types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dry()}, sub...)
		return err
	}
	cases := map[string]struct {
		try  func(identity) error
		want string // of the answer
	}{
		"Delete": {func(id identity) error {
			return stage.as(id).CoreV1().Pods(ns).Delete(ctx, "serving", metav1.DeleteOptions{DryRun: dry()})
		}, "callguard-delete: "},
		"Force": {func(id identity) error {
			return stage.as(id).CoreV1().Pods(ns).Delete(ctx, "serving", metav1.DeleteOptions{DryRun: dry(), GracePeriodSeconds: &now})
		}, "callguard-delete: "},
		"Evict": {func(id identity) error { return evict(t, id, ns, "serving", metav1.DeleteOptions{DryRun: dry()}) }, tooMany},
		"Release": {func(id identity) error {
			return merge(id, `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`)
		}, "callguard-tamper-pods: "},
		"Unguard":  {func(id identity) error { return merge(id, `{"metadata":{"labels":{"callguard.dev/guarded":null}}}`) }, "callguard-tamper-pods: "},
		"Deadline": {func(id identity) error { return merge(id, `{"spec":{"activeDeadlineSeconds":1}}`) }, "callguard-tamper-pods: "},
		"ReleaseByStatus": {func(id identity) error {
			return merge(id, `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`, "status")
		}, "cannot patch"},
		"Phase": {func(id identity) error { return merge(id, `{"status":{"phase":"Failed"}}`, "status") }, "cannot patch"},
		"Resize": {func(id identity) error {
			return merge(id, `{"spec":{"containers":[{"name":"agent","resources":{"requests":{"cpu":"1"}}}]}}`, "resize")
		}, "cannot patch"},
		"Bind": {func(id identity) error {
			return stage.as(id).CoreV1().Pods(ns).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "serving"}, Target: corev1.ObjectReference{Name: "node-1"}}, metav1.CreateOptions{DryRun: dry()})
		}, "cannot create"},
		"Budget": {func(id identity) error {
			return stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "callguard", metav1.DeleteOptions{DryRun: dry()})
		}, "callguard-tamper-budget: "},
		"Disable": {func(id identity) error {
			_, err := stage.as(id).CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"callguard.dev/enabled":null}}}`), metav1.PatchOptions{DryRun: dry()})
			return err
		}, "cannot patch"},
		"Policy": {func(id identity) error {
			return stage.as(id).AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "callguard-delete", metav1.DeleteOptions{DryRun: dry()})
		}, "cannot delete"},
		"Binding": {func(id identity) error {
			return stage.as(id).AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(ctx, "callguard-delete", metav1.DeleteOptions{DryRun: dry()})
		}, "cannot delete"},
		"Owner": {func(id identity) error {
			return stage.as(id).RbacV1().ClusterRoles().Delete(ctx, "callguard-budget-owner", metav1.DeleteOptions{DryRun: dry()})
		}, "cannot delete"},
		"Leave": {func(id identity) error {
			return merge(id, `{"metadata":{"annotations":{"callguard.dev/leave":"now"}}}`)
		}, allowed},
	}
	for name, tc := range cases {
		for _, id := range []identity{member, lead} {
			if got := answer(tc.try(id)); !strings.Contains(got, tc.want) {
				t.Errorf("%s by the %s:\n got %s\nwant %s", name, id.name, got, tc.want)
			}
		}
	}
}

// TestRightsOfTheGuard asks the API server what the guard's account may do, with only the manifest's rights.
func TestRightsOfTheGuard(t *testing.T) {
	may := map[string]bool{
		"get pods": true, "list pods": true, "watch pods": true, "patch pods": true, "delete pods": true,
		"create pods": false, "update pods": false, "patch pods/status": false, "create pods/eviction": false, "create pods/exec": false,
		"list nodes": true, "get nodes": false, "patch nodes": false, "list namespaces": true, "get namespaces": false, "patch namespaces": false,
		"list deployments.apps": true, "watch replicasets.apps": true, "get statefulsets.apps": true, "list daemonsets.apps": true, "patch deployments.apps": false,
		"create poddisruptionbudgets.policy": true, "watch poddisruptionbudgets.policy": true,
		"update poddisruptionbudgets.policy callguard": true, "patch poddisruptionbudgets.policy callguard": false, "delete poddisruptionbudgets.policy callguard": true, "delete poddisruptionbudgets.policy other": false,
		"create events": true, "patch events": true, "watch events": true, "create events.events.k8s.io": false, "delete events": false,
		"get leases.coordination.k8s.io node-1 in kube-node-lease": true, "update leases.coordination.k8s.io node-1 in kube-node-lease": false,
		"create leases.coordination.k8s.io in callguard-system": true, "update leases.coordination.k8s.io drain-guard in callguard-system": true,
		"update leases.coordination.k8s.io other in callguard-system":                  false,
		"get validatingadmissionpolicies.admissionregistration.k8s.io callguard-birth": true, "get validatingadmissionpolicies.admissionregistration.k8s.io": false, "list validatingadmissionpolicybindings.admissionregistration.k8s.io": true,
		"watch mutatingadmissionpolicies.admissionregistration.k8s.io": true, "watch mutatingadmissionpolicybindings.admissionregistration.k8s.io": true,
		"patch validatingadmissionpolicies.admissionregistration.k8s.io": false, "delete validatingadmissionpolicybindings.admissionregistration.k8s.io": false,
		"create mutatingadmissionpolicies.admissionregistration.k8s.io": false,
		"get priorityclasses.scheduling.k8s.io callguard-calls":         false, "get clusterroles.rbac.authorization.k8s.io callguard-budget-owner": false,
		"watch clusterroles.rbac.authorization.k8s.io callguard-budget-owner": true, "list clusterroles.rbac.authorization.k8s.io": false, "delete clusterroles.rbac.authorization.k8s.io callguard-budget-owner": false,
		"get clusterroles.rbac.authorization.k8s.io admin": false, "bind clusterroles.rbac.authorization.k8s.io admin": false,
		"get secrets": false, "list secrets": false, "get secrets livekit in callguard-system": false, "impersonate users": false,
	}
	for ask, want := range may {
		words := strings.Fields(ask)
		ns := "any"
		if n := len(words); words[n-2] == "in" {
			ns, words = words[n-1], words[:n-2]
		}
		kind, group, _ := strings.Cut(words[1], ".")
		kind, sub, _ := strings.Cut(kind, "/")
		a := &authorizationv1.ResourceAttributes{Namespace: ns, Verb: words[0], Group: group, Resource: kind, Subresource: sub}
		if len(words) == 3 {
			a.Name = words[2]
		}
		review, err := stage.admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: guard().user, Groups: guard().groups, ResourceAttributes: a},
		}, metav1.CreateOptions{})
		trial.Must(t, err)
		if review.Status.Allowed != want {
			t.Errorf("may the guard %s? got %t, want %t", ask, review.Status.Allowed, want)
		}
	}
}

// TestNamespaceDeletion deletes a namespace under its guarded pods: the policies allow it, and each pod has its grace period.
func TestNamespaceDeletion(t *testing.T) {
	ctx := t.Context()
	ns := enabled(t, "condemned")
	serving(t, ns, "serving", "draining")
	guardPatches(t, ns, "draining", `{"metadata":{"annotations":{"callguard.dev/draining":"drain 2026-01-01T00:00:00Z"}}}`)
	trial.Must(t, stage.admin.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}))
	for _, name := range []string{"serving", "draining"} {
		trial.Must(t, eventually(ctx, "pod "+name+" is deleted with its namespace", func() (bool, error) {
			pod := get(t, ns, name)
			return pod.DeletionTimestamp != nil && *pod.DeletionGracePeriodSeconds == 600, nil
		}))
		kubeletReports(t, ns, name, ended)
	}
	trial.Must(t, lab.Eventually(ctx, time.Minute, "namespace "+ns+" is gone", func() (bool, error) {
		list, err := stage.admin.CoreV1().Namespaces().List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + ns})
		return err == nil && len(list.Items) == 0, err
	}))
}

// TestControllersWithoutAccounts: without accounts of their own, all controllers are one user. It may delete pods together with
// their namespace and pods that have ended (pod garbage collection), but no surplus pod of a ReplicaSet.
func TestControllersWithoutAccounts(t *testing.T) {
	ctx := t.Context()
	ns := enabled(t, "one-user")
	serving(t, ns, "serving", "orphan")
	controllers := identity{"controllers without accounts", "system:kube-controller-manager", []string{"system:masters"}}
	pods := stage.as(controllers).CoreV1().Pods(ns)
	never := metav1.DeleteOptions{DryRun: dry(), GracePeriodSeconds: new(int64)}
	expect(t, "a pod that may hold calls", "callguard-delete: pod serving may hold calls", pods.Delete(ctx, "serving", metav1.DeleteOptions{DryRun: dry()}))
	expect(t, "the budget", "callguard-tamper-budget: PodDisruptionBudget callguard protects the calls of this namespace",
		stage.as(controllers).PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "callguard", metav1.DeleteOptions{DryRun: dry()}))

	_, err := pods.Patch(ctx, "orphan", types.MergePatchType, []byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status")
	expect(t, "the phase of a pod whose node is gone", allowed, err)
	expect(t, "that pod", allowed, pods.Delete(ctx, "orphan", never))

	trial.Must(t, stage.admin.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}))
	trial.Must(t, eventually(ctx, "the namespace ends", func() (bool, error) { return get(t, ns, "serving").DeletionTimestamp != nil, nil }))
	expect(t, "a pod of a namespace that ends, at once", allowed, pods.Delete(ctx, "serving", never))
	kubeletReports(t, ns, "serving", ended)
}

// TestReplicaSet scales a ReplicaSet down: it deletes released pods, and no others.
func TestReplicaSet(t *testing.T) {
	ctx := t.Context()
	ns := enabled(t, "shrinking")
	three, one := int32(3), int32(1)
	agent := lab.Agent(ns, three)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.ReplicaSetSpec{Replicas: &three, Selector: agent.Spec.Selector, Template: agent.Spec.Template}}
	sets := stage.admin.AppsV1().ReplicaSets(ns)
	_, err := sets.Create(ctx, set, metav1.CreateOptions{})
	trial.Must(t, err)
	var pods []corev1.Pod
	trial.Must(t, eventually(ctx, "three pods run", func() (bool, error) {
		list, err := stage.admin.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
		pods = list.Items
		return err == nil && len(pods) == 3, err
	}))
	_, err = sets.Patch(ctx, "agent", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, one), metav1.PatchOptions{})
	trial.Must(t, err)
	trial.Must(t, eventually(ctx, "the ReplicaSet is refused", func() (bool, error) {
		events, err := stage.admin.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=FailedDelete"})
		if err != nil {
			return false, err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, "may hold calls. Annotate it with callguard.dev/leave") {
				return true, nil
			}
		}
		return false, nil
	}))
	for _, pod := range pods[:2] {
		guardPatches(t, ns, pod.Name, `{"metadata":{"labels":{"callguard.dev/released":"scale-down"},"annotations":{"controller.kubernetes.io/pod-deletion-cost":"-1000"}}}`)
	}
	trial.Must(t, eventually(ctx, "the ReplicaSet deletes both released pods", func() (bool, error) {
		return get(t, ns, pods[0].Name).DeletionTimestamp != nil && get(t, ns, pods[1].Name).DeletionTimestamp != nil, nil
	}))
	if get(t, ns, pods[2].Name).DeletionTimestamp != nil {
		t.Error("the ReplicaSet deleted a pod that may hold calls")
	}
}

// TestUninstall deletes the owner of the budgets, as an accident and as an uninstall do. Alone its deletion removes nothing;
// together with the policy's, it removes all budgets.
func TestUninstall(t *testing.T) {
	ctx := t.Context()
	owner, err := stage.admin.RbacV1().ClusterRoles().Get(ctx, "callguard-budget-owner", metav1.GetOptions{})
	trial.Must(t, err)
	ns := namespace(t, "uninstall", map[string]string{call.EnabledLabel: "true"})
	owned := budget()
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: owner.Name, UID: owner.UID}}
	owned, err = stage.as(guard()).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, owned, metav1.CreateOptions{})
	trial.Must(t, err)
	awaitBirth(t, ns)
	serving(t, ns, "serving")

	refusals := func() int {
		out, err := exec.CommandContext(ctx, "grep", "-c", "callguard-tamper-budget", filepath.Join(stage.Dir(), "logs", "kube-controller-manager.log")).Output()
		n, convErr := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil && n > 0 || convErr != nil {
			t.Fatal(err, convErr)
		}
		return n
	}
	before := refusals()
	trial.Must(t, stage.admin.RbacV1().ClusterRoles().Delete(ctx, owner.Name, metav1.DeleteOptions{}))
	trial.Must(t, eventually(ctx, "the collector was refused several times", func() (bool, error) { return refusals()-before >= 5, nil }))
	is, err := stage.admin.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "callguard", metav1.GetOptions{})
	trial.Must(t, err)
	if is.UID != owned.UID || is.DeletionTimestamp != nil {
		t.Error("the budget was deleted with its owner")
	}
	expect(t, "an eviction", tooMany, evict(t, admin(), ns, "serving", metav1.DeleteOptions{DryRun: dry()}))

	began := time.Now()
	trial.Must(t, stage.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "callguard-tamper-budget", metav1.DeleteOptions{}))
	trial.Must(t, lab.Eventually(ctx, time.Minute, "the budget goes with its owner and its policy", func() (bool, error) {
		list, err := stage.admin.PolicyV1().PodDisruptionBudgets(ns).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	}))
	t.Logf("the garbage collector deleted the budget %s after the policy was gone", time.Since(began).Round(time.Millisecond))
	trial.Must(t, stage.apply(ctx))
	trial.Must(t, eventually(ctx, "the policy is in force again", func() (bool, error) {
		_, err := stage.admin.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget(), metav1.CreateOptions{DryRun: dry()})
		return strings.HasPrefix(answer(err), "callguard-tamper-budget"), nil
	}))
}

// TestDisable removes the label of a namespace, in passing and on purpose.
func TestDisable(t *testing.T) {
	ctx := t.Context()
	ns := enabled(t, "disabled")
	patch := func(id identity, body string, sub ...string) error {
		_, err := stage.as(id).CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(body), metav1.PatchOptions{DryRun: dry()}, sub...)
		return err
	}
	const (
		off  = `{"metadata":{"labels":{"callguard.dev/enabled":null}}}`
		held = "callguard-namespaces: without label callguard.dev/enabled=true nothing holds the calls of namespace disabled. " +
			"To disable callguard there, wait until no pod of it is aside or draining, because such a pod would stay so, and annotate the namespace first: kubectl annotate namespace disabled callguard.dev/disable=true"
	)
	breaker := identity{"break-glass", "grant", []string{"callguard:break-glass", "system:masters"}}
	expect(t, "in passing", held, patch(admin(), off))
	expect(t, "by its status", held, patch(admin(), off, "status"))
	expect(t, "to another value", held, patch(admin(), `{"metadata":{"labels":{"callguard.dev/enabled":"false"}}}`))
	expect(t, "with another word", held, patch(admin(), `{"metadata":{"labels":{"callguard.dev/enabled":null},"annotations":{"callguard.dev/disable":"no"}}}`))
	expect(t, "by break-glass", allowed, patch(breaker, off))
	expect(t, "another label", allowed, patch(admin(), `{"metadata":{"labels":{"team":"voice"}}}`))
	expect(t, "at once, on purpose", allowed, patch(admin(), `{"metadata":{"labels":{"callguard.dev/enabled":null},"annotations":{"callguard.dev/disable":"true"}}}`))
	other := namespace(t, "never-enabled", nil)
	_, err := stage.admin.CoreV1().Namespaces().Patch(ctx, other, types.MergePatchType, []byte(`{"metadata":{"labels":{"callguard.dev/enabled":"true"}}}`), metav1.PatchOptions{DryRun: dry()})
	expect(t, "enabling", allowed, err)

	for _, body := range []string{`{"metadata":{"annotations":{"callguard.dev/disable":"true"}}}`, off} {
		_, err := stage.admin.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		trial.Must(t, err)
	}
}
