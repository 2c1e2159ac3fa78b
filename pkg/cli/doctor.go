// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/pkg/verdict"
)

// level is the severity of a finding.
type level string

const (
	ok   level = "OK"
	warn level = "WARN"
	fail level = "FAIL"
)

// mostOfAKind is the maximum number of findings of one check.
const mostOfAKind = 10

// finding is a line of doctor's output.
type finding struct {
	level level
	check string
	what  string
	do    string // what to do; empty if nothing
}

// Finding is a finding in the output of doctor -o json.
type Finding struct {
	Level string `json:"level"`
	Check string `json:"check"`
	What  string `json:"what"`
	Do    string `json:"do,omitempty"`
}

// FindingList is the output of doctor -o json.
type FindingList struct {
	Kind  string    `json:"kind"`
	Items []Finding `json:"items"`
}

func newDoctor(c *common) *cobra.Command {
	output, pre := "", false
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check that calls are protected and counted", Args: noWords,
		Long: "Checks whether callguard can protect and count calls, in all namespaces, or in that of -n.\n" +
			"It prints a line for each check as soon as it is done: OK, WARN or FAIL, with what to do. It changes nothing.\n" +
			"With --pre it checks instead what an install needs: the version of Kubernetes and of its nodes, admission policies, " +
			"your rights to install, whether another adapter serves custom metrics and what to set then, and PodDisruptionBudgets that conflict.\n\n" +
			"Exit codes: 0, all is well; 1, a check failed; 2, none failed, and one warned or could not be done.",
		Example: "  kubectl calls doctor                # of all namespaces\n" +
			"  kubectl calls doctor -n voice\n" +
			"  kubectl calls doctor --pre          # before callguard is installed\n" +
			"  kubectl calls doctor -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, outputJSON); err != nil {
				return err
			}
			namespace, given, err := c.namespace()
			if err != nil {
				return err
			}
			if !given {
				namespace = ""
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			if pre {
				return report(c.Out, cl.examineBefore(cmd.Context()), output)
			}
			return report(c.Out, cl.examine(cmd.Context(), namespace), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "json.")
	cmd.Flags().BoolVar(&pre, "pre", pre, "Check the requirements for an install, before callguard is installed.")
	return cmd
}

// examination runs checks one after the other, and passes on the findings of each as soon
// as it is done, because a check may take long and people watch the output.
type examination func(tell func(...finding))

// The columns are wide enough for every level and check, because a line is printed before
// the next is known.
const (
	levelColumn = len(fail) + 2
	checkColumn = len("other-budgets") + 2
)

// report prints each finding as soon as it is known, and returns an error by the worst one.
// JSON is one document, printed at the end.
func report(out io.Writer, examine examination, output string) error {
	list := FindingList{Kind: "FindingList", Items: []Finding{}}
	var worst, unwritten error
	examine(func(findings ...finding) {
		for _, f := range findings {
			switch {
			case f.level == fail:
				worst = errFailed
			case f.level == warn && worst == nil:
				worst = errWarned
			}
			what := oneLine(f.what)
			list.Items = append(list.Items, Finding{Level: string(f.level), Check: f.check, What: what, Do: f.do})
			if output == outputJSON {
				continue
			}
			if f.do != "" {
				what += "; " + f.do
			}
			if _, err := fmt.Fprintf(out, "%-*s%-*s%s\n", levelColumn, f.level, checkColumn, f.check, what); err != nil {
				unwritten = cmp.Or(unwritten, fmt.Errorf("cannot print what was found: %w", err))
			}
		}
	})
	if output == outputJSON {
		unwritten = printJSON(out, list)
	}
	return cmp.Or(unwritten, worst)
}

// scene has what several checks read.
type scene struct {
	admin      administered
	namespaces map[string]bool  // enabled namespaces
	optIns     map[string]optIn // of namespaces with the label, or of the requested one
	pods       []*corev1.Pod    // guarded
	budgets    []*policyv1.PodDisruptionBudget
	// held reports whether the policies that protect calls are known to be in effect. Without
	// them no finding says that calls are protected.
	held bool
}

// heldAllTheSame returns the end of a sentence about something else that is wrong: calls
// are protected all the same.
func (s scene) heldAllTheSame() string {
	if s.held {
		return "; calls are held all the same"
	}
	return ""
}

