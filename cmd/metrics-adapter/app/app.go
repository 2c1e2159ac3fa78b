// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
	apimetrics "sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver/metrics"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/metricsapi"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/redispatch"
	"github.com/callguard/callguard/pkg/replicas"
	"github.com/callguard/callguard/pkg/servingcert"
	"github.com/callguard/callguard/pkg/witness"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/pkg/witness/poll"
	"github.com/callguard/callguard/pkg/witness/rooms"
	"github.com/callguard/callguard/pkg/witness/worker"
)

const (
	// gatherFor is how long changes of pods are gathered before they are passed to the
	// witnesses.
	gatherFor = 100 * time.Millisecond
	// maxInFlight is the maximum number of concurrent requests. A list of 5,000 pods takes
	// about 4 MB; all autoscalers of a cluster share five workers.
	maxInFlight = 32
	// gcPercent trades a little CPU for a smaller peak: the adapter mostly allocates lists
	// that are garbage once they are sent.
	gcPercent = 50
)

// Main runs the metrics-adapter until ctx is done, or runs one of its commands check and
// hand-back.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "check" {
		return runCheck(ctx, args[1:], stdout, stderr)
	}
	if len(args) > 0 && args[0] == "hand-back" {
		return runHandBack(ctx, args[1:], stdout, stderr)
	}
	o := NewOptions()
	if ok, err := program.Parse(args, o, "use no command, check or hand-back", stderr); !ok {
		return err
	}
	log, err := o.logLevel.Logger(stderr)
	if err != nil {
		return err
	}
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return run(ctx, o, log)
}

func run(ctx context.Context, o *Options, log *slog.Logger) error {
	restConfig, err := o.base.ClientConfig()
	if err != nil {
		return fmt.Errorf("no way to the Kubernetes API: %w; run in a pod or set --lister-kubeconfig", err)
	}
	client, err := kubernetes.NewForConfig(program.Protobuf(restConfig))
	if err != nil {
		return fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}

	registry := prometheus.NewRegistry()
	legacyregistry.RawMustRegister(registry)
	if err := apimetrics.RegisterMetrics(legacyregistry.Register); err != nil {
		return fmt.Errorf("cannot register the API's metrics: %w", err)
	}

	store := pods.NewStore()
	changed := make(chan struct{}, 1)
	watcher, err := pods.NewWatcher(client, store, func() { signalOnce(changed) }, log)
	if err != nil {
		return err
	}
	asked := poll.Config{
		Pod:      store.ByUID,
		Interval: o.podInterval, MaxStaleness: o.livekit.Rooms.MaxStaleness,
		Timeout: o.workerTimeout, Concurrency: o.workerConcurrency,
		Registry: registry,
	}
	lengths := metricsapi.NewLengths(store)
	agents := worker.NewReader(asked)
	gates := gate.NewLearner(asked, lengths.Of)
	roomMetrics := rooms.NewMetrics(registry)
	transport := livekit.NewTransport()
	tenants := livekit.NewTenants(livekit.TenantsConfig{
		Base: transport, Allowed: o.livekit.Allowed, Domain: program.ClusterDomain(), LookupCNAME: net.DefaultResolver.LookupCNAME,
		Cluster: func(ctx context.Context, addr netip.Addr) bool {
			return program.IsAPIServer(ctx, addr) || watcher.IsNode(addr)
		},
	})
	peers, err := replicas.New(replicas.Config{
		Client: client, Service: named(o.replicasService), Assumed: o.replicas, Registry: registry, Log: log,
	})
	if err != nil {
		return err
	}
	projects := rooms.NewProjects(rooms.ProjectsConfig{
		Default:   rooms.FileCredentials(o.livekit.Files()),
		Secret:    rooms.SecretCredentials(client),
		Transport: transport,
		Tenants:   tenants.Of,
		Replicas:  peers.Count,
		Settings:  o.livekit.Rooms,
		OnChange:  func(uids []types.UID) { agents.Poke(uids...); gates.Poke(uids...) },
		Lengths:   lengths.Table,
		Metrics:   roomMetrics,
		Log:       log,
	})
	book := witness.New(projects, agents, gates, func(pod *call.Pod) {
		log.Warn("LiveKit lists calls that their pods have not known for 5 minutes, for example because an agent was killed; they no longer count for scaling; delete the rooms",
			"pod", pod.NamespacedName, "project", pod.Project, "rooms", projects.RoomSIDs(pod))
	})
	every := func() []*call.Pod { return store.In("", func(*call.Pod) bool { return true }) }
	registry.MustRegister(witness.NewCollector(book, every, time.Now))
	lengths.Ages = func(pod *call.Pod, now time.Time) []time.Duration {
		if pod.Asks(call.Rooms) {
			return projects.Ages(pod, now)
		}
		return gates.Ages(pod, now)
	}
	metrics := metricsapi.New(store, book, lengths, time.Now)
	metrics.Waiting, metrics.Load = projects.Waiting, gates.Load
	registry.MustRegister(metrics.Collector())
	again, err := redispatch.New(redispatch.Config{
		Waiting: projects.Waiting, Pods: every, Dispatch: projects.DispatchAgain, Mine: peers.Mine,
		Demands: func() (demands []call.Demand) {
			for _, taker := range store.Takers() {
				demands = append(demands, taker.Demand)
			}
			return demands
		},
		Ability: func(pod *call.Pod, now time.Time) call.Ability { return gates.Reading(pod, now).Ability() },
		Ask:     gates.Poke, Registry: registry, Log: log,
	})
	if err != nil {
		return err
	}
	beside, err := o.beside(restConfig, registry, log)
	if err != nil {
		return err
	}
	server, keeper, err := o.server(metrics, watcher, beside, log)
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error { return peers.Run(ctx) })
	g.Go(func() error { return projects.Run(ctx) })
	g.Go(func() error {
		return projects.Origins().Keep(ctx, func() map[call.Project]call.Births { return births(store) })
	})
	g.Go(func() error { return again.Run(ctx) })
	g.Go(func() error { return agents.Run(ctx) })
	g.Go(func() error { return gates.Run(ctx) })
	g.Go(func() error {
		tellWitnesses(ctx, changed, store, projects, agents, gates)
		return nil
	})
	if o.webhookAddress != "" {
		webhooks := rooms.NewWebhooks(projects, o.webhookPeers, roomMetrics, log)
		g.Go(func() error { return serveWebhooks(ctx, o.webhookAddress, webhooks) })
	}
	if o.keda.address != "" {
		g.Go(func() error {
			return o.keda.run(ctx, metrics, watcher.Synced, server.GenericAPIServer.SecureServingInfo.Cert, registry)
		})
	}
	if keeper != nil {
		registry.MustRegister(keeper.Collector())
		g.Go(func() error { return keeper.Run(ctx) })
	}
	if beside != nil {
		g.Go(func() error { return beside.run(ctx, o, restConfig, client, keeper, watcher.Synced, registry, log) })
	}
	g.Go(func() error { return server.GenericAPIServer.PrepareRun().RunWithContext(ctx) })
	return g.Wait()
}

