// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"time"
)

// Defaults of Config.
const (
	DefaultName          = "default"
	DefaultNodes         = 4
	DefaultPodsPerNode   = 110
	DefaultLiveKits      = 1
	DefaultNodeLease     = 40 // seconds, as with a kubelet
	DefaultClusterDomain = "cluster.local"
)

const (
	maxNodes    = 200
	maxKubelets = 8
	maxLiveKits = 16
	maxPods     = 4000
	maxLease    = 3600
)

// Config describes an instance. The zero value is usable.
type Config struct {
	// Name tells instances apart: each has its own folder, ports and pod addresses.
	Name string `json:"name"`
	// Nodes is the number of nodes, named node-1 to node-N, simulated without Kubelets.
	Nodes int `json:"nodes"`
	// PodsPerNode is the pod capacity of each node.
	PodsPerNode int `json:"podsPerNode"`
	// LiveKits is the number of LiveKit servers, each a project of its own, named livekit-1 to livekit-N.
	LiveKits int `json:"liveKits"`
	// WebhookURLs receive the webhooks of every LiveKit server, signed with that server's API key.
	WebhookURLs []string `json:"webhookURLs,omitempty"`
	// ControllerManagerArgs are appended to kube-controller-manager's flags, so that they override others.
	ControllerManagerArgs []string `json:"controllerManagerArgs,omitempty"`
	// NodeLeaseSeconds is how long a node counts as alive after its last heartbeat; heartbeats come four times as often.
	NodeLeaseSeconds int `json:"nodeLeaseSeconds"`
	// Kubelets makes the nodes real: each has a kubelet and a containerd, which run the pods' containers. It needs root and
	// Debian's containerd. Network namespaces keep its traffic apart. LiveKits may be 0 then.
	Kubelets bool `json:"kubelets,omitempty"`
	// Bare leaves out kube-controller-manager, kube-scheduler and what simulates the nodes, which are registered and marked
	// ready once: the caller has to do the work of these. kube-apiserver, etcd and LiveKit remain.
	Bare bool `json:"bare,omitempty"`
	// IPv6Services gives real nodes addresses of both families, and Services only IPv6 addresses, including the API
	// server's. LiveKit still uses IPv4 addresses for media.
	IPv6Services bool `json:"ipv6Services,omitempty"`
	// ClusterDomain is the DNS domain of Services on real nodes.
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// AuditUsers are the users whose requests kube-apiserver records, one JSON line each, in the file AuditLog.
	AuditUsers []string `json:"auditUsers,omitempty"`
	// Clocks sets which components' clocks are wrong.
	Clocks Clocks `json:"clocks,omitzero"`
	// Progress receives short lines on what is being built and started. It does not count as part of the config.
	Progress io.Writer `json:"-"`
}

// Clocks holds how far, in whole seconds, the clocks of an instance's components are ahead of this machine's.
type Clocks struct {
	APIServer time.Duration `json:"apiServer"`
	// Controllers are kube-controller-manager and kube-scheduler.
	Controllers time.Duration `json:"controllers"`
	// Nodes are the simulated ones.
	Nodes time.Duration `json:"nodes"`
}

// of returns how far a component's clock is ahead.
func (c Clocks) of(comp component) time.Duration {
	switch {
	case comp.Name == APIServer:
		return c.APIServer
	case comp.Name == ControllerManager, comp.Name == Scheduler:
		return c.Controllers
	case comp.Node != "":
		return c.Nodes
	}
	return 0
}

// withDefaults fills in zero fields.
func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.Nodes == 0 {
		c.Nodes = DefaultNodes
	}
	if c.PodsPerNode == 0 {
		c.PodsPerNode = DefaultPodsPerNode
	}
	if c.LiveKits == 0 && !c.Kubelets {
		c.LiveKits = DefaultLiveKits
	}
	if c.NodeLeaseSeconds == 0 {
		c.NodeLeaseSeconds = DefaultNodeLease
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = DefaultClusterDomain
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c
}

// Validate reports every mistake at once, each with a value that would work. Up fills in zero fields first.
func (c Config) Validate() error {
	var errs []error
	if err := validateName(c.Name); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs,
		validateCount("number of nodes", c.Nodes, maxNodes, DefaultNodes),
		validateCount("number of pods per node", c.PodsPerNode, maxPods, DefaultPodsPerNode),
		validateCount("number of seconds of a node's lease", c.NodeLeaseSeconds, maxLease, DefaultNodeLease))
	if c.LiveKits != 0 || !c.Kubelets {
		errs = append(errs, validateCount("number of LiveKit servers", c.LiveKits, maxLiveKits, DefaultLiveKits))
	}
	if c.Kubelets && c.Nodes > maxKubelets {
		errs = append(errs, fmt.Errorf("number of real nodes is %d; use 1 to %d, such as 2", c.Nodes, maxKubelets))
	}
	if c.Kubelets && c.Bare {
		errs = append(errs, errors.New("nodes are to be real, and the control plane bare; leave out Kubelets, or Bare"))
	}
	if c.Kubelets && c.Clocks != (Clocks{}) {
		errs = append(errs, errors.New("clocks are to be wrong, of real nodes; leave Clocks empty, or Kubelets"))
	}
	if !c.Kubelets && (c.IPv6Services || c.ClusterDomain != "" && c.ClusterDomain != DefaultClusterDomain) {
		errs = append(errs, errors.New("simulated nodes have no Services and no DNS; use Kubelets as well, or neither IPv6Services nor ClusterDomain"))
	}
	for _, raw := range c.WebhookURLs {
		if u, err := url.Parse(raw); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, fmt.Errorf("webhook URL is %q; use one such as http://127.0.0.1:8090/webhook", raw))
		}
	}
	return errors.Join(errs...)
}

func validateName(name string) error {
	if !regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`).MatchString(name) {
		return fmt.Errorf("name is %q; use at most 40 lower-case letters, digits and dashes, such as %q", name, DefaultName)
	}
	return nil
}

func validateCount(what string, is, most, good int) error {
	if is < 1 || is > most {
		return fmt.Errorf("%s is %d; use 1 to %d, such as %d", what, is, most, good)
	}
	return nil
}

// same reports whether two configs describe the same instance.
func (c Config) same(other Config) bool {
	a, errA := json.Marshal(c.withDefaults())
	b, errB := json.Marshal(other.withDefaults())
	return errA == nil && errB == nil && string(a) == string(b)
}
