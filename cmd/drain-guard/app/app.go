// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/crowd"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/pkg/witness/poll"
	"github.com/callguard/callguard/pkg/witness/rooms"
	"github.com/callguard/callguard/pkg/witness/worker"
)

const (
	// What the guard asks of the API server in a second, and at once: a pod that goes takes five requests. Events and the
	// lease have clients of their own, so that neither waits for a drain.
	workQPS, workBurst       = 500, 1000
	eventsQPS, eventsBurst   = 50, 200
	electionQPS, electionMax = 5, 10

	// maxAskers is the maximum number of connections to metrics and health.
	maxAskers = 64
)

// Main runs the drain-guard, or unlocks, until ctx is done.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := NewOptions()
	var settings program.Settings = o
	u := &unlockOptions{Options: o}
	unlock := len(args) > 0 && args[0] == "unlock"
	if unlock {
		args, settings = args[1:], u
	}
	if ok, err := program.Parse(args, settings, "use no command, or unlock", stderr); !ok {
		return err
	}
	log, err := o.logLevel.Logger(stderr)
	if err != nil {
		return err
	}
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
	registry := program.NewRegistry()
	clients, err := o.clients(registry)
	if err != nil {
		return err
	}
	if unlock {
		return u.run(ctx, clients.work, stdout)
	}
	return run(ctx, o, clients, registry, log)
}

// clients are those of the API server.
type clients struct {
	work, events, election kubernetes.Interface
	owners                 dynamic.Interface
}

func (o *Options) clients(registry *prometheus.Registry) (c clients, err error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return c, fmt.Errorf("no way to the Kubernetes API: %w; run in a pod or set --kubeconfig", err)
	}
	config = program.Protobuf(config)
	config.UserAgent = guard.EventSource
	config.Wrap(guard.CountWrites(registry))
	for _, of := range []struct {
		client *kubernetes.Interface
		qps    float32
		burst  int
	}{{&c.work, workQPS, workBurst}, {&c.events, eventsQPS, eventsBurst}, {&c.election, electionQPS, electionMax}} {
		config.QPS, config.Burst = of.qps, of.burst
		if *of.client, err = kubernetes.NewForConfig(config); err != nil {
			return c, fmt.Errorf("cannot make a Kubernetes client: %w", err)
		}
	}
	config.QPS, config.Burst = workQPS, workBurst
	if c.owners, err = dynamic.NewForConfig(config); err != nil {
		return c, fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}
	return c, nil
}

func run(ctx context.Context, o *Options, clients clients, registry *prometheus.Registry, log *slog.Logger) error {
	client := clients.work
	broadcaster := record.NewBroadcaster(record.WithContext(ctx), record.WithCorrelatorOptions(correlation()))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.events.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: guard.EventSource})

	about := &corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: o.doors.Namespace, Name: call.GuardName}
	doors, err := admission.New(admission.Config{Client: client, Values: o.doors, Recorder: recorder, About: about, Registry: registry, Log: log})
	if err != nil {
		return err
	}
	var g *guard.Guard
	transport := livekit.NewTransport()
	tenants := livekit.NewTenants(livekit.TenantsConfig{
		Base: transport, Allowed: o.livekit.Allowed, Domain: program.ClusterDomain(), LookupCNAME: net.DefaultResolver.LookupCNAME,
		Cluster: func(ctx context.Context, addr netip.Addr) bool {
			return program.IsAPIServer(ctx, addr) || g.IsNode(addr)
		},
	})
	projects := rooms.NewProjects(rooms.ProjectsConfig{
		Default: o.defaultProject(func(ctx context.Context, server string) (time.Time, error) {
			return leader.RecordServer(ctx, client, o.doors.Namespace, server, g.Leads)
		}), Secret: rooms.SecretCredentials(client),
		Transport: transport, Tenants: tenants.Of, OnlyWanted: true, Settings: o.livekit.Rooms, Metrics: rooms.NewMetrics(registry), Log: log,
	})
	asked := poll.Config{Timeout: o.witnessTimeout, Interval: o.guard.ReadEvery, Registry: registry}
	agents, gates := worker.NewReader(asked), gate.NewReader(asked)
	o.guard.DeletionCosts = o.deletionCosts == costsAuto
	g, err = guard.New(guard.Config{
		Client: client, Dynamic: clients.owners, Doors: doors,
		Witnesses: map[call.Witness]guard.Witness{call.Rooms: projects, call.Worker: agents, call.Gate: gateWitness{gates, projects.Origins()}},
		Projects:  projects.WantSparing,
		Settings:  o.guard,
		Recorder:  recorder, About: about, Registry: registry, Log: log,
	})
	if err != nil {
		return err
	}
	doors.TryOn(g.Locked)

	election := &leader.Election{Client: clients.election, Namespace: o.doors.Namespace, Lead: g.Lead, Log: log}
	status := &status{guard: g.Ready, unlocked: election.Unlocked}
	guard.ShowUnlocked(registry, election.Unlocked)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.Watch(ctx) })
	group.Go(func() error { return doors.Run(ctx) })
	group.Go(func() error { return projects.Run(ctx) })
	group.Go(func() error { return projects.Origins().Keep(ctx, o.named(g)) })
	if o.livekit.HasDefault() {
		group.Go(func() error { // recorded at once, before any pod is created
			return untilKnown(ctx, func() error {
				_, err := projects.Origins().Get(ctx, call.DefaultProject, time.Time{})
				return err
			})
		})
	}
	group.Go(func() error { return serve(ctx, o.bindAddress, status, registry, log) })
	group.Go(func() error { return election.Run(ctx, o.leaderElect) })
	return group.Wait()
}

