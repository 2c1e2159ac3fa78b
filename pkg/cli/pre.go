// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/tools/pager"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
)

// leastKubernetes is the oldest Kubernetes that the charts install on, by their kubeVersion.
const leastKubernetes = "1.34.0"

// examineBefore checks what an install needs: the version of Kubernetes, the installer's
// rights, and that nothing in the cluster conflicts. It changes nothing.
func (c *cluster) examineBefore(ctx context.Context) examination {
	return func(tell func(...finding)) {
		failed := false
		for _, check := range []func() []finding{
			c.checkServer,
			func() []finding { return []finding{c.checkRelease()} },
			func() []finding { return []finding{c.checkKubelets(ctx)} },
			func() []finding { return []finding{c.checkInstalled(ctx)} },
			func() []finding { return c.checkTaken(ctx) },
			func() []finding { return c.checkInstaller(ctx) },
			func() []finding { return c.checkBudgetsBefore(ctx) },
		} {
			found := check()
			tell(found...)
			failed = failed || slices.ContainsFunc(found, func(f finding) bool { return f.level == fail })
		}
		if !failed {
			tell(finding{ok, "install", "nothing of this keeps callguard from being installed: " + installs, ""})
		}
	}
}

// older reports whether a version is older than the charts accept; it returns an error for
// an invalid version.
func older(text string) (bool, error) {
	is, err := version.ParseGeneric(text)
	if err != nil {
		return false, fmt.Errorf("%q is no version: %w", text, err)
	}
	return is.LessThan(version.MustParseGeneric(leastKubernetes)), nil
}

func (c *cluster) checkRelease() finding {
	const check = "kubernetes"
	is, err := c.client.Discovery().ServerVersion()
	if err != nil {
		return finding{fail, check, fmt.Sprintf("the API server does not tell its version: %v", err), "see whether kubectl version works"}
	}
	switch old, err := older(is.GitVersion); {
	case err != nil:
		return finding{warn, check, "not checked: the API server's version " + err.Error(), ""}
	case old:
		return finding{fail, check, fmt.Sprintf("%s is older than %s, and Helm refuses to install the charts", is, leastKubernetes), "upgrade the control plane"}
	}
	return finding{ok, check, fmt.Sprintf("%s is not older than %s", is, leastKubernetes), ""}
}

// checkKubelets checks the versions of the nodes, which may be older than the control
// plane.
func (c *cluster) checkKubelets(ctx context.Context) finding {
	const check = "nodes"
	var behind, unclear []string
	all := 0
	list := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.client.CoreV1().Nodes().List(ctx, o)
	})
	err := list.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		node, is := o.(*corev1.Node)
		if !is {
			return nil
		}
		all++
		kubelet := node.Status.NodeInfo.KubeletVersion
		switch old, err := older(kubelet); {
		case err != nil:
			unclear = append(unclear, node.Name)
		case old:
			behind = append(behind, node.Name+" ("+kubelet+")")
		}
		return nil
	})
	switch {
	case err != nil:
		return finding{warn, check, unchecked(fmt.Errorf("cannot list nodes: %w", err)), ""}
	case len(behind) > 0:
		return finding{warn, check, fmt.Sprintf("%d of %s are older than %s, with which callguard was not tested: %s", len(behind), plural(all, "node"), leastKubernetes, some(behind)), "upgrade them before agents run there"}
	case len(unclear) > 0:
		return finding{warn, check, fmt.Sprintf("of %d of %s the version is not known: %s", len(unclear), plural(all, "node"), some(unclear)), "see kubectl get nodes"}
	}
	return finding{ok, check, fmt.Sprintf("none of %s is older than %s", plural(all, "node"), leastKubernetes), ""}
}

func (c *cluster) checkInstalled(ctx context.Context) finding {
	const check = "callguard"
	if c.absent(ctx, c.administered(ctx)) {
		return finding{ok, check, "it is not installed in namespace " + c.callguard + ", and its admission policies are not there", ""}
	}
	return finding{warn, check, "a Deployment, a lease or an admission policy of callguard already exists, or you may not look for them", "check it with kubectl calls doctor; update it with helm upgrade"}
}

// checkTaken checks who serves custom metrics. A cluster has one adapter for them.
func (c *cluster) checkTaken(ctx context.Context) (list []finding) {
	const check = "metrics-api"
	for _, name := range apiservice.Names() {
		var service apiregistrationv1.APIService
		switch err := c.get(ctx, apiservice.Path(name), &service); {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return []finding{{warn, check, unchecked(fmt.Errorf("cannot read APIService %s: %w", name, err)), ""}}
		}
		owner := apiservice.Owner(&service)
		if owner == c.callguard+"/"+call.AdapterName {
			continue
		}
		namespace, adapter, _ := strings.Cut(owner, "/")
		what := fmt.Sprintf("APIService %s is served by Service %s: with its defaults the chart refuses to be installed", name, owner)
		do := fmt.Sprintf("have both serve: --set metricsAdapter.mode=compose --set metricsAdapter.compose.service.namespace=%s --set metricsAdapter.compose.service.name=%s "+
			"and --set-file metricsAdapter.compose.caBundle=ca.crt (docs/beside.md); or without callguard's: --set metricsAdapter.mode=none", namespace, adapter)
		why := apiservice.Unavailable(&service)
		switch {
		case owner == "":
			what, do = fmt.Sprintf("APIService %s is served by kube-apiserver itself, so somebody made a CustomResourceDefinition of that group", name), "delete it, or install with --set metricsAdapter.mode=none"
		case strings.HasPrefix(why, "ServiceNotFound"):
			what, do = fmt.Sprintf("APIService %s was left behind by an adapter that is gone (Service %s): the chart refuses to be installed", name, owner), "kubectl delete apiservice "+name
		case why != "":
			what += "; it is not available now: " + why
		}
		list = append(list, finding{warn, check, what, do})
	}
	return bounded(list, finding{ok, check, "no other adapter serves custom.metrics.k8s.io", ""})
}