// enabledPods returns the guarded pods in enabled namespaces.
func (s scene) enabledPods() []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(s.pods), func(p *corev1.Pod) bool { return !s.namespaces[p.Namespace] })
}

func (s scene) sorted() []string {
	var names []string
	for name, is := range s.namespaces {
		if is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// examine runs every check for which there are the rights.
func (c *cluster) examine(ctx context.Context, namespace string) examination {
	return func(tell func(...finding)) {
		s := scene{admin: c.administered(ctx)}
		server := c.checkServer()
		if c.absent(ctx, s.admin) {
			tell(slices.DeleteFunc(server, func(f finding) bool { return f.level == ok })...)
			s.pods, _ = c.guarded(ctx, namespace, "", "") // this does not matter for whether callguard is installed
			tell(notInstalled(s.admin, s.pods))
			return
		}
		tell(server...)
		tell(c.checkVersions(ctx))
		var podsErr, budgetsErr, namespacesErr error
		s.pods, podsErr = c.guarded(ctx, namespace, "", "")
		s.namespaces, s.optIns, namespacesErr = c.enabledIn(ctx, namespace)
		s.budgets, budgetsErr = c.budgets(ctx, namespace)
		var doors []finding
		doors, s.held = c.checkDoors(ctx, s)
		tell(doors...)
		tell(c.checkGuard(ctx, s)...)
		known := func(check string, does func() []finding, errs ...error) {
			if err := errors.Join(errs...); err != nil {
				tell(finding{warn, check, unchecked(err), ""})
				return
			}
			tell(does()...)
		}
		known("namespaces", func() []finding { return checkNamespaces(s) }, namespacesErr, budgetsErr)
		known("opt-in", func() []finding { return checkOptIn(s) }, podsErr, namespacesErr)
		tell(c.checkWorkloads(ctx, namespace)...)
		known("other-budgets", func() []finding { return checkForeign(s) }, podsErr, namespacesErr, budgetsErr)
		known("pods", func() []finding { return c.checkPods(ctx, s) }, podsErr, namespacesErr)
		api, others := c.checkMetricsAPI(ctx, s)
		tell(api...)
		known("autoscalers", func() []finding { return c.checkAutoscalers(ctx, namespace, s) }, namespacesErr)
		known("calls", func() []finding { return c.checkCalls(ctx, s, others) }, podsErr, namespacesErr)
	}
}

// checkAutoscalers looks for mistakes in autoscalers, such as one that scales a guarded
// workload to zero: then no agent answers, so no call is counted, and the workload never
// grows again.
func (c *cluster) checkAutoscalers(ctx context.Context, namespace string, s scene) []finding {
	const check = "autoscalers"
	hpas, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return []finding{{warn, check, unchecked(fmt.Errorf("cannot list the HorizontalPodAutoscalers: %w", err)), ""}}
	}
	var list []finding
	scaledBy := map[string]string{} // the autoscaler of each workload
	for _, hpa := range hpas.Items {
		if !s.namespaces[hpa.Namespace] {
			continue
		}
		of := hpa.Spec.ScaleTargetRef
		name := fmt.Sprintf("HorizontalPodAutoscaler %s/%s ", hpa.Namespace, hpa.Name)
		toZero := hpa.Spec.MinReplicas != nil && *hpa.Spec.MinReplicas == 0
		guarded, meta, err := c.makesGuarded(ctx, hpa.Namespace, of.Kind, of.Name)
		if err == nil && !guarded {
			continue
		}
		if toZero {
			what := fmt.Sprintf("%smay scale %s %s to zero", name, of.Kind, of.Name)
			if err != nil {
				what += fmt.Sprintf(" (whether its pods are guarded is not known: %v)", err)
			}
			list = append(list, finding{warn, check, what + ": then no agent answers, and no call brings one back", "minReplicas: 1, or more"})
		}
		workload := fmt.Sprintf("%s/%s/%s", hpa.Namespace, of.Kind, of.Name)
		if other := scaledBy[workload]; other != "" {
			list = append(list, finding{warn, check, fmt.Sprintf("%sscales %s %s, and so does %s: each undoes the steps of the other", name, of.Kind, of.Name, other),
				"keep one; that of a ScaledObject is KEDA's own"})
		}
		scaledBy[workload] = hpa.Name
		if err == nil {
			for _, m := range hpaMistakes(&hpa, meta) {
				list = append(list, finding{warn, check, name + m.what, m.do})
			}
		}
	}
	list = append(list, c.checkScaledObjects(ctx, namespace, s)...)
	return bounded(list, finding{ok, check, "no HorizontalPodAutoscaler may scale a guarded workload to zero", ""})
}

// makesGuarded reports whether a workload creates guarded pods.
func (c *cluster) makesGuarded(ctx context.Context, namespace, kind, name string) (bool, metav1.ObjectMeta, error) {
	var template corev1.PodTemplateSpec
	var meta metav1.ObjectMeta
	var err error
	switch kind {
	case "Deployment":
		d, failed := c.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err = failed; err == nil {
			template, meta = d.Spec.Template, d.ObjectMeta
		}
	case "StatefulSet":
		set, failed := c.client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err = failed; err == nil {
			template, meta = set.Spec.Template, set.ObjectMeta
		}
	case "ReplicaSet":
		set, failed := c.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err = failed; err == nil {
			template, meta = set.Spec.Template, set.ObjectMeta
		}
	default:
		return false, meta, fmt.Errorf("callguard does not read the kind %s", kind)
	}
	if apierrors.IsNotFound(err) {
		return false, meta, nil
	}
	return template.Labels[call.GuardedLabel] == "true", meta, err
}

// enabledIn returns which namespaces are enabled, and the labels of those that have one: of
// all, or of one.
func (c *cluster) enabledIn(ctx context.Context, namespace string) (map[string]bool, map[string]optIn, error) {
	on := map[string]bool{}
	if namespace != "" {
		found, err := c.optIns(ctx, []string{namespace})
		on[namespace] = found[namespace].on
		return on, found, err
	}
	list, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: call.EnabledLabel})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the enabled namespaces: %w", err)
	}
	found := map[string]optIn{}
	for i := range list.Items {
		ns := &list.Items[i]
		found[ns.Name] = optInOf(ns)
		on[ns.Name] = found[ns.Name].on && ns.DeletionTimestamp == nil
	}
	return on, found, nil
}

