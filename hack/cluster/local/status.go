// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

const (
	probeTimeout  = 3 * time.Second
	probesAtATime = 8
)

// ComponentStatus is the state of one component.
type ComponentStatus struct {
	Name    string
	PID     int
	Alive   bool // its process runs, perhaps paused
	Healthy bool
	Why     string // why it is not healthy
	Log     string
}

// Status is the state of every component, in start order.
func (c *Cluster) Status(ctx context.Context) ([]ComponentStatus, error) {
	s, err := c.state()
	if err != nil {
		return nil, err
	}
	return c.status(ctx, s), nil
}

func (c *Cluster) status(ctx context.Context, s state) []ComponentStatus {
	p, proberErr := newProber(s, c.layout())
	out := make([]ComponentStatus, len(s.Components))
	var group errgroup.Group
	group.SetLimit(probesAtATime)
	for i, comp := range s.Components {
		group.Go(func() error {
			err := proberErr
			if err == nil {
				err = p.probe(ctx, comp)
			}
			out[i] = ComponentStatus{
				Name: comp.Name, PID: comp.Process.PID, Log: comp.Log,
				Alive: comp.Process.alive(), Healthy: err == nil,
			}
			if err != nil {
				out[i].Why = err.Error()
			}
			return nil
		})
	}
	_ = group.Wait() // none fails
	return out
}

// judge lists why an instance cannot be used like a fresh one with this config. No fault means that it can.
func judge(s state, cfg Config, tools map[string]string, statuses []ComponentStatus) []string {
	switch {
	case s.Format != stateFormat:
		return []string{"it was started by another version of this program"}
	case !s.Config.same(cfg):
		return []string{"it was started from another config"}
	case !maps.Equal(s.Tools, tools):
		return []string{"it was started from programs built otherwise"}
	case !s.Ready:
		return []string{"its start was cut off"}
	}
	var faults []string
	for _, st := range statuses {
		if !st.Healthy {
			faults = append(faults, st.Name+": "+st.Why)
		}
	}
	if len(faults) == 0 && len(statuses) == 0 {
		faults = append(faults, "it has no components")
	}
	return faults
}

// prober probes components.
type prober struct {
	http *http.Client
	kube *kubernetes.Clientset
}

func newProber(s state, l layout) (*prober, error) {
	config, err := restConfig(s, l, adminUser, []string{adminGroup})
	if err != nil {
		return nil, err
	}
	config.Timeout = probeTimeout
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot ask how the components are: %w", err)
	}
	own, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		return nil, fmt.Errorf("cannot ask how the components are: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CAData)
	return &prober{kube: kube, http: &http.Client{Timeout: probeTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12},
	}}}, nil
}

// probe returns why a component does not work, or nil.
func (p *prober) probe(ctx context.Context, c component) error {
	switch {
	case c.Process.PID == 0:
		return errors.New("it was never started")
	case !c.Process.alive():
		return fmt.Errorf("its process %d has ended", c.Process.PID)
	case c.Process.paused():
		return fmt.Errorf("its process %d is paused", c.Process.PID)
	}
	if err := p.get(ctx, c.Health); err != nil {
		return err
	}
	if c.Node == "" {
		return nil
	}
	n, err := p.kube.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read its node: %w", err)
	}
	if why := nodeReady(n); why != "" {
		return errors.New(why)
	}
	// A node stays Ready for a while after its kwok died; only the lease shows that the current kwok works.
	lease, err := p.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read its lease: %w", err)
	}
	if r := lease.Spec.RenewTime; r == nil || time.Since(r.Time)+c.Clock > time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, 0))*time.Second {
		return errors.New("its lease has expired")
	}
	return nil
}

func (p *prober) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, res.Status)
	}
	return nil
}
