// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// stolen is a client with a token of drain-guard's account.
func stolen(t *testing.T) kubernetes.Interface {
	t.Helper()
	hour := int64(3600)
	token, err := stage.admin.CoreV1().ServiceAccounts("callguard-system").CreateToken(t.Context(), "drain-guard",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	trial.Must(t, err)
	config := rest.AnonymousClientConfig(stage.config)
	config.BearerToken, config.WarningHandler = token.Status.Token, rest.NoWarnings{}
	return kubernetes.NewForConfigOrDie(config)
}

// TestLeash tries what somebody who stole the guard's token could do with it, in namespaces where RBAC allows everything on
// pods and budgets.
func TestLeash(t *testing.T) {
	ctx := t.Context()
	here, elsewhere, bare := enabled(t, "leash"), namespace(t, "leash-elsewhere", nil), namespace(t, "leash-bare", map[string]string{call.EnabledLabel: "true"})
	serving(t, here, "serving", "going", "crashing")
	kubeletReports(t, here, "crashing", crashing)
	_, err := stage.admin.CoreV1().Pods(here).Patch(ctx, "serving", types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.org/inject":"no"}}}`), metav1.PatchOptions{})
	trial.Must(t, err)
	guardPatches(t, here, "going", `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`)
	plain := func(name string) *corev1.Pod {
		pod := agentPod(name)
		delete(pod.Labels, call.GuardedLabel)
		pod.Spec.PriorityClassName = ""
		return pod
	}
	create(t, here, plain("plain"))
	create(t, elsewhere, plain("plain"))
	lookalike := agentPod("lookalike")
	lookalike.Spec.PriorityClassName = ""
	create(t, elsewhere, lookalike)

	thief := stolen(t)
	patch := func(namespace, name, body string, sub ...string) func() error {
		return func() error {
			_, err := thief.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{DryRun: dry()}, sub...)
			return err
		}
	}
	rewrite := func(namespace, name, operations string) func() error {
		return func() error {
			_, err := thief.CoreV1().Pods(namespace).Patch(ctx, name, types.JSONPatchType, []byte(operations), metav1.PatchOptions{DryRun: dry()})
			return err
		}
	}
	remove := func(namespace, name string, really ...bool) func() error {
		options := metav1.DeleteOptions{}
		if len(really) == 0 {
			options.DryRun = dry()
		}
		return func() error { return thief.CoreV1().Pods(namespace).Delete(ctx, name, options) }
	}
	makes := func(namespace string, change func(*policyv1.PodDisruptionBudget)) func() error {
		return func() error {
			pdb := budget()
			change(pdb)
			_, err := thief.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, pdb, metav1.CreateOptions{DryRun: dry()})
			return err
		}
	}
	rewrites := func(change func(*policyv1.PodDisruptionBudget)) func() error {
		return func() error {
			return writeBudget(ctx, t, here, change, func(pdb *policyv1.PodDisruptionBudget) error {
				_, err := thief.PolicyV1().PodDisruptionBudgets(here).Update(ctx, pdb, metav1.UpdateOptions{DryRun: dry()})
				return err
			})
		}
	}
	as := func(try func(context.Context) error) func() error { return func() error { return try(ctx) } }
	const (
		whose    = "callguard-leash: drain-guard may write only guarded pods of enabled namespaces"
		metadata = "callguard-leash: drain-guard may change only labels, annotations and owners of pods, and only its own labels and annotations"
		released = "callguard-leash: drain-guard may delete only released pods"
		budgets  = "callguard-leash: drain-guard may write only PodDisruptionBudget callguard of enabled namespaces, which selects guarded pods"
		others   = "callguard-leash: drain-guard may write only the metadata of pods, and PodDisruptionBudgets"
		noRight  = "403 "
	)
	nothing := func(*policyv1.PodDisruptionBudget) {}
	none := metav1.CreateOptions{DryRun: dry()}
	tries := map[string]struct {
		do   func() error
		want string
	}{
		// What the guard does.
		"set a pod aside":             {patch(here, "serving", `{"metadata":{"labels":{"pod-template-hash":"x-aside"},"annotations":{"callguard.dev/hash":"x","callguard.dev/aside":"drain 2026-01-01T00:00:00Z","controller.kubernetes.io/pod-deletion-cost":"-1000","callguard.dev/autoscalers-before":"x","karpenter.sh/do-not-disrupt":"true","cluster-autoscaler.kubernetes.io/safe-to-evict":"on-completion"},"ownerReferences":[]}}`), allowed},
		"set a Rollout's pod aside":   {patch(here, "serving", `{"metadata":{"labels":{"rollouts-pod-template-hash":"x-aside"}}}`), allowed},
		"say what it said before":     {patch(here, "serving", `{"metadata":{"labels":{"callguard.dev/released":"drain"},"annotations":{"cluster-autoscaler.kubernetes.io/safe-to-evict":null}}}`), allowed},
		"order a drain":               {patch(here, "serving", `{"metadata":{"annotations":{"callguard.dev/draining":"drain 2026-01-01T00:00:00Z"}}}`), allowed},
		"release a pod":               {patch(here, "serving", `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`), allowed},
		"delete it then":              {remove(here, "going"), allowed},
		"try the door":                {remove(here, "serving"), "callguard-delete: "},
		"let a webhook label the pod": {patch(here, "serving", `{"metadata":{"labels":{"callguard.dev/released":"drain","example.org/team":"x"},"annotations":{"example.org/seen":"now"}}}`), allowed},
		"own the budget":              {rewrites(func(b *policyv1.PodDisruptionBudget) { b.OwnerReferences = nil }), allowed},
		"make a budget":               {makes(bare, nothing), allowed},
		// What an attacker would do.
		"delete a pod with calls":         {remove(here, "serving", true), "callguard-"},
		"delete one that starts again":    {remove(here, "crashing", true), released},
		"delete an unguarded pod":         {remove(here, "plain"), whose},
		"delete it in earnest":            {remove(here, "plain", true), "callguard-leash: "},
		"delete a pod elsewhere":          {remove(elsewhere, "plain"), whose},
		"delete one with the label":       {remove(elsewhere, "lookalike"), whose},
		"change another's image":          {rewrite(elsewhere, "plain", `[{"op":"replace","path":"/spec/containers/0/image","value":"evil:1"}]`), "callguard-leash: "},
		"change a guarded pod's image":    {rewrite(here, "serving", `[{"op":"replace","path":"/spec/containers/0/image","value":"evil:1"}]`), "callguard-"},
		"tolerate all":                    {rewrite(here, "serving", `[{"op":"add","path":"/spec/tolerations/-","value":{"operator":"Exists"}}]`), metadata},
		"end it by a deadline":            {rewrite(here, "serving", `[{"op":"add","path":"/spec/activeDeadlineSeconds","value":1}]`), "callguard-"},
		"label another's pod":             {patch(elsewhere, "plain", `{"metadata":{"labels":{"callguard.dev/released":"x"}}}`), whose},
		"guard another's pod":             {patch(elsewhere, "plain", `{"metadata":{"labels":{"callguard.dev/guarded":"true"}}}`), whose},
		"move a pod into a Service":       {patch(here, "serving", `{"metadata":{"labels":{"app":"bank"}}}`), metadata},
		"take a label away":               {patch(here, "serving", `{"metadata":{"labels":{"app":null}}}`), metadata},
		"change an annotation of another": {patch(here, "serving", `{"metadata":{"annotations":{"example.org/inject":"yes"}}}`), metadata},
		"hold a pod by a finalizer":       {patch(here, "serving", `{"metadata":{"finalizers":["example.org/x"]}}`), metadata},
		"write a pod's status":            {patch(here, "serving", `{"status":{"phase":"Failed"}}`, "status"), "callguard-"},
		"run a container":                 {patch(here, "serving", `{"spec":{"ephemeralContainers":[{"name":"x","image":"x"}]}}`, "ephemeralcontainers"), others},
		"create a pod": {as(func(ctx context.Context) error {
			_, err := thief.CoreV1().Pods(here).Create(ctx, plain("evil"), none)
			return err
		}), others},
		"evict a pod": {as(func(ctx context.Context) error {
			return thief.PolicyV1().Evictions(here).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "serving", Namespace: here}, DeleteOptions: &metav1.DeleteOptions{DryRun: dry()}})
		}), others},
		"bind a pod": {as(func(ctx context.Context) error {
			return thief.CoreV1().Pods(here).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "serving"}, Target: corev1.ObjectReference{Name: "node-1"}}, none)
		}), others},
		"delete all pods": {as(func(ctx context.Context) error {
			return thief.CoreV1().Pods(elsewhere).DeleteCollection(ctx, metav1.DeleteOptions{DryRun: dry()}, metav1.ListOptions{})
		}), whose},
		"block drains elsewhere":          {makes(elsewhere, nothing), budgets},
		"block drains under another name": {makes(bare, func(b *policyv1.PodDisruptionBudget) { b.Name = "other" }), budgets},
		"block drains of all pods":        {makes(bare, func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector = &metav1.LabelSelector{} }), budgets},
		"widen the budget":                {rewrites(func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector = &metav1.LabelSelector{} }), budgets},
		"open the budget's status": {as(func(ctx context.Context) error {
			_, err := thief.PolicyV1().PodDisruptionBudgets(here).Patch(ctx, "callguard", types.MergePatchType, []byte(`{"status":{"disruptionsAllowed":9}}`), metav1.PatchOptions{DryRun: dry()}, "status")
			return err
		}), "callguard-"},
		"disable a namespace": {as(func(ctx context.Context) error {
			_, err := thief.CoreV1().Namespaces().Patch(ctx, here, types.MergePatchType, []byte(`{"metadata":{"labels":{"callguard.dev/enabled":null}}}`), metav1.PatchOptions{DryRun: dry()})
			return err
		}), noRight},
		"read a Secret": {as(func(ctx context.Context) error {
			_, err := thief.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
			return err
		}), noRight},
		"taint a node": {as(func(ctx context.Context) error {
			_, err := thief.CoreV1().Nodes().Patch(ctx, "node-1", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{DryRun: dry()})
			return err
		}), noRight},
		"scale a Deployment": {as(func(ctx context.Context) error {
			_, err := thief.AppsV1().Deployments("callguard-system").Patch(ctx, "drain-guard", types.MergePatchType, []byte(`{"spec":{"replicas":9}}`), metav1.PatchOptions{DryRun: dry()})
			return err
		}), noRight},
		"open the policies": {as(func(ctx context.Context) error {
			return thief.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "callguard-leash", metav1.DeleteOptions{DryRun: dry()})
		}), noRight},
		"grant itself more": {as(func(ctx context.Context) error {
			_, err := thief.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "x"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}, none)
			return err
		}), noRight},
		"make tokens of others": {as(func(ctx context.Context) error {
			_, err := thief.CoreV1().ServiceAccounts("kube-system").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}), noRight},
		"act as another": {as(func(ctx context.Context) error {
			config := rest.AnonymousClientConfig(stage.config)
			token, err := stage.admin.CoreV1().ServiceAccounts("callguard-system").CreateToken(ctx, "drain-guard", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			trial.Must(t, err)
			config.BearerToken, config.Impersonate = token.Status.Token, rest.ImpersonationConfig{UserName: "system:admin", Groups: []string{"system:masters"}}
			_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Pods(here).List(ctx, metav1.ListOptions{})
			return err
		}), noRight},
	}
	trial.Must(t, eventually(ctx, "the leash is in force", func() (bool, error) {
		got := answer(remove(elsewhere, "plain")())
		return strings.HasPrefix(got, "callguard-leash: "), nil
	}))
	for what, try := range tries {
		expect(t, what, try.want, try.do())
	}
}
