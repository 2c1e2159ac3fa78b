// SPDX-License-Identifier: Apache-2.0

// Package local starts a real Kubernetes control plane, simulated nodes and LiveKit servers on loopback, without images,
// a registry or root: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, one kwok per node and livekit-server,
// built from the modules under hack/tools. It is for tests and for trying things out.
//
// With Config.Kubelets the nodes are real, and need root: a kubelet and a containerd each, with kube-proxy and CoreDNS, in
// a network namespace of the instance's own. Images are loaded from files; there is no registry.
//
// Simulated pods run no program: only their status says that their containers run. Each pod has a loopback address of its
// own, on which a test process can listen in place of the pod. EndpointSlices refuse loopback addresses, so no Service
// reaches it.
//
// The package does not install callguard, deletes its data at the end, and works on Linux only.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
)

// downTimeout limits how long ending the processes of an instance may take, even if the caller's context has ended.
const downTimeout = 20 * time.Second

// Cluster is one instance. Its state is in its folder, so that any number of processes can use the same instance.
type Cluster struct {
	name string
	dir  string
	out  *progress
}

// Up returns a healthy instance with this config. It returns a running one as it is. One that is broken, or was started
// with another config or other programs, is reported and replaced.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c, err := newCluster(cfg.Name, cfg.Progress)
	if err != nil {
		return nil, err
	}
	if cfg.Kubelets {
		if err := checkMachine(); err != nil {
			return nil, err
		}
	}
	tools, err := ensureTools(ctx, cfg, c.out)
	if err != nil {
		return nil, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	switch s, err := c.state(); {
	case errors.Is(err, ErrNoInstance):
	case err != nil:
		return nil, err
	default:
		faults := judge(s, cfg, tools, c.status(ctx, s))
		if len(faults) == 0 {
			return c, nil
		}
		for _, f := range faults {
			c.out.printf("%s is replaced: %s", c.name, f)
		}
	}
	if err := c.destroy(ctx); err != nil {
		return nil, err
	}
	if err := c.bringUp(ctx, cfg, tools); err != nil {
		// The caller's context may be the cause; the processes must be ended all the same.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("%w\nthe logs are kept in %s", err, c.KeptLogs()), c.destroy(last))
	}
	return c, nil
}

// Open returns an instance that Up created, healthy or not.
func Open(name string) (*Cluster, error) {
	if name == "" {
		name = DefaultName
	}
	if err := validateName(name); err != nil {
		return nil, err
	}
	c, err := newCluster(name, io.Discard)
	if err != nil {
		return nil, err
	}
	if _, err := c.state(); err != nil {
		return nil, err
	}
	return c, nil
}

// Down ends every process of the instance at once and removes its folder. The logs stay in KeptLogs.
func (c *Cluster) Down(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return c.destroy(ctx)
}

// Name of the instance.
func (c *Cluster) Name() string { return c.name }

// Dir is the folder of the instance. Down removes it.
func (c *Cluster) Dir() string { return c.dir }

// KeptLogs is the folder with the logs of the instance after Down, until the next instance of that name ends.
func (c *Cluster) KeptLogs() string { return c.dir + ".logs" }

// Config is the config that the instance was started with.
func (c *Cluster) Config() (Config, error) {
	s, err := c.state()
	return s.Config, err
}

// LiveKit is the address and key of a LiveKit server.
func (c *Cluster) LiveKit(name string) (LiveKit, error) {
	s, err := c.state()
	if err != nil {
		return LiveKit{}, err
	}
	for _, lk := range s.LiveKits {
		if lk.Name == name {
			return lk, nil
		}
	}
	return LiveKit{}, fmt.Errorf("no LiveKit server %q in instance %s; use one of %v", name, c.name, s.LiveKits)
}

// Kubectl is the path of a kubectl of the cluster's version.
func (c *Cluster) Kubectl() (string, error) {
	s, err := c.state()
	if err != nil {
		return "", err
	}
	return filepath.Join(s.Tools[moduleKubernetes], programKubectl), nil
}

// ErrNoInstance means that Up never created the instance, or Down removed it.
var ErrNoInstance = errors.New("no such instance")

func newCluster(name string, out io.Writer) (*Cluster, error) {
	clusters, err := clustersDir()
	if err != nil {
		return nil, err
	}
	return &Cluster{name: name, dir: filepath.Join(clusters, name), out: &progress{w: out}}, nil
}

func (c *Cluster) layout() layout { return layout{dir: c.dir} }

// lock keeps other processes from starting or ending the same instance at the same time.
func (c *Cluster) lock(ctx context.Context) (unlock func(), err error) {
	return lock(ctx, c.dir+".lock", func() {
		c.out.printf("%s: another process starts or stops it; waiting", c.name)
	})
}

func (c *Cluster) state() (state, error) {
	s, err := loadState(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("cannot open instance %s: %w; start it with \"go run ./hack/cluster up --name %s\"", c.name, ErrNoInstance, c.name)
	}
	return s, err
}

// update changes the state under a lock. If fn returns an error, nothing is saved.
func (c *Cluster) update(ctx context.Context, fn func(*state) error) error {
	unlock, err := lock(ctx, c.layout().lock(), nil)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := c.state()
	if err != nil {
		return err
	}
	if err := fn(&s); err != nil {
		return err
	}
	return s.save(c.dir)
}

// destroy kills all processes, because their data is deleted anyway, keeps the logs and removes the folder.
func (c *Cluster) destroy(ctx context.Context) error {
	s, err := c.state()
	if err != nil && !errors.Is(err, ErrNoInstance) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	var group errgroup.Group
	for _, comp := range s.Components {
		group.Go(func() error {
			if err := comp.Process.kill(ctx); err != nil {
				return fmt.Errorf("cannot stop %s of instance %s: %w; end it by hand and run down again", comp.Name, c.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if s.Config.Kubelets {
		if err := clearCgroup(ctx, cgroup(c.name)); err != nil {
			return fmt.Errorf("cannot end the pods of instance %s: %w", c.name, err)
		}
		removeNetwork(ctx, c.name, s.Network)
		if err := unmountBelow(c.dir); err != nil {
			return fmt.Errorf("cannot remove instance %s: %w", c.name, err)
		}
	}
	if kept, err := exists(c.layout().logs()); err != nil {
		return fmt.Errorf("cannot keep the logs: %w", err)
	} else if kept {
		if err := errors.Join(os.RemoveAll(c.KeptLogs()), os.Rename(c.layout().logs(), c.KeptLogs())); err != nil {
			return fmt.Errorf("cannot keep the logs: %w", err)
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("cannot remove instance %s: %w", c.name, err)
	}
	return nil
}

func (c *Cluster) adminClient() (*kubernetes.Clientset, error) {
	config, err := c.AdminConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (c *Cluster) nodeClient(node string) (*kubernetes.Clientset, error) {
	config, err := c.NodeConfig(node)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
