// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// identity is a user who sends requests to the API server.
type identity struct {
	name, user string
	groups     []string
}

func controller(name string) identity {
	return identity{name, "system:serviceaccount:kube-system:" + name, []string{"system:serviceaccounts", "system:serviceaccounts:kube-system"}}
}

func guard() identity {
	return identity{"guard", "system:serviceaccount:callguard-system:drain-guard", []string{"system:serviceaccounts", "system:serviceaccounts:callguard-system"}}
}
func admin() identity   { return identity{"admin", "admin", []string{"system:masters"}} }
func kubelet() identity { return identity{"kubelet", "system:node:node-1", []string{"system:nodes"}} }
func breakGlass() identity {
	return identity{"break-glass", "gloria", []string{"callguard:break-glass"}}
}
func editor() identity       { return identity{"editor", "edith", nil} }
func teamAdmin() identity    { return identity{"team-admin", "adam", nil} }
func namespaces() identity   { return controller("namespace-controller") }
func podCollector() identity { return controller("pod-garbage-collector") }
func collector() identity    { return controller("generic-garbage-collector") }

// everybody lists all who ever request the end of a pod.
func everybody() []identity {
	return []identity{
		guard(), admin(), editor(), teamAdmin(), kubelet(), breakGlass(), namespaces(), podCollector(), collector(),
		controller("replicaset-controller"), controller("taint-eviction-controller"), controller("node-controller"),
		{"scheduler", "system:kube-scheduler", nil},
	}
}

// cluster is a control plane with the policies and without callguard.
type cluster struct {
	*local.Cluster
	config *rest.Config
	admin  kubernetes.Interface
	// keepsGraces means that policy callguard-grace exists.
	keepsGraces bool

	mu      sync.Mutex
	clients map[string]kubernetes.Interface
}

