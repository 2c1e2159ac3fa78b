// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
)

const (
	// requestTimeout is the time limit of a request, unless --request-timeout is given.
	requestTimeout = 30 * time.Second
	// activeCalls is the metric that the metrics-adapter serves.
	activeCalls = "active_calls"

	clientQPS, clientBurst = 50, 100
)

// cluster reads a cluster for the commands.
type cluster struct {
	client kubernetes.Interface
	// get reads objects for which client has no types, by their path.
	get func(ctx context.Context, path string, into any) error
	// callguard is the namespace of the guard.
	callguard string
	now       func() time.Time
}

// connect creates the clients for the flags.
func (c *common) connect() (*cluster, error) {
	config, err := c.flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("no way to the Kubernetes API: %w; set --kubeconfig or --context", err)
	}
	config.QPS, config.Burst = clientQPS, clientBurst
	if config.Timeout == 0 {
		config.Timeout = requestTimeout
	}
	config.UserAgent = "kubectl-calls"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}
	return &cluster{client: client, get: getter(client.Discovery().RESTClient()), callguard: c.callguard, now: time.Now}, nil
}

// namespace returns the namespace of -n or of the kubeconfig; given reports whether it is
// from -n.
func (c *common) namespace() (name string, given bool, err error) {
	name, given, err = c.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", false, fmt.Errorf("cannot tell the namespace: %w; set --namespace", err)
	}
	return name, given, nil
}

func getter(client rest.Interface) func(context.Context, string, any) error {
	return func(ctx context.Context, path string, into any) error {
		result := client.Get().RequestURI(path).Do(ctx)
		if err := result.Error(); err != nil { // unlike the error of Raw, it has the server's message
			return err
		}
		text, err := result.Raw()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return fmt.Errorf("unexpected answer: %w", err)
		}
		return nil
	}
}

// guarded lists guarded pods of a namespace, or of all.
func (c *cluster) guarded(ctx context.Context, namespace, selector, fields string) ([]*corev1.Pod, error) {
	if selector != "" {
		selector = "," + selector
	}
	var pods []*corev1.Pod
	list := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.client.CoreV1().Pods(namespace).List(ctx, o)
	})
	err := list.EachListItem(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true" + selector, FieldSelector: fields}, func(o runtime.Object) error {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list guarded pods: %w", err)
	}
	return pods, nil
}

// budgets lists the PodDisruptionBudgets of a namespace, or of all.
func (c *cluster) budgets(ctx context.Context, namespace string) ([]*policyv1.PodDisruptionBudget, error) {
	list, err := c.client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the PodDisruptionBudgets: %w", err)
	}
	var found []*policyv1.PodDisruptionBudget
	for i := range list.Items {
		found = append(found, &list.Items[i])
	}
	return found, nil
}

// counts has the calls of a namespace's pods, from the metrics API.
type counts struct {
	namespace string
	byPod     map[string]call.Reading
	// err is why no pod's calls are known.
	err error
	// unread reports that the API cannot be read, so that the guard may know more. It is not
	// set if the adapter answered that it does not know.
	unread bool
}

func metricsPath(namespace, pod string) string {
	return "/apis/" + v1beta2.SchemeGroupVersion.String() + "/namespaces/" + url.PathEscape(namespace) + "/pods/" + pod + "/" + activeCalls
}

// calls asks the metrics API for the calls of a namespace.
func (c *cluster) calls(ctx context.Context, namespace string) counts {
	found := counts{namespace: namespace, byPod: map[string]call.Reading{}}
	var list v1beta2.MetricValueList
	if err := c.get(ctx, metricsPath(namespace, "*"), &list); err != nil {
		found.err = explainMetrics(err)
		found.unread = !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), activeCalls+" is not known")
		return found
	}
	for _, item := range list.Items {
		found.byPod[item.DescribedObject.Name] = call.Known(int(item.Value.Value()), item.Timestamp.Time)
	}
	return found
}

func explainMetrics(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("you may not read them: %w; ClusterRole %s lets you", err, viewerRole)
	}
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("the metrics API custom.metrics.k8s.io does not serve %s: %w; is the metrics-adapter installed?", activeCalls, err)
	}
	return fmt.Errorf("the metrics API does not answer: %w", err)
}

// of returns the calls of one pod. A pod that the API leaves out is unknown.
func (c counts) of(pod string) call.Reading {
	if c.err != nil {
		return call.Unknown("%s", line(c.err))
	}
	if r, ok := c.byPod[pod]; ok {
		return r
	}
	return call.Unknown("no witness of it answers")
}

// reason asks the metrics API why a pod's calls are not known.
func (c *cluster) reason(ctx context.Context, namespace, pod string) string {
	var list v1beta2.MetricValueList
	if err := c.get(ctx, metricsPath(namespace, url.PathEscape(pod)), &list); err != nil {
		return line(err)
	}
	return "the metrics API knew nothing of it a moment ago; ask again"
}

// text returns a number of calls as text; unknown is a question mark.
func text(r call.Reading) string {
	n, known := r.Calls()
	if !known {
		return "?"
	}
	return fmt.Sprint(n)
}

// words returns the same for a sentence.
func words(r call.Reading) string {
	switch n, known := r.Calls(); {
	case !known:
		return "calls unknown"
	case n == 0:
		return "no call"
	default:
		return plural(n, "call")
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// administered has the administrator's settings.
type administered struct {
	settings guard.Settings
	doors    manifests.Values
	// note is a text that these are defaults, and why; otherwise empty.
	note string
}

// administered reads the guard's settings from the command line of its Deployment.
func (c *cluster) administered(ctx context.Context) administered {
	a := administered{settings: guard.DefaultSettings(), doors: manifests.DefaultValues()}
	a.doors.Namespace = c.callguard
	d, err := c.client.AppsV1().Deployments(c.callguard).Get(ctx, call.GuardName, metav1.GetOptions{})
	if err != nil {
		a.note = fmt.Sprintf("drain-guard's settings are assumed to be the defaults: %s", line(err))
		return a
	}
	i := slices.IndexFunc(d.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == call.GuardName })
	if i < 0 {
		a.note = fmt.Sprintf("drain-guard's settings are assumed to be the defaults: Deployment %s/%s has no container %s", c.callguard, call.GuardName, call.GuardName)
		return a
	}
	container := d.Spec.Template.Spec.Containers[i]
	fs := pflag.NewFlagSet(call.GuardName, pflag.ContinueOnError)
	fs.ParseErrorsAllowlist.UnknownFlags = true
	fs.Usage = func() {}
	guard.AddFlags(fs, &a.settings, &a.doors)
	if err := fs.Parse(append(slices.Clone(container.Command), container.Args...)); err != nil {
		a.note = fmt.Sprintf("the guard's settings are not all known: %s", line(err))
	}
	return a
}

// explainer returns the Explainer for pods of a namespace.
func (c *cluster) explainer(a administered, doors error, n counts) guard.Explainer {
	return guard.Explainer{
		Client: c.client, Settings: a.settings, Doors: doors, Now: c.now(),
		Calls: func(pod *call.Pod) call.Reading { return n.of(pod.Name) },
	}
}