// defaultProject returns a function that reads the default project from its files and
// records its server, which gives the time since when the server is the same. It returns
// nil if there is no default project.
func (o *Options) defaultProject(record func(context.Context, string) (time.Time, error)) func(context.Context) (rooms.Version, error) {
	read := rooms.FileCredentials(o.livekit.Files())
	if read == nil {
		return nil
	}
	return func(ctx context.Context) (rooms.Version, error) {
		v, err := read(ctx)
		if err == nil {
			err = v.Validate()
		}
		if err == nil {
			v.Since, err = record(ctx, v.Server())
		}
		v.Always = v.Since.IsZero()
		return v, err
	}
}

// named returns the projects that pods name, and the default one, whose server has to be
// recorded before any pod names it.
func (o *Options) named(g *guard.Guard) func() map[call.Project]call.Births {
	return func() map[call.Project]call.Births {
		named := g.Projects()
		if _, there := named[call.DefaultProject]; !there && o.livekit.HasDefault() {
			named[call.DefaultProject] = call.Births{}
		}
		return named
	}
}

// untilKnown tries every second until it succeeds, or ctx is done.
func untilKnown(ctx context.Context, try func() error) error {
	_ = wait.PollUntilContextCancel(ctx, time.Second, true, func(context.Context) (bool, error) { return try() == nil, nil }) // whoever needs the result reports why it fails
	return nil
}

// correlation makes the recorder write every Event, because each is recorded only once,
// when something changes. By default an object gets 25 Events and then one in 5 minutes,
// and ten similar ones are merged: for a node with ten guarded pods one could not see which
// of them stay, or why.
func correlation() record.CorrelatorOptions {
	const most = 1000 // some pods of a node, or of a workload, and a few Events of each
	return record.CorrelatorOptions{BurstSize: most, QPS: 1, MaxEvents: most}
}

// gateWitness asks a pod's gate. The gate also knows whether a call can still begin,
// whether the pod can take calls, and with which LiveKit it was started.
type gateWitness struct {
	gates   *gate.Reader
	origins *rooms.Origins
}

// Ask implements guard.Witness.
func (g gateWitness) Ask(ctx context.Context, pod *call.Pod) call.Reading {
	reading, answer := g.gates.Ask(ctx, pod) // an answer's ability is in its reading
	g.origins.Tell(pod.UID, answer.LiveKit)
	if answer.Drained {
		return reading.WithSeal()
	}
	return reading
}

func serve(ctx context.Context, address string, status *status, registry *prometheus.Registry, log *slog.Logger) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("cannot serve metrics: %w; choose another --bind-address", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok\n") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if err := status.ready(); err != nil {
			http.Error(rw, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(rw, "ok\n")
	})
	log.Info("Serving metrics and health", "address", listener.Addr().String())
	return crowd.Serve(ctx, listener, mux, maxAskers, log)
}