func open(ctx context.Context) (*cluster, error) {
	up, err := local.Up(ctx, local.Config{Name: lab.InstanceName("doors"), Nodes: 2, Progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	c := &cluster{Cluster: up, clients: map[string]kubernetes.Interface{}}
	if err := c.install(ctx); err != nil {
		return nil, errors.Join(err, up.Down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func (c *cluster) install(ctx context.Context) error {
	var err error
	if c.config, err = c.AdminConfig(); err != nil {
		return err
	}
	if c.admin, err = kubernetes.NewForConfig(c.config); err != nil {
		return err
	}
	if c.keepsGraces, err = lab.KeepsGraces(c.admin.Discovery()); err != nil {
		return err
	}
	if err := c.apply(ctx); err != nil {
		return err
	}
	if err := c.allow(ctx); err != nil {
		return err
	}
	return c.awaitDoors(ctx)
}

// awaitDoors waits until every policy is in effect, about a second after it was
// installed.
func (c *cluster) awaitDoors(ctx context.Context) error {
	const ns = "in-force"
	pods := c.admin.CoreV1().Pods(ns)
	_, err := c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{call.EnabledLabel: "true"}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	refuses := func(door string, try func() error) error {
		return eventually(ctx, door+" is in force", func() (bool, error) {
			got := answer(try())
			if !strings.HasPrefix(got, door+": ") {
				return false, errors.New(got)
			}
			return true, nil
		})
	}
	if err := refuses("callguard-birth", func() error {
		_, err := pods.Create(ctx, agentPod("probe"), metav1.CreateOptions{DryRun: dry()})
		return err
	}); err != nil {
		return err
	}
	if err := refuses("callguard-tamper-budget", func() error {
		_, err := c.admin.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget(), metav1.CreateOptions{DryRun: dry()})
		return err
	}); err != nil {
		return err
	}
	if err := refuses("callguard-tamper-binding", func() error {
		return pods.Bind(ctx, &corev1.Binding{
			// Not by a label: a mutant no longer judges labels, and TestBinding has to notice it.
			ObjectMeta: metav1.ObjectMeta{Name: "probe", Annotations: map[string]string{call.DrainingAnnotation: "x"}}, Target: corev1.ObjectReference{Name: "node-1"},
		}, metav1.CreateOptions{DryRun: dry()})
	}); err != nil {
		return err
	}
	if err := refuses("callguard-eviction", func() error {
		return pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "probe"}, DeleteOptions: &metav1.DeleteOptions{DryRun: dry()}})
	}); err != nil {
		return err
	}
	if err := refuses("callguard-namespaces", func() error {
		_, err := c.admin.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"callguard.dev/enabled":null}}}`), metav1.PatchOptions{DryRun: dry()})
		return err
	}); err != nil {
		return err
	}
	if _, err := c.as(guard()).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget(), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := c.run(ctx, ns, "probe"); err != nil {
		return err
	}
	if err := refuses("callguard-delete", func() error {
		return pods.Delete(ctx, "probe", metav1.DeleteOptions{DryRun: dry()})
	}); err != nil {
		return err
	}
	release := []byte(`{"metadata":{"labels":{"callguard.dev/released":"x"}}}`)
	if err := refuses("callguard-tamper-pods", func() error {
		_, err := pods.Patch(ctx, "probe", types.MergePatchType, release, metav1.PatchOptions{DryRun: dry()})
		return err
	}); err != nil {
		return err
	}
	if !c.keepsGraces {
		return nil
	}
	return eventually(ctx, "callguard-grace is in force", func() (bool, error) {
		if _, err := c.as(guard()).CoreV1().Pods(ns).Patch(ctx, "probe", types.MergePatchType, release, metav1.PatchOptions{}); err != nil {
			return false, err
		}
		long := int64(599)
		if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "probe"}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &long}}); err != nil {
			return false, err
		}
		pod, err := pods.Get(ctx, "probe", metav1.GetOptions{})
		if err != nil || *pod.DeletionGracePeriodSeconds == 600 {
			return err == nil, err
		}
		atOnce := int64(0)
		if err := c.as(breakGlass()).CoreV1().Pods(ns).Delete(ctx, "probe", metav1.DeleteOptions{GracePeriodSeconds: &atOnce}); err != nil {
			return false, err
		}
		return false, c.run(ctx, ns, "probe")
	})
}

// run creates a guarded pod and waits until it runs.
func (c *cluster) run(ctx context.Context, namespace, name string) error {
	err := eventually(ctx, "pod "+name+" is born", func() (bool, error) {
		_, err := c.admin.CoreV1().Pods(namespace).Create(ctx, agentPod(name), metav1.CreateOptions{})
		return err == nil, err
	})
	if err != nil {
		return err
	}
	return eventually(ctx, "pod "+name+" runs", func() (bool, error) {
		pod, err := c.admin.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning, err
	})
}

// apply installs what an administrator would.
func (c *cluster) apply(ctx context.Context) error {
	kubectl, err := c.Kubectl()
	if err != nil {
		return err
	}
	kubeconfig, err := c.AdminKubeconfig()
	if err != nil {
		return err
	}
	manifests, err := lab.WriteManifests(c.admin.Discovery(), c.Dir(), "lookout.yaml", "doors.yaml", "drain-guard.yaml", "drain-guard-deployment.yaml")
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, kubectl, "--kubeconfig", kubeconfig, "apply", "-f", manifests).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot install the doors: %w: %s", err, out)
	}
	if strings.Contains(string(out), "Warning") {
		return fmt.Errorf("the API server warns about the manifests: %s", out)
	}
	// There is no such program here: its pods would be simulated as running.
	none := fmt.Appendf(nil, `{"spec":{"replicas":0}}`)
	_, err = c.admin.AppsV1().Deployments("callguard-system").Patch(ctx, "drain-guard", "application/merge-patch+json", none, metav1.PatchOptions{})
	return err
}

// wideRole allows everything that the policies check, so that a refusal is always a
// policy's.
const wideRole = "doors-test"

func (c *cluster) allow(ctx context.Context) error {
	_, err := c.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: wideRole},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods", "pods/status", "pods/eviction", "pods/resize", "pods/ephemeralcontainers", "pods/binding", "bindings"}, Verbs: []string{"*"}},
			{APIGroups: []string{"policy"}, Resources: []string{"poddisruptionbudgets", "poddisruptionbudgets/status"}, Verbs: []string{"*"}},
		},
	}, metav1.CreateOptions{})
	return err
}

// as returns a client as somebody.
func (c *cluster) as(id identity) kubernetes.Interface {
	c.mu.Lock()
	defer c.mu.Unlock()
	if client, made := c.clients[id.user]; made {
		return client
	}
	client := kubernetes.NewForConfigOrDie(c.configOf(id))
	c.clients[id.user] = client
	return client
}

func (c *cluster) configOf(id identity) *rest.Config {
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: id.user, Groups: id.groups}
	config.WarningHandler = rest.NoWarnings{}
	return config
}

// allowed is the answer of a successful request.
const allowed = "allowed"

// answer is the result of a request: allowed, the policy that refused it with its
// message, or the code and message of any other refusal.
func answer(err error) string {
	var status apierrors.APIStatus
	if err == nil {
		return allowed
	}
	if !errors.As(err, &status) {
		return err.Error()
	}
	refused := regexp.MustCompile(`ValidatingAdmissionPolicy '([^']+)' with binding '[^']+' denied request: (.*)`).FindStringSubmatch(status.Status().Message)
	if refused == nil {
		return fmt.Sprintf("%d %s", status.Status().Code, status.Status().Message)
	}
	// The delete policy exists twice, and either of them may be the first to refuse.
	return strings.TrimSuffix(refused[1], "-too") + ": " + refused[2]
}

// dry are the options of a dry run.
func dry() []string { return []string{metav1.DryRunAll} }

func agentPod(name string) *corev1.Pod {
	template := lab.Template()
	grace := int64(600)
	template.Spec.TerminationGracePeriodSeconds = &grace
	template.Spec.PriorityClassName = "callguard-calls"
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: template.Labels}, Spec: template.Spec}
}

func eventually(ctx context.Context, what string, holds func() (bool, error)) error {
	return lab.Eventually(ctx, 30*time.Second, what, holds)
}
