// SPDX-License-Identifier: Apache-2.0

// Package lab sets up the environment ("stage") of end-to-end tests, benchmarks and the demo: a local cluster with
// LiveKit, the metrics-adapter as a process with the rights of its own service account, a fleet of agents, and callers.
//
// Everything is real except the nodes, which kwok simulates, and the agents' processes, which the fleet simulates over
// LiveKit's worker protocol. The package asserts nothing.
package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/fleet"
)

// Options describe the stage.
type Options struct {
	Name        string
	Nodes       int
	PodsPerNode int
	LiveKits    int
	// MaxJobs is how many calls an agent accepts.
	MaxJobs int
	// NoAdapter leaves out the metrics-adapter.
	NoAdapter bool
	// AdapterArgs are added to the metrics-adapter's flags.
	AdapterArgs []string
	// Bare leaves out the controllers, the scheduler and what simulates the nodes: the caller does their work.
	Bare bool
	// ControllerManagerArgs are added to kube-controller-manager's flags.
	ControllerManagerArgs []string
	// Guard installs the drain-guard and its policies and starts it, with GuardArgs appended to its flags. Lab.GuardWrites
	// lists what guards write.
	Guard     bool
	GuardArgs []string
	// NodeLeaseSeconds is how long a node counts as alive without a heartbeat.
	NodeLeaseSeconds int
	// Clocks sets which components' clocks are wrong; a gate has the clock of its node.
	Clocks local.Clocks
	// Clock is how far the clocks of adapter and guards are ahead of this machine's. Every second guard is behind by three
	// times as much.
	Clock time.Duration
	// OldGate is a call-gate of an earlier checkout, for pods that name OldGateKind.
	OldGate string
	// MemoryLimit is how much memory adapter and guards may each use, in bytes, as a container's limit. It needs root.
	MemoryLimit int64
	// Programs is a folder with callguard's programs, as hack/build.sh builds it. Without it, each program is built when it
	// is needed.
	Programs string
	// Seed makes the random times of agents repeatable.
	Seed uint64
	// Linked puts links between the programs, which can be in trouble: see Lab.Links.
	Linked bool
	// NoFleet leaves out the fleet and the callers: guarded pods have no process.
	NoFleet  bool
	Progress io.Writer
}

// InstanceName names a stage after its use and this checkout, so that two checkouts can run tests at the same time.
func InstanceName(use string) string {
	root, err := repository()
	if err != nil {
		return use // Open reports the error
	}
	sum := sha256.Sum256([]byte(root))
	return use + "-" + hex.EncodeToString(sum[:3])
}

// Lab is the stage.
type Lab struct {
	Cluster  *local.Cluster
	Config   *rest.Config // an administrator's
	Client   kubernetes.Interface
	LiveKits []local.LiveKit
	// Adapter is nil with Options.NoAdapter.
	Adapter *Adapter
	// Guard is nil without Options.Guard.
	Guard *Guard
	// Links is nil without Options.Linked.
	Links *Links
	// Fleet and Callers are nil with Options.NoFleet.
	Fleet   *fleet.Fleet
	Callers *fleet.Callers

	adapterArgs []string // of Adapter

	clock     time.Duration // of adapter and guards
	memory    int64         // Options.MemoryLimit
	gateClock time.Duration
	progress  io.Writer
	ears      ears
	stopEars  func()
	stopFleet func() error

	mu       sync.Mutex
	built    map[string]bool // programs, by name
	programs string          // Options.Programs
	guards   []*Guard        // all that were ever started
	gates    map[types.UID]*Process
	confined []*confinement
}

