// SPDX-License-Identifier: Apache-2.0

// Command otheradapter is the test adapter of sigs.k8s.io/custom-metrics-apiserver, the
// library of prometheus-adapter and others: it serves metrics that are posted to it. Unlike
// the library's own program, flags set where it listens and how many metrics it lists.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-base/metrics/legacyregistry"
	apimetrics "sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver/metrics"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
	testprovider "sigs.k8s.io/custom-metrics-apiserver/test-adapter/provider"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// listing lists more metrics than its provider has.
type listing struct {
	provider.CustomMetricsProvider

	metrics int
}

// ListAllMetrics implements provider.CustomMetricsProvider.
func (l listing) ListAllMetrics() []provider.CustomMetricInfo {
	infos := make([]provider.CustomMetricInfo, l.metrics)
	for i := range infos {
		infos[i] = provider.CustomMetricInfo{GroupResource: schema.GroupResource{Resource: "pods"}, Namespaced: true, Metric: fmt.Sprintf("other_%d", i)}
	}
	return infos
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	base := &basecmd.AdapterBase{Name: "otheradapter"}
	write := base.Flags().String("write-address", "", "Address at which metrics are posted.")
	metrics := base.Flags().Int("metrics", 1, "How many metrics are listed.")
	if err := base.Flags().Parse(args); err != nil {
		return err
	}
	client, err := base.DynamicClient()
	if err != nil {
		return err
	}
	mapper, err := base.RESTMapper()
	if err != nil {
		return err
	}
	if err := apimetrics.RegisterMetrics(legacyregistry.Register); err != nil {
		return err
	}
	values, posts := testprovider.NewFakeProvider(client, mapper)
	base.WithCustomMetrics(listing{values, *metrics})
	container := restful.NewContainer()
	container.Add(posts)
	server := &http.Server{Addr: *write, Handler: container, ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	if err := base.Run(ctx); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	default:
		return server.Close()
	}
}