func (c *cluster) checkServer() []finding {
	const check = "api-server"
	version, err := c.client.Discovery().ServerVersion()
	if err != nil {
		return []finding{{fail, check, fmt.Sprintf("it does not tell its version: %v", err), "see whether kubectl version works"}}
	}
	served, err := c.client.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return []finding{{fail, check, fmt.Sprintf("%s does not tell its admission policies: %v", version, err), "callguard needs Kubernetes 1.34 or newer"}}
	}
	serves := func(resource string) bool {
		return slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == resource })
	}
	switch {
	case !serves("validatingadmissionpolicies"):
		return []finding{{fail, check, fmt.Sprintf("%s has no ValidatingAdmissionPolicy, so nothing holds calls", version), "callguard needs Kubernetes 1.34 or newer"}}
	case !serves("mutatingadmissionpolicies"):
		return []finding{{warn, check, fmt.Sprintf("%s has no MutatingAdmissionPolicy: %s", version, admission.WithoutGrace), "never use kubectl drain --grace-period; Kubernetes 1.36 has it"}}
	}
	return []finding{{ok, check, fmt.Sprintf("%s serves validating and mutating admission policies", version), ""}}
}

// checkDoors also reports whether the policies that protect calls are known to be in
// effect.
func (c *cluster) checkDoors(ctx context.Context, s scene) (list []finding, held bool) {
	const check = "doors"
	graceless, err := admission.Check(ctx, c.client, s.admin.doors)
	if err != nil {
		if forbidden(err) {
			return []finding{{warn, check, unchecked(err), ""}}, false
		}
		return []finding{{fail, check, err.Error(), doorsCure(err, s.admin) + "; nothing is released until then, and calls may be lost"}}, false
	}
	text := "all admission policies are as this version has them"
	if graceless {
		text = "all other admission policies are as this version has them"
		list = []finding{{warn, check, "MutatingAdmissionPolicy and binding callguard-grace are missing: " + admission.WithoutGrace, admission.GraceCure + "; until then never use kubectl drain --grace-period"}}
	}
	if s.admin.note != "" {
		text += " (" + s.admin.note + ")"
	}
	pods := s.enabledPods()
	if !slices.ContainsFunc(pods, admission.Locked) {
		return append(list, finding{ok, check, text + "; there is no locked pod to try them on", ""}), true
	}
	switch err := c.tryDoor(ctx, s.admin, pods); {
	case errors.Is(err, admission.ErrNotTried):
		return append(list, finding{ok, check, text + "; " + err.Error(), ""}), true
	case err != nil:
		return append(list, finding{fail, check, err.Error(), "calls may be lost; see the log of kube-apiserver for the policies named callguard-…"}), false
	}
	return append(list, finding{ok, check, text + ", and the API server refuses to delete a locked pod", ""}), true
}