// installsKinds returns the kinds of objects that the chart creates, by group; kinds in the
// release's namespace have a slash in front.
func installsKinds() map[string][]string {
	return map[string][]string{
		"":                             {"namespaces", "/services", "/serviceaccounts", "/secrets"},
		"apps":                         {"/deployments"},
		"batch":                        {"/jobs"},
		"policy":                       {"/poddisruptionbudgets"},
		"rbac.authorization.k8s.io":    {"clusterroles", "clusterrolebindings", "/roles", "/rolebindings"},
		"scheduling.k8s.io":            {"priorityclasses"},
		"apiregistration.k8s.io":       {"apiservices"},
		"admissionregistration.k8s.io": {"validatingadmissionpolicies", "validatingadmissionpolicybindings"},
	}
}

// checkInstaller checks whether the user may install the chart.
func (c *cluster) checkInstaller(ctx context.Context) []finding {
	const check, cure = "rights", "install as somebody with ClusterRole cluster-admin"
	may := func(verb, group, resource string) (bool, error) {
		a := &authorizationv1.ResourceAttributes{Verb: verb, Group: group}
		if within, is := strings.CutPrefix(resource, "/"); is {
			a.Namespace, a.Resource = c.callguard, within
		} else {
			a.Resource = resource
		}
		review, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: a}}, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("the API server does not say what you may do: %w", err)
		}
		return review.Status.Allowed, nil
	}
	var missing []string
	for group, kinds := range installsKinds() {
		for _, kind := range kinds {
			allowed, err := may("create", group, kind)
			if err != nil {
				return []finding{{warn, check, unchecked(err), ""}}
			}
			if !allowed {
				name, where := strings.CutPrefix(kind, "/")
				if group != "" {
					name += "." + group
				}
				if where {
					name += " in namespace " + c.callguard
				}
				missing = append(missing, name)
			}
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		return []finding{{fail, check, "you need the right to create " + strings.Join(missing, ", "), cure}}
	}
	for _, verb := range []string{"escalate", "bind"} {
		allowed, err := may(verb, "rbac.authorization.k8s.io", "clusterroles")
		if err != nil {
			return []finding{{warn, check, unchecked(err), ""}}
		}
		if !allowed {
			return []finding{{warn, check, fmt.Sprintf("you may create all that the chart has, and not %s clusterroles: Kubernetes refuses its roles unless you have all their rights yourself", verb), cure}}
		}
	}
	return []finding{{ok, check, "you may create all that the chart has", ""}}
}

// checkBudgetsBefore looks for PodDisruptionBudgets that match pods which callguard's
// budget will match, too: evictions of a pod with two budgets fail.
func (c *cluster) checkBudgetsBefore(ctx context.Context) []finding {
	const check = "other-budgets"
	pods, err := c.guarded(ctx, "", "", "")
	if err != nil {
		return []finding{{warn, check, unchecked(err), ""}}
	}
	budgets, err := c.budgets(ctx, "")
	if err != nil {
		return []finding{{warn, check, unchecked(err), ""}}
	}
	byNamespace := map[string][]*corev1.Pod{}
	for _, pod := range pods {
		byNamespace[pod.Namespace] = append(byNamespace[pod.Namespace], pod)
	}
	var list []finding
	for name, mine := range byNamespace {
		theirs := slices.DeleteFunc(slices.Clone(budgets), func(b *policyv1.PodDisruptionBudget) bool { return b.Namespace != name })
		for _, f := range guard.ForeignBudgets(theirs, mine) {
			list = append(list, finding{warn, check, fmt.Sprintf("PodDisruptionBudget %s/%s matches pods with label %s, such as %s: once callguard's matches them, too, their evictions fail (500)", name, f.Budget.Name, call.GuardedLabel, f.Pod.Name),
				"delete it before the namespace is enabled, and use annotation " + call.MinAvailableAnnotation + " of the workload"})
		}
	}
	slices.SortFunc(list, func(a, b finding) int { return strings.Compare(a.what, b.what) })
	well := fmt.Sprintf("no PodDisruptionBudget matches any of %s with label %s", plural(len(pods), "pod"), call.GuardedLabel)
	if len(pods) == 0 {
		well = fmt.Sprintf("no pod has label %s yet; kubectl calls doctor looks again once there are some", call.GuardedLabel)
	}
	return bounded(list, finding{ok, check, well, ""})
}
