// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// stopPatience is how long a component may take to end after SIGTERM. livekit-server would wait for its last
// participant.
const stopPatience = 10 * time.Second

// Start starts a component that is not running, with its earlier arguments, and waits until it is healthy. A node
// registers first, as a kubelet does, so kube-apiserver must run.
func (c *Cluster) Start(ctx context.Context, name string) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	comp, err := s.component(name)
	if err != nil {
		return err
	}
	if comp.Node != "" && !s.Config.Kubelets && !comp.Process.alive() {
		if err := c.registerNode(ctx, s, comp.Node); err != nil {
			return err
		}
	}
	if err := c.spawn(ctx, name); err != nil {
		return err
	}
	return c.waitHealthy(ctx, name)
}

// Stop ends a component with SIGTERM, and with SIGKILL if it takes longer than ten seconds.
func (c *Cluster) Stop(ctx context.Context, name string) error {
	p, err := c.process(name)
	if err != nil {
		return err
	}
	if err := p.signal(syscall.SIGTERM); errors.Is(err, errGone) {
		return nil
	} else if err != nil {
		return err
	}
	if err := p.signal(syscall.SIGCONT); err != nil && !errors.Is(err, errGone) { // a paused process does not handle signals
		return err
	}
	patient, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if p.waitGone(patient) == nil {
		return nil
	}
	return p.kill(ctx)
}

// Kill ends a component with SIGKILL and waits until it is gone.
func (c *Cluster) Kill(ctx context.Context, name string) error {
	p, err := c.process(name)
	if err != nil {
		return err
	}
	return p.kill(ctx)
}

// Pause stops a component with SIGSTOP: it keeps its connections and answers nothing.
func (c *Cluster) Pause(ctx context.Context, name string) error {
	return c.hold(ctx, name, syscall.SIGSTOP, true)
}

// Continue resumes a paused component. It returns when the component runs, possibly before it is healthy.
func (c *Cluster) Continue(ctx context.Context, name string) error {
	return c.hold(ctx, name, syscall.SIGCONT, false)
}

func (c *Cluster) hold(ctx context.Context, name string, sig syscall.Signal, paused bool) error {
	p, err := c.process(name)
	if err != nil {
		return err
	}
	if err := p.signal(sig); err != nil {
		return fmt.Errorf("cannot send %s to %s of instance %s: %w; start it first", sig, name, c.name, err)
	}
	return poll(ctx, func() (bool, error) {
		if !p.alive() {
			return false, fmt.Errorf("%s of instance %s ended meanwhile; start it again", name, c.name)
		}
		return p.paused() == paused, nil
	})
}

func (c *Cluster) process(name string) (process, error) {
	s, err := c.state()
	if err != nil {
		return process{}, err
	}
	comp, err := s.component(name)
	return comp.Process, err
}