func (c *cluster) checkGuard(ctx context.Context, s scene) []finding {
	const check = "drain-guard"
	holder, err := leader.Find(ctx, c.client, c.callguard, leaderWithin)
	switch {
	case errors.Is(err, leader.ErrNone):
		return []finding{{fail, check, err.Error(), fmt.Sprintf("see Deployment %s/%s, or set --callguard-namespace; no pod is released", c.callguard, call.GuardName) + s.heldAllTheSame()}}
	case err != nil:
		return []finding{{warn, check, unchecked(err), ""}}
	}
	return []finding{{ok, check, holder + " leads", ""}}
}

// bounded shortens the findings of one check, or returns well if there are none.
func bounded(list []finding, well finding) []finding {
	if len(list) == 0 {
		return []finding{well}
	}
	if more := len(list) - mostOfAKind; more > 0 {
		last := list[mostOfAKind-1]
		last.what, last.do = fmt.Sprintf("and %d more like this", more+1), ""
		return append(list[:mostOfAKind-1], last)
	}
	return list
}

func checkNamespaces(s scene) []finding {
	const check = "namespaces"
	var list []finding
	names := s.sorted()
	for _, name := range names {
		i := slices.IndexFunc(s.budgets, func(b *policyv1.PodDisruptionBudget) bool { return b.Namespace == name && b.Name == guard.BudgetName })
		if i < 0 {
			list = append(list, finding{fail, check, fmt.Sprintf("PodDisruptionBudget %s/%s is missing: no guarded pod can be born there, and evictions are not refused", name, guard.BudgetName), "the drain-guard makes it; see its log"})
		} else if err := guard.BudgetLocks(s.budgets[i]); err != nil {
			list = append(list, finding{fail, check, err.Error() + ", so evictions are not refused", "the drain-guard mends it, but not after an unlock; see its log"})
		}
	}
	var labelled []string
	for name, is := range s.optIns {
		// "false" is intended, not a mistake.
		if is.wrong != nil && *is.wrong != "false" {
			labelled = append(labelled, name)
		}
	}
	slices.Sort(labelled)
	for _, name := range labelled {
		is := s.optIns[name]
		list = append(list, finding{warn, check, is.off(name) + ", and nothing holds calls there", is.enable(name)})
	}
	if len(names) == 0 && len(list) == 0 {
		return []finding{{warn, check, "no namespace is enabled", "an administrator enables one: " + optIn{}.enable("NAME")}}
	}
	return bounded(list, finding{ok, check, fmt.Sprintf("%d enabled, each with its PodDisruptionBudget %s: %s", len(names), guard.BudgetName, some(names)), ""})
}

