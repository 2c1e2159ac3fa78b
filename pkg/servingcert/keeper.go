// SPDX-License-Identifier: Apache-2.0

// Package servingcert makes the serving certificate of an aggregated API server,
// renews it in time, and keeps the caBundle of the APIServices in step.
//
// Every replica has an authority of its own, whose key it throws away once it
// has signed; no key ever leaves the process, and no Secret is needed. The
// caBundle holds the authorities of all replicas. A renewal adds the next
// authority first, and serves with it only when kube-apiserver has had time to
// see it, so that no handshake fails. The package touches nothing else of an
// APIService, and refuses one that belongs to another Service.
package servingcert

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/dynamic"
)

const fieldManager = "callguard-metrics-adapter"

// Config is what a Keeper needs.
type Config struct {
	APIServices dynamic.NamespaceableResourceInterface
	// Names are the APIServices whose caBundle is kept.
	Names []string
	// Service is the Service that the APIServices must name, and whose names the
	// certificate bears.
	Service types.NamespacedName
	// Lifetime of a certificate. It is renewed after two thirds of it.
	Lifetime time.Duration
	Log      *slog.Logger
}

// APIServices returns the client of APIService objects.
func APIServices(client dynamic.Interface) dynamic.NamespaceableResourceInterface {
	return client.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
}

// Keeper holds the certificate in use. It is a
// dynamiccertificates.CertKeyContentProvider that tells its listeners of a new
// one, so the server changes certificates without a restart.
type Keeper struct {
	cfg Config

	mu        sync.RWMutex
	current   *pair
	next      *pair // its authority is published, it is not served yet
	nextSince time.Time
	published error
	listeners []dynamiccertificates.Listener
}

var (
	_ dynamiccertificates.CertKeyContentProvider = (*Keeper)(nil)
	_ dynamiccertificates.Notifier               = (*Keeper)(nil)
)

// New makes the first certificate.
func New(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, published: errors.New("the serving certificate's authority is not published yet")}
	first, err := newPair(k.dnsNames(), time.Now(), cfg.Lifetime)
	if err != nil {
		return nil, err
	}
	k.current = first
	return k, nil
}

// Run keeps caBundle and certificate until ctx is done.
func (k *Keeper) Run(ctx context.Context) error {
	retry := time.Second
	for {
		err := k.step(ctx, time.Now())
		pause := k.checkEvery()
		if err != nil {
			pause = min(retry, pause)
			retry = min(2*retry, time.Minute)
		} else {
			retry = time.Second
		}
		k.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// step does what is due: it publishes, makes the next pair, or changes over.
func (k *Keeper) step(ctx context.Context, now time.Time) error {
	k.mu.RLock()
	own := [][]byte{k.current.ca}
	next, since := k.next, k.nextSince
	due := now.After(k.current.notBefore.Add(k.cfg.Lifetime * 2 / 3))
	k.mu.RUnlock()

	if next == nil && due {
		made, err := newPair(k.dnsNames(), now, k.cfg.Lifetime)
		if err != nil {
			return err
		}
		next = made
	}
	if next != nil {
		own = append(own, next.ca)
	}
	for _, name := range k.cfg.Names {
		if err := k.publish(ctx, name, own, now); err != nil {
			return err
		}
	}
	if next == nil {
		return nil
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == nil {
		k.next, k.nextSince = next, now
		return nil
	}
	if now.Sub(since) >= k.overlap() {
		k.current, k.next = next, nil
		k.cfg.Log.Info("Changed over to a new serving certificate", "notAfter", next.notAfter)
		for _, l := range k.listeners {
			l.Enqueue()
		}
	}
	return nil
}

// publish puts authorities first in an APIService's caBundle, unless they stand high
// enough in it already.
func (k *Keeper) publish(ctx context.Context, name string, own [][]byte, now time.Time) error {
	object, err := k.cfg.APIServices.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no APIService %s: %w; apply the manifest of metrics-adapter", name, err)
	}
	if err != nil {
		return fmt.Errorf("cannot read APIService %s: %w", name, err)
	}
	if owner := serviceOf(object); owner != k.cfg.Service {
		return fmt.Errorf("APIService %s belongs to Service %s, not %s; only one adapter can serve custom metrics: remove the other, or serve files with --tls-cert-file", name, owner, k.cfg.Service)
	}
	text, _, err := unstructured.NestedString(object.Object, "spec", "caBundle")
	if err != nil {
		return fmt.Errorf("cannot read the caBundle of APIService %s: %w", name, err)
	}
	bundle, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		bundle = nil // not a bundle: replaced whole
	}
	if safe(bundle, own) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": object.GetResourceVersion()},
		"spec":     map[string]any{"caBundle": mergeBundle(bundle, own, now)},
	})
	if err != nil {
		return fmt.Errorf("cannot encode the caBundle of APIService %s: %w", name, err)
	}
	if _, err := k.cfg.APIServices.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("cannot write the caBundle of APIService %s: %w", name, err)
	}
	return nil
}

// note remembers whether the authority is published, and logs a change of that.
func (k *Keeper) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if (err == nil) != (k.published == nil) || err != nil && k.published != nil && err.Error() != k.published.Error() {
		switch {
		case err == nil:
			k.cfg.Log.Info("The serving certificate's authority stands in the APIServices", "apiServices", k.cfg.Names)
		case !apierrors.IsConflict(err):
			k.cfg.Log.Warn("Cannot publish the serving certificate's authority", "err", err)
		}
	}
	k.published = err
}

// Published returns nil when kube-apiserver can verify the certificate in use,
// else why not.
func (k *Keeper) Published() error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.published
}

// Name implements dynamiccertificates.CertKeyContentProvider.
func (k *Keeper) Name() string { return "self-made serving certificate" }

// CurrentCertKeyContent implements dynamiccertificates.CertKeyContentProvider.
func (k *Keeper) CurrentCertKeyContent() (cert, key []byte) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current.cert, k.current.key
}

// AddListener implements dynamiccertificates.Notifier.
func (k *Keeper) AddListener(l dynamiccertificates.Listener) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listeners = append(k.listeners, l)
}

// Collector shows when the certificate in use expires.
func (k *Keeper) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "callguard", Name: "serving_certificate_expiry_timestamp_seconds",
		Help: "When the self-made serving certificate in use expires.",
	}, func() float64 {
		k.mu.RLock()
		defer k.mu.RUnlock()
		return float64(k.current.notAfter.Unix())
	})
}

// overlap is how long both authorities stand in the caBundle before the new one
// is served. kube-apiserver watches APIServices, so it needs seconds.
func (k *Keeper) overlap() time.Duration { return min(time.Minute, k.cfg.Lifetime/20) }

// checkEvery is how often the APIServices are looked at.
func (k *Keeper) checkEvery() time.Duration { return min(time.Minute, k.cfg.Lifetime/20) }

func (k *Keeper) dnsNames() []string {
	base := k.cfg.Service.Name + "." + k.cfg.Service.Namespace
	return []string{base + ".svc", base + ".svc.cluster.local", base, k.cfg.Service.Name}
}

func serviceOf(apiService *unstructured.Unstructured) types.NamespacedName {
	namespace, _, _ := unstructured.NestedString(apiService.Object, "spec", "service", "namespace")
	name, _, _ := unstructured.NestedString(apiService.Object, "spec", "service", "name")
	return types.NamespacedName{Namespace: namespace, Name: name}
}