// Open sets up the stage. Close removes it, also after an error of Open.
func Open(ctx context.Context, o Options) (*Lab, error) {
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, fmt.Errorf("no port for the metrics-adapter's webhooks: %w", err)
	}
	webhooks := fmt.Sprintf("127.0.0.1:%d", ports[0])
	config := local.Config{
		Name: o.Name, Nodes: o.Nodes, PodsPerNode: o.PodsPerNode, LiveKits: o.LiveKits, Bare: o.Bare, NodeLeaseSeconds: o.NodeLeaseSeconds,
		ControllerManagerArgs: o.ControllerManagerArgs, AuditUsers: []string{guardUser}, Clocks: o.Clocks, Progress: o.Progress,
	}
	if !o.NoAdapter {
		config.WebhookURLs = []string{"http://" + webhooks + "/webhooks"}
	}
	cluster, err := local.Up(ctx, config)
	if err != nil {
		return nil, err
	}
	l := &Lab{Cluster: cluster, clock: o.Clock, memory: o.MemoryLimit, gateClock: o.Clocks.Nodes, progress: o.Progress, built: map[string]bool{}, gates: map[types.UID]*Process{}, programs: o.Programs, stopEars: func() {}, ears: ears{said: map[string]string{}}}
	if o.Linked {
		l.Links = newLinks()
	}
	if err := l.set(ctx, o, webhooks); err != nil {
		return nil, errors.Join(err, l.Close(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (l *Lab) set(ctx context.Context, o Options, webhooks string) error {
	var err error
	if l.Config, err = l.Cluster.AdminConfig(); err != nil {
		return err
	}
	l.Config.QPS, l.Config.Burst = 200, 400
	if l.Client, err = kubernetes.NewForConfig(l.Config); err != nil {
		return err
	}
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stopEars = stop
	if err := l.listen(listening); err != nil {
		return err
	}
	for i := range max(o.LiveKits, 1) {
		lk, err := l.Cluster.LiveKit(local.LiveKitName(i + 1))
		if err != nil {
			return err
		}
		l.LiveKits = append(l.LiveKits, lk)
	}
	if !o.NoFleet {
		if err := l.startFleet(ctx, o); err != nil {
			return err
		}
	}
	if !o.NoAdapter {
		if err := l.startAdapter(ctx, o, webhooks); err != nil {
			return err
		}
	}
	if !o.Guard {
		return nil
	}
	if err := l.InstallGuard(ctx); err != nil {
		return err
	}
	if l.Guard, err = l.StartGuard(ctx, o.GuardArgs...); err != nil {
		return err
	}
	return l.Guard.WaitReady(ctx)
}

func (l *Lab) startAdapter(ctx context.Context, o Options, webhooks string) error {
	l.printf("installing the metrics-adapter")
	if err := l.install(ctx); err != nil {
		return err
	}
	var err error
	l.adapterArgs = append([]string{"--webhook-bind-address=" + webhooks}, o.AdapterArgs...)
	l.Adapter, err = l.StartAdapter(ctx, l.adapterArgs...)
	if err != nil {
		return err
	}
	l.Adapter.Webhooks = "http://" + webhooks + "/webhooks"
	return l.publish(ctx, l.Adapter)
}

func (l *Lab) startFleet(ctx context.Context, o Options) error {
	var before func(string, string) (func(), error)
	if l.Links != nil {
		before = func(address, to string) (func(), error) {
			_, stop, err := l.Links.Gates.Listen(address, to)
			return stop, err
		}
	}
	played, err := fleet.New(fleet.Config{
		Client: l.Client,
		NodeClient: func(node string) (kubernetes.Interface, error) {
			config, err := l.Cluster.NodeConfig(node)
			if err != nil {
				return nil, err
			}
			return kubernetes.NewForConfig(config)
		},
		LiveKit: l.linkedProjectOf, Before: before,
		MaxJobs: o.MaxJobs, Seed: o.Seed,
		Gate:    l.gate(o.OldGate), //nolint:contextcheck // a gate lives with its pod
		Volumes: filepath.Join(l.Cluster.Dir(), "volumes"),
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- played.Run(fctx) }()
	l.Fleet = played
	l.Callers = l.NewCallers()
	l.stopFleet = func() error {
		l.Callers.Close()
		cancel()
		return <-done
	}
	return nil
}

// NewCallers creates callers with their own account. Close them before the stage.
func (l *Lab) NewCallers() *fleet.Callers { return fleet.NewCallers(l.Fleet, project(l.LiveKits[0])) }

func project(lk local.LiveKit) fleet.Project {
	return fleet.Project{URL: lk.URL, APIKey: lk.APIKey, APISecret: lk.APISecret}
}

// Close removes the stage: callers hang up, processes end, the cluster is deleted.
func (l *Lab) Close(ctx context.Context) error {
	var errs []error
	l.stopEars()
	if l.stopFleet != nil {
		errs = append(errs, l.stopFleet())
	}
	errs = append(errs, l.Detach())
	l.Links.close()
	errs = append(errs, l.release(), l.Cluster.Down(ctx))
	return errors.Join(errs...)
}

// Detach ends the metrics-adapter and every guard, and nothing else.
func (l *Lab) Detach() error {
	var errs []error
	if l.Adapter != nil {
		errs = append(errs, l.Adapter.Stop())
	}
	l.mu.Lock()
	guards := slices.Clone(l.guards) // a guard that restarts calls the stage
	l.mu.Unlock()
	for _, g := range guards {
		errs = append(errs, g.Stop())
	}
	return errors.Join(errs...)
}

// Kubectl runs kubectl as an administrator and returns what it prints.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return l.KubectlAs(ctx, "admin", []string{adminGroup}, args...)
}

// KubectlAs runs kubectl as a user in groups and returns what it prints.
func (l *Lab) KubectlAs(ctx context.Context, user string, groups []string, args ...string) (string, error) {
	kubectl, err := l.Cluster.Kubectl()
	if err != nil {
		return "", err
	}
	kubeconfig, err := l.Cluster.KubeconfigFor(user, groups...)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Eventually waits until holds returns true, and calls it ten times a second. Its error is that of the last attempt,
// which is made at the deadline, or says that it never held.
func Eventually(ctx context.Context, within time.Duration, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		over := ctx.Err() != nil
		ok, err := holds()
		if ok && err == nil {
			return nil
		}
		if over {
			return errors.Join(fmt.Errorf("did not happen within %s: %s", within, what), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (l *Lab) printf(format string, args ...any) {
	if l.progress != nil {
		_, _ = fmt.Fprintf(l.progress, format+"\n", args...) // progress is for people
	}
}