// some returns the first few names as text.
func some(names []string) string {
	if more := len(names) - mostOfAKind; more > 0 {
		return strings.Join(names[:mostOfAKind], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

func checkOptIn(s scene) []finding {
	const check = "opt-in"
	byNamespace := map[string][]*corev1.Pod{}
	for _, pod := range s.pods {
		if !s.namespaces[pod.Namespace] {
			byNamespace[pod.Namespace] = append(byNamespace[pod.Namespace], pod)
		}
	}
	var list []finding
	for name, pods := range byNamespace {
		is := s.optIns[name]
		list = append(list, finding{fail, check, fmt.Sprintf("%s, and nothing holds the calls of %s there, such as %s", is.off(name), plural(len(pods), "guarded pod"), pods[0].Name),
			"an administrator enables it: " + is.enable(name)})
	}
	slices.SortFunc(list, func(a, b finding) int { return cmp.Compare(a.what, b.what) })
	if len(s.pods) == 0 {
		return []finding{{warn, check, "there is no guarded pod, so no call is held or counted", fmt.Sprintf("label the pod template of each agent: %s: \"true\"", call.GuardedLabel)}}
	}
	return bounded(list, finding{ok, check, fmt.Sprintf("every guarded pod is in an enabled namespace: %s", plural(len(s.pods), "pod")), ""})
}

func checkForeign(s scene) []finding {
	const check = "other-budgets"
	var list []finding
	for _, name := range s.sorted() {
		mine := slices.DeleteFunc(s.enabledPods(), func(p *corev1.Pod) bool { return p.Namespace != name })
		budgets := slices.DeleteFunc(slices.Clone(s.budgets), func(b *policyv1.PodDisruptionBudget) bool { return b.Namespace != name })
		for _, f := range guard.ForeignBudgets(budgets, mine) {
			list = append(list, finding{fail, check, fmt.Sprintf("PodDisruptionBudget %s/%s matches guarded pods, such as %s, beside callguard's: drains give up on them (500)", name, f.Budget.Name, f.Pod.Name),
				"delete it, and use annotation " + call.MinAvailableAnnotation + " of the workload"})
		}
	}
	return bounded(list, finding{ok, check, "no other PodDisruptionBudget matches a guarded pod", ""})
}

// checkPods looks for what weakens the protection of pods.
func (c *cluster) checkPods(ctx context.Context, s scene) []finding {
	const check = "pods"
	var short, unlocked, pending, unable, bearing, stuck, unfollowed []*corev1.Pod
	lacks, mountsErr := c.failedMounts(ctx, s.enabledPods())
	for _, pod := range s.enabledPods() {
		if guard.BearsDisruption(pod) {
			bearing = append(bearing, pod)
		}
		if why := guard.CannotStart(pod); why != "" {
			lacks[pod.UID] = why
		}
		if lacks[pod.UID] != "" {
			stuck = append(stuck, pod)
		}
		if guard.NotFollowed(pod, s.admin.settings.Owners) != "" {
			unfollowed = append(unfollowed, pod)
		}
		grace := pod.Spec.TerminationGracePeriodSeconds
		if gateUnready(pod, c.now()) {
			unable = append(unable, pod)
		}
		switch {
		case pod.Labels[call.ReleasedLabel] == string(call.Unlock):
			unlocked = append(unlocked, pod)
		case pod.Status.Phase == corev1.PodPending && admission.Locked(pod):
			pending = append(pending, pod)
		case grace != nil && time.Duration(*grace)*time.Second < s.admin.settings.AgentDrainTimeout:
			short = append(short, pod)
		}
	}
	var list []finding
	add := func(l level, pods []*corev1.Pod, format, do string) {
		if len(pods) > 0 {
			list = append(list, finding{l, check, fmt.Sprintf("%d of %d guarded pods, such as %s/%s, ", len(pods), len(s.enabledPods()), pods[0].Namespace, pods[0].Name) + format, do})
		}
	}
	needed := s.admin.settings.AgentDrainTimeout
	add(warn, short, fmt.Sprintf("have a shorter grace than the %s an agent may take to finish its calls", needed), fmt.Sprintf("terminationGracePeriodSeconds: %d", int(needed.Seconds())))
	add(warn, unlocked, "were unlocked, and nothing holds their calls", "replace them: kubectl rollout restart")
	if len(stuck) > 0 {
		add(fail, stuck, "cannot start: "+lacks[stuck[0].UID], "create what is missing, such as the Secret that the pod template names")
	}
	if mountsErr != nil {
		list = append(list, finding{warn, check, "whether pods that are being created lack what they mount is " + unchecked(mountsErr), ""})
	}
	if len(unfollowed) > 0 {
		kind := guard.NotFollowed(unfollowed[0], s.admin.settings.Owners)
		add(warn, unfollowed, "belong to a "+kind+", which drain-guard does not follow: they leave in drains, but not in its scale-downs and rollouts",
			"if it has a scale subresource, name it in drainGuard.owners of callguard's chart; let a pod go with annotation "+call.LeaveAnnotation)
	}
	if len(unable) > 0 {
		what, do := c.whyUnable(ctx, unable[0])
		add(warn, unable, "can take no call: "+what, do)
	}
	add(fail, pending, "are Pending while a container runs, and are evicted past every budget", "make helpers native sidecars")
	add(fail, bearing, "tolerate the taint "+guard.KarpenterTaint+":NoSchedule: Karpenter neither evicts them nor waits for them, and their calls end with their node", "name the taints that the pod template tolerates, rather than all of them (operator Exists without a key)")
	well := "every guarded pod has the grace its agent needs"
	switch {
	case len(s.enabledPods()) == 0:
		well = "there is no guarded pod in an enabled namespace"
	case s.held:
		well += ", and is locked from birth"
	}
	return bounded(list, finding{ok, check, well, ""})
}

// failedMounts says of pods that are being created what they mount and is missing, by the
// kubelets' Events. Namespaces without such a pod are not asked.
func (c *cluster) failedMounts(ctx context.Context, pods []*corev1.Pod) (map[types.UID]string, error) {
	starting := map[string]map[types.UID]*corev1.Pod{}
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodPending && pod.Spec.NodeName != "" && pod.DeletionTimestamp == nil {
			if starting[pod.Namespace] == nil {
				starting[pod.Namespace] = map[types.UID]*corev1.Pod{}
			}
			starting[pod.Namespace][pod.UID] = pod
		}
	}
	lacks := map[types.UID]string{}
	for namespace, of := range starting {
		events, err := c.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: guard.FailedMounts().String(), Limit: eventPages})
		if err != nil {
			return lacks, fmt.Errorf("cannot list Events: %w", err)
		}
		for i := range events.Items {
			e := &events.Items[i]
			if pod := of[e.InvolvedObject.UID]; pod != nil && lacks[pod.UID] == "" {
				lacks[pod.UID] = guard.CannotMount(pod, e.Message)
			}
		}
	}
	return lacks, nil
}

