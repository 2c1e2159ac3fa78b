// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/pkg/metricsapi"
)

const (
	// checkEvery is how often a check is repeated until it passes.
	checkEvery = time.Second
	// checkRequest is the time limit of one of its requests.
	checkRequest = 10 * time.Second
)

// check asks the API server what an autoscaler would ask: whether the metrics API is
// available, and how many calls there are. It changes nothing.
type check struct {
	kubeconfig string
	service    string
	namespace  string
	timeout    time.Duration
}

func newCheck() *check {
	return &check{service: NewOptions().service, timeout: time.Minute}
}

// Flags returns the flags, bound to the check.
func (c *check) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("metrics-adapter check", pflag.ContinueOnError)
	fs.StringVar(&c.kubeconfig, "kubeconfig", c.kubeconfig, "Path to a kubeconfig; defaults to the in-cluster configuration.")
	fs.StringVar(&c.service, "service", c.service, "namespace/name of the Service that the APIServices should name.")
	fs.StringVar(&c.namespace, "namespace", c.namespace, "Read the calls of the pods of this namespace; by default those of every node.")
	fs.DurationVar(&c.timeout, "timeout", c.timeout, "How long to retry while something is missing.")
	return fs
}

// Validate reports what is wrong with them.
func (c *check) Validate() error {
	if c.timeout <= 0 {
		return fmt.Errorf("--timeout is %s; use a duration above zero, such as 1m", c.timeout)
	}
	return nil
}

// run prints to out what it sees, and returns what is still missing at the timeout.
func (c *check) run(ctx context.Context, out io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return fmt.Errorf("no way to the Kubernetes API: %w; run in a pod or set --kubeconfig", err)
	}
	config.Timeout = checkRequest
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for _, name := range apiservice.Names() {
		if err := untilPassed(ctx, func() error { return c.available(ctx, client.RESTClient(), name) }); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "APIService %s is available, by Service %s\n", name, c.service)
	}
	var seen string
	err = untilPassed(ctx, func() (err error) {
		seen, err = c.calls(ctx, client.RESTClient())
		return err
	})
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, seen)
	return nil
}

// available returns nil if an APIService is available and callguard's.
func (c *check) available(ctx context.Context, client rest.Interface, name string) error {
	var service apiregistrationv1.APIService
	if err := get(ctx, client, apiservice.Path(name), &service); err != nil {
		return fmt.Errorf("cannot read APIService %s: %w", name, err)
	}
	owner := apiservice.Owner(&service)
	if owner != c.service {
		return fmt.Errorf("APIService %s belongs to Service %q, not %s; one adapter in a cluster can serve custom metrics: remove the other, or set --service", name, owner, c.service)
	}
	if why := apiservice.Unavailable(&service); why != "" {
		return fmt.Errorf("APIService %s is not available: %s; the log of %s says why", name, why, c.service)
	}
	return nil
}

// calls reads the calls, and returns text with their number.
func (c *check) calls(ctx context.Context, client rest.Interface) (string, error) {
	what, path := "nodes", "/nodes/*/"
	if c.namespace != "" {
		what, path = "guarded pods of namespace "+c.namespace, "/namespaces/"+url.PathEscape(c.namespace)+"/pods/*/"
	}
	var list v1beta2.MetricValueList
	if err := get(ctx, client, "/apis/"+v1beta2.SchemeGroupVersion.String()+path+metricsapi.ActiveCalls, &list); err != nil {
		return "", fmt.Errorf("cannot read %s of the %s: %w", metricsapi.ActiveCalls, what, err)
	}
	if len(list.Items) == 0 {
		return "", fmt.Errorf("there are no %s whose %s are known; give --namespace an enabled namespace with running guarded pods, or leave it out", what, metricsapi.ActiveCalls)
	}
	total := int64(0)
	for _, item := range list.Items {
		total += item.Value.Value()
	}
	return fmt.Sprintf("%s of %d %s: %d in all", metricsapi.ActiveCalls, len(list.Items), what, total), nil
}

func get(ctx context.Context, client rest.Interface, path string, into any) error {
	result := client.Get().AbsPath(path).Do(ctx)
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

// untilPassed tries until ctx is done, and then returns the last error.
func untilPassed(ctx context.Context, try func() error) error {
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // more useful than that the time is over
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(checkEvery):
		}
	}
}

// runCheck runs the command "check".
func runCheck(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c := newCheck()
	if ok, err := program.Parse(args, c, "settings are flags, see check --help", stderr); !ok {
		return err
	}
	return c.run(ctx, stdout)
}
