// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/hack/cluster/clock"
)

const (
	// startTimeout limits the wait for one component, which takes a few seconds, and many times that on a busy machine.
	startTimeout = 5 * time.Minute
	pollInterval = 100 * time.Millisecond
	logTail      = 12
)

// bringUp creates an instance and starts it.
func (c *Cluster) bringUp(ctx context.Context, cfg Config, tools map[string]string) error {
	began := time.Now()
	s, err := c.claim(ctx, cfg, tools)
	if err != nil {
		return err
	}
	if err := writeInstance(s, c.layout()); err != nil {
		return err
	}
	if cfg.Kubelets {
		if err := makeNetwork(ctx, c.name, s.Network, cfg.IPv6Services); err != nil {
			return err
		}
		groups := []string{runtimeCgroup(c.name)}
		for i := range cfg.Nodes {
			groups = append(groups, nodeCgroup(c.name, NodeName(i+1)))
		}
		for _, g := range groups {
			if err := makeCgroup(g); err != nil {
				return err
			}
		}
	}
	c.out.printf("%s: starting the control plane, %d nodes and %d LiveKit servers", c.name, cfg.Nodes, cfg.LiveKits)
	if err := c.startAll(ctx, s); err != nil {
		return err
	}
	if err := c.update(ctx, func(s *state) error { s.Ready = true; return nil }); err != nil {
		return err
	}
	c.out.printf("%s: ready after %.1f s", c.name, time.Since(began).Seconds())
	return nil
}

// claim chooses ports and addresses that no other instance has, and records them before another process can choose.
func (c *Cluster) claim(ctx context.Context, cfg Config, tools map[string]string) (state, error) {
	s := state{Format: stateFormat, Config: cfg, Tools: tools, Ports: map[string]int{}}
	clusters := filepath.Dir(c.dir)
	unlock, err := lock(ctx, filepath.Join(clusters, ".claims.lock"), nil)
	if err != nil {
		return s, err
	}
	defer unlock()
	others, err := otherStates(clusters, c.name)
	if err != nil {
		return s, err
	}
	if s.FirstSlice, err = freeSlices(cfg.Nodes, others); err != nil {
		return s, err
	}
	names := portNames(cfg)
	ports, err := freePorts(len(names), portsOf(append(others, s)))
	if err != nil {
		return s, err
	}
	for i, name := range names {
		s.Ports[name] = ports[i]
	}
	if s.Network, err = freeNetwork(cfg, others); err != nil {
		return s, err
	}
	s.LiveKits = newLiveKits(cfg, s.Ports)
	s.Components = components(s, c.layout())
	return s, s.save(c.dir)
}

// writeInstance writes everything that the components read.
func writeInstance(s state, l layout) error {
	if err := os.MkdirAll(l.logs(), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder of the logs: %w", err)
	}
	if err := errors.Join(writePKI(l.pki(""), s.apiServerAddress()), writeStages(l), writeAuditPolicy(s, l)); err != nil {
		return err
	}
	type identity struct {
		file, user string
		groups     []string
	}
	identities := []identity{
		{adminUser, adminUser, []string{adminGroup}},
		{ControllerManager, "system:" + ControllerManager, nil},
		{Scheduler, "system:" + Scheduler, nil},
	}
	for i := range s.Config.Nodes {
		name := NodeName(i + 1)
		identities = append(identities, identity{name, nodeUser(name), []string{nodesGroup}})
	}
	if s.Config.Kubelets {
		identities = append(identities, identity{KubeProxy, "system:" + KubeProxy, nil}, identity{CoreDNS, CoreDNS, []string{adminGroup}})
	}
	for _, id := range identities {
		if err := writeKubeconfig(s, l, l.kubeconfig(id.file), id.user, id.groups); err != nil {
			return err
		}
	}
	if s.Config.Kubelets {
		if err := writeNodes(s, l); err != nil {
			return err
		}
	}
	for _, lk := range s.LiveKits {
		if err := writeLiveKitConfig(s, l, lk); err != nil {
			return err
		}
	}
	return nil
}

// startAll starts everything in parallel, except what needs another component first.
func (c *Cluster) startAll(ctx context.Context, s state) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, lk := range s.LiveKits {
		group.Go(func() error { return c.Start(ctx, lk.Name) })
	}
	group.Go(func() error {
		if err := c.Start(ctx, Etcd); err != nil {
			return err
		}
		if err := c.Start(ctx, APIServer); err != nil {
			return err
		}
		client, err := c.adminClient()
		if err != nil {
			return err
		}
		if s.Config.Bare {
			return c.registerNodes(ctx, s, client)
		}
		for _, name := range []string{ControllerManager, Scheduler} {
			group.Go(func() error { return c.Start(ctx, name) })
		}
		if s.Config.Kubelets {
			group.Go(func() error { return c.startNodes(ctx, s) })
			return waitForPods(ctx, client)
		}
		if err := allowKwok(ctx, client); err != nil {
			return err
		}
		for i := range s.Config.Nodes {
			group.Go(func() error { return c.Start(ctx, NodeName(i+1)) })
		}
		return waitForPods(ctx, client)
	})
	return group.Wait()
}

// waitForPods waits until the first pod can be created, that is, until its namespace has a service account.
func waitForPods(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("namespace default has no service account yet: %w; read the log of %s", err, ControllerManager)
	}
	return nil
}

// spawn starts the process of a component unless it runs already.
func (c *Cluster) spawn(ctx context.Context, name string) error {
	return c.update(ctx, func(s *state) error {
		comp, err := s.component(name)
		if err != nil {
			return err
		}
		if comp.Process.alive() {
			return nil
		}
		program, args := comp.Program, comp.Args
		if comp.Node != "" && !s.Config.Kubelets {
			args = append(slices.Clone(args), "--cidr="+podCIDR(nodeSlice(*s, comp.Node), comp.Starts))
		}
		if comp.Inside {
			program, args = "nsenter", slices.Concat([]string{"--net=" + netnsFile(c.name), program}, args)
		}
		var env []string
		if comp.Clock != 0 {
			env = clock.Environment(comp.Clock)
		}
		p, err := startProcess(program, args, env, comp.Log)
		if err == nil && comp.Cgroup != "" {
			err = joinCgroup(comp.Cgroup, p.PID)
		}
		if err != nil {
			return fmt.Errorf("cannot start %s: %w; run \"go run ./hack/cluster up\" to build what is missing", name, err)
		}
		s.setStarted(name, p)
		return nil
	})
}

// waitHealthy waits until a component works. If it ends or takes too long, the error includes the end of its log.
func (c *Cluster) waitHealthy(ctx context.Context, name string) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	comp, err := s.component(name)
	if err != nil {
		return err
	}
	p, err := newProber(s, c.layout())
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var sick error
	err = poll(limited, func() (bool, error) {
		if !comp.Process.alive() {
			return false, errors.New("it ended")
		}
		sick = p.probe(limited, comp)
		return sick == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("cannot start %s: %w", name, ctx.Err())
	case limited.Err() != nil:
		err = fmt.Errorf("not healthy after %s: %w", startTimeout, sick)
	}
	return fmt.Errorf("cannot start %s: %w; correct what its log says and try again. It ends with:\n%s", name, err, tail(comp.Log, logTail))
}

// poll calls ask until the answer is yes, an error, or the context ends.
func poll(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if done, err := ask(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// tail returns the last lines of a log.
func tail(path string, lines int) string {
	const most = 16 << 10
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("(cannot be read: %v)", err)
	}
	raw = raw[max(0, len(raw)-most):]
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