// registersWithin is how long a worker may take to be registered with LiveKit.
const registersWithin = 2 * time.Minute

// gateUnready reports whether, by the readiness probe, the pod's call-gate has had no
// registered worker for long.
func gateUnready(pod *corev1.Pod, now time.Time) bool {
	return pod.Annotations[call.GatePortAnnotation] != "" && pod.DeletionTimestamp == nil &&
		slices.ContainsFunc(pod.Spec.InitContainers, func(gate corev1.Container) bool {
			return gate.ReadinessProbe != nil && gate.ReadinessProbe.HTTPGet != nil && gate.ReadinessProbe.HTTPGet.Path == "/readyz" &&
				slices.ContainsFunc(pod.Status.InitContainerStatuses, func(c corev1.ContainerStatus) bool {
					return c.Name == gate.Name && !c.Ready && c.State.Running != nil && now.Sub(c.State.Running.StartedAt.Time) >= registersWithin
				})
		})
}

// whyUnable asks a pod's gate, through the API server, why no worker is registered. If that
// is not allowed or does not work, it returns how to ask.
func (c *cluster) whyUnable(ctx context.Context, pod *corev1.Pod) (what, do string) {
	port, err := call.ParseGatePort(pod.Annotations[call.GatePortAnnotation])
	if err != nil {
		return "no gate can be asked: " + err.Error(), "correct the annotation"
	}
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/calls", pod.Namespace, pod.Name, port)
	var answer struct {
		Able   *bool        `json:"able"`
		Unable call.Ability `json:"unable"`
	}
	secret := guard.KeySecret(pod)
	if err := c.get(ctx, path, &answer); err == nil && answer.Able != nil && !*answer.Able && answer.Unable.Unable() {
		return verdict.Unable{Pod: pod.Namespace + "/" + pod.Name, Secret: secret, Why: answer.Unable}.Sentence(), "kubectl get --raw " + path + " says more"
	}
	what = "no worker is registered with LiveKit through their call-gates"
	if secret != "" {
		what += ", which have their key from Secret " + secret
	}
	return what, "kubectl get --raw " + path + " says why"
}