// server creates the API server. It is ready as soon as it serves and its informers are
// synced, even if LiveKit does not answer, because an APIService without a ready server
// blocks the deletion of every namespace in the cluster.
func (o *Options) server(metrics *metricsapi.Provider, watcher *pods.Watcher, beside *beside, log *slog.Logger) (*apiserver.CustomMetricsAdapterServer, *servingcert.Keeper, error) {
	o.base.WithCustomMetrics(metrics) // for the OpenAPI document
	config, err := o.base.Config()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot configure the API server: %w", err)
	}
	config.GenericConfig.MaxRequestsInFlight = maxInFlight
	config.GenericConfig.Authorization.Authorizer = metricsapi.WidestFirst(config.GenericConfig.Authorization.Authorizer)
	beside.handlers(config.GenericConfig)
	var keeper *servingcert.Keeper
	if o.selfMadeCertificate() {
		restConfig, err := o.base.ClientConfig()
		if err != nil {
			return nil, nil, err
		}
		dynamicClient, err := dynamic.NewForConfig(restConfig)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot make a Kubernetes client: %w", err)
		}
		keeper, err = servingcert.New(servingcert.Config{
			APIServices: servingcert.APIServices(dynamicClient),
			Names:       apiservice.Names(),
			Service:     o.serviceName(),
			Lifetime:    o.certificateLifetime,
			Shared:      beside != nil,
			Log:         log,
		})
		if err != nil {
			return nil, nil, err
		}
		config.GenericConfig.SecureServing.Cert = keeper
	}
	informers, err := o.base.Informers()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the API server: %w", err)
	}
	server, err := config.Complete(informers).New(o.base.Name, nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the API server: %w", err)
	}
	changed, err := metricsapi.Install(server.GenericAPIServer, metrics, beside.others())
	if err != nil {
		return nil, nil, err
	}
	if beside != nil {
		beside.delegate.OnChange(changed)
	}
	checks := []healthz.HealthChecker{healthz.NamedCheck("informers-synced", func(*http.Request) error {
		if !watcher.Synced() {
			return errors.New("the guarded pods are still being read")
		}
		return nil
	})}
	if keeper != nil {
		checks = append(checks, healthz.NamedCheck("serving-certificate", func(*http.Request) error { return keeper.Published() }))
	}
	if err := server.GenericAPIServer.AddReadyzChecks(checks...); err != nil {
		return nil, nil, fmt.Errorf("cannot add readiness checks: %w", err)
	}
	return server, keeper, nil
}

// tellWitnesses passes the present projects and pods to the witnesses after each change.
func tellWitnesses(ctx context.Context, changed <-chan struct{}, store *pods.Store, projects *rooms.Projects, agents *worker.Reader, gates *gate.Reader) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		projects.Want(births(store))
		for _, pod := range store.In("", func(pod *call.Pod) bool { return pod.Asks(call.Worker) }) {
			agents.Watch(pod.UID)
		}
		for _, pod := range store.In("", func(pod *call.Pod) bool { return pod.Asks(call.Gate) }) {
			gates.Watch(pod.UID)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gatherFor):
		}
	}
}

// births returns the LiveKit projects that pods name, and when these pods were created.
func births(store *pods.Store) map[call.Project]call.Births {
	named := map[call.Project]call.Births{}
	store.EachProject(func(project call.Project, born time.Time) { named[project] = named[project].With(born) })
	return named
}

func serveWebhooks(ctx context.Context, address string, webhooks *rooms.Webhooks) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("cannot take webhooks: %w; choose another --webhook-bind-address", err)
	}
	return webhooks.Serve(ctx, listener)
}

func signalOnce(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default: // already signalled
	}
}