// checkMetricsAPI also reports whether the API, or a version of it, belongs to another
// adapter.
func (c *cluster) checkMetricsAPI(ctx context.Context, s scene) (list []finding, others bool) {
	const check = "metrics-api"
	ours, theirs := c.callguard+"/"+call.AdapterName, ""
	var missing, taken, putBack []string
	beside := ""
	for _, name := range apiservice.Names() {
		var service apiregistrationv1.APIService
		err := c.get(ctx, apiservice.Path(name), &service)
		switch {
		case apierrors.IsForbidden(err):
			return []finding{{warn, check, unchecked(err), ""}}, false
		case apierrors.IsNotFound(err):
			missing = append(missing, name)
			continue
		case err != nil:
			return []finding{{fail, check, fmt.Sprintf("cannot read APIService %s: %v", name, err), ""}}, false
		}
		owner := apiservice.Owner(&service)
		before, err := apiservice.WasBefore(&service)
		switch {
		case err != nil:
			return []finding{{fail, check, err.Error(), "write the APIService as it was"}}, false
		case before != nil && owner != ours:
			putBack = append(putBack, name)
		case before != nil && !before.Absent:
			beside = ", which forwards requests for other metrics to " + before.Service
		}
		if owner != ours {
			theirs = cmp.Or(owner, "kube-apiserver itself")
			taken = append(taken, name)
		}
		if why := apiservice.Unavailable(&service); why != "" {
			return []finding{{fail, check, fmt.Sprintf("APIService %s is not available: %s", name, why), "see the log of " + cmp.Or(owner, "its server")}}, owner != ours
		}
	}
	switch {
	case len(putBack) > 0:
		names := strings.Join(putBack, " ")
		return []finding{{fail, check, fmt.Sprintf("callguard had taken over %s from another adapter, and it names %s again: autoscalers and this plugin read no calls there%s", strings.Join(putBack, " and "), theirs, s.heldAllTheSame()),
			fmt.Sprintf("take it out of what applies it, such as the other adapter's chart; then: kubectl annotate apiservice %s %s- && kubectl rollout restart deployment %s -n %s", names, apiservice.BeforeAnnotation, call.AdapterName, c.callguard)}}, true
	case len(taken) > 0:
		return []finding{{warn, check, fmt.Sprintf("%s is served by %s, not by callguard's Service %s: autoscalers and this plugin read no calls of callguard's there%s", strings.Join(taken, " and "), theirs, ours, s.heldAllTheSame()),
			"autoscalers read them through the other adapter, as the README of charts/callguard says under \"Another adapter\"; have callguard serve beside it, with metricsAdapter.mode=compose; or remove it, and install the metrics-adapter"}}, true
	case len(missing) > 0:
		return []finding{{fail, check, "there is no APIService " + strings.Join(missing, " and ") + ": autoscalers and this plugin read no calls" + s.heldAllTheSame(),
			"install the metrics-adapter (metricsAdapter.mode of charts/callguard); or another adapter, as its README says under \"Another adapter\""}}, false
	}
	return []finding{{ok, check, "custom.metrics.k8s.io is available, by Service " + ours + beside, ""}}, false
}

// checkCalls checks that calls are known. If the API belongs to another adapter, which has
// no calls, that is no failure.
func (c *cluster) checkCalls(ctx context.Context, s scene, others bool) []finding {
	const check = "calls"
	byNamespace := map[string][]*corev1.Pod{}
	for _, pod := range s.enabledPods() {
		if admission.Locked(pod) {
			byNamespace[pod.Namespace] = append(byNamespace[pod.Namespace], pod)
		}
	}
	var list []finding
	pods, calls := 0, 0
	for _, name := range s.sorted() {
		mine := byNamespace[name]
		if len(mine) == 0 {
			continue
		}
		pods += len(mine)
		counted := c.calls(ctx, name)
		if forbidden(counted.err) {
			list = append(list, finding{warn, check, unchecked(counted.err), ""})
			continue
		}
		if counted.err != nil {
			bad, do := fail, "autoscalers and drains wait until they are"
			if counted.unread {
				do = "autoscalers wait until they are; the guard asks the pods' witnesses itself"
				if others {
					bad, do = warn, "the guard asks the pods' witnesses itself"
				}
			}
			list = append(list, finding{bad, check, fmt.Sprintf("the calls of the %d pods of namespace %s are unknown: %s", len(mine), name, counted.err), do})
			continue
		}
		unknown, example := 0, ""
		for _, pod := range mine {
			if n, known := counted.of(pod.Name).Calls(); known {
				calls += n
			} else {
				unknown++
				example = cmp.Or(example, pod.Name)
			}
		}
		if unknown > 0 {
			list = append(list, finding{warn, check, fmt.Sprintf("the calls of %d of the %d pods of namespace %s are unknown: %s", unknown, len(mine), name, c.reason(ctx, name, example)),
				"a pod whose calls are unknown does not count for scaling, and is not released"})
		}
	}
	if pods == 0 {
		return bounded(list, finding{ok, check, "no guarded pod runs", ""})
	}
	return bounded(list, finding{ok, check, fmt.Sprintf("known of all running guarded pods: %s in %s", plural(calls, "call"), plural(pods, "pod")), ""})
}
