// SPDX-License-Identifier: Apache-2.0

// Package servingcert creates the serving certificate of an aggregated API server, renews
// it in time, and keeps the caBundle of the APIServices up to date.
//
// Every replica has its own authority, whose key it discards after signing; no key ever
// leaves the process, and no Secret is needed. The caBundle holds the authorities of all
// replicas. A renewal first adds the next authority, and uses its certificate only when
// kube-apiserver has had time to see it, so that no handshake fails. The package changes
// nothing else in an APIService, and nothing in one that belongs to another Service.
//
// A published authority counts as published until a look shows that it is missing. A failed
// look says nothing about the certificate, and if a replica became unready because of it,
// that would stop autoscalers and the deletion of namespaces.
package servingcert

import (
	"bytes"
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
	// Names are the APIServices whose caBundle is kept up to date.
	Names []string
	// Service is the Service that the APIServices must name, and for whose names the
	// certificate is.
	Service types.NamespacedName
	// Lifetime is the lifetime of a certificate. It is renewed after two thirds of it.
	Lifetime time.Duration
	// Shared reports that an APIService may belong to another Service until it is taken over.
	// That is no error, and nobody verifies this server by it.
	Shared bool
	Log    *slog.Logger
}

// APIServices returns the client for APIService objects.
func APIServices(client dynamic.Interface) dynamic.NamespaceableResourceInterface {
	return client.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
}

// Keeper holds the certificate in use. It is a dynamiccertificates.CertKeyContentProvider
// that notifies its listeners of a new one, so the server changes certificates without a
// restart.
type Keeper struct {
	cfg Config

	mu        sync.RWMutex
	current   *pair
	next      *pair // its authority is published, but it is not used yet
	nextSince time.Time
	seen      map[string]standing
	published error
	ever      bool // the authority was published at some time
	told      error
	listeners []dynamiccertificates.Listener
	kicked    chan struct{}
}

// standing is the result of the last successful look at an APIService.
type standing int

const (
	unread    standing = iota
	trusts             // its caBundle holds the authority of the certificate in use
	distrusts          // it does not
	notOurs            // it belongs to another Service or does not exist, so nobody verifies this server by it
)

var (
	_ dynamiccertificates.CertKeyContentProvider = (*Keeper)(nil)
	_ dynamiccertificates.Notifier               = (*Keeper)(nil)
)

// New creates the first certificate.
func New(cfg Config) (*Keeper, error) {
	notYet := errors.New("the serving certificate's authority is not published yet")
	k := &Keeper{cfg: cfg, seen: map[string]standing{}, published: notYet, told: notYet, kicked: make(chan struct{}, 1)}
	first, err := newPair(k.dnsNames(), time.Now(), cfg.Lifetime)
	if err != nil {
		return nil, err
	}
	k.current = first
	return k, nil
}

// Run keeps caBundle and certificate up to date until ctx is done.
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
		case <-k.kicked:
		case <-time.After(pause):
		}
	}
}

// Kick has the APIServices checked at once.
func (k *Keeper) Kick() {
	select {
	case k.kicked <- struct{}{}:
	default: // a look is already requested
	}
}

// Authority returns the authority of the certificate in use, as PEM.
func (k *Keeper) Authority() []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current.ca
}

// step does what is due: it publishes, creates the next pair, or changes over to it.
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
	stand, err := k.publish(ctx, own, now)
	if stand && next != nil {
		k.changeOver(next, since, now)
	}
	return err
}

// changeOver uses the next pair once its authority has been published for long enough.
func (k *Keeper) changeOver(next *pair, since, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == nil {
		k.next, k.nextSince = next, now
		return
	}
	if now.Sub(since) >= k.overlap() {
		k.current, k.next = next, nil
		k.cfg.Log.Info("Changed over to a new serving certificate", "notAfter", next.notAfter)
		for _, l := range k.listeners {
			l.Enqueue()
		}
	}
}

// publish puts authorities, that of the certificate in use first, into callguard's
// APIServices, unless they are already far enough up. It reports whether they are in all of
// these. An error with one does not stop it from trying the others.
func (k *Keeper) publish(ctx context.Context, own [][]byte, now time.Time) (stand bool, err error) {
	var ours []*entry
	var errs []error
	unsure, foreign, served := false, false, false
	for _, name := range k.cfg.Names {
		found, is, err := k.look(ctx, name, own[0])
		if err != nil {
			errs = append(errs, err)
		}
		k.saw(name, is)
		unsure, foreign = unsure || is == unread, foreign || is == notOurs
		if found != nil {
			ours = append(ours, found)
			served = served || len(found.bundle) > 0
		}
	}
	if foreign && !served && !k.wasPublished() && !k.cfg.Shared {
		return false, errors.Join(errs...) // no adapter of callguard has ever served: whoever installs it has to choose first
	}
	stand = (len(ours) > 0 || k.cfg.Shared) && !unsure
	for _, found := range ours {
		if safe(found.bundle, own) {
			continue
		}
		if err := k.write(ctx, found, own, now); err != nil {
			errs = append(errs, err)
			stand = false
			continue
		}
		k.saw(found.name, trusts)
	}
	return stand, errors.Join(errs...)
}

// entry is one of callguard's APIServices, as it was read.
type entry struct {
	name, resourceVersion string
	bundle                []byte
}

// look reads an APIService. It returns nil and an error if that cannot be read or is not
// callguard's.
func (k *Keeper) look(ctx context.Context, name string, current []byte) (*entry, standing, error) {
	object, err := k.cfg.APIServices.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && k.cfg.Shared {
		return nil, notOurs, nil
	}
	if apierrors.IsNotFound(err) {
		return nil, notOurs, fmt.Errorf("there is no APIService %s: %w; apply the manifest of metrics-adapter", name, err)
	}
	if err != nil {
		return nil, unread, fmt.Errorf("cannot read APIService %s: %w", name, err)
	}
	owner := serviceOf(object)
	if owner != k.cfg.Service && k.cfg.Shared {
		return nil, notOurs, nil
	}
	if owner != k.cfg.Service {
		return nil, notOurs, fmt.Errorf("APIService %s belongs to Service %s, not %s; only one adapter can serve custom metrics: remove the other, or serve files with --tls-cert-file", name, owner, k.cfg.Service)
	}
	text, _, err := unstructured.NestedString(object.Object, "spec", "caBundle")
	if err != nil {
		return nil, unread, fmt.Errorf("cannot read the caBundle of APIService %s: %w", name, err)
	}
	bundle, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		bundle = nil // not a bundle, so it is replaced completely
	}
	is := distrusts
	if bytes.Contains(bundle, current) {
		is = trusts
	}
	return &entry{name: name, resourceVersion: object.GetResourceVersion(), bundle: bundle}, is, nil
}

// write puts authorities first in the caBundle of an APIService.
func (k *Keeper) write(ctx context.Context, found *entry, own [][]byte, now time.Time) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": found.resourceVersion},
		"spec":     map[string]any{"caBundle": mergeBundle(found.bundle, own, now)},
	})
	if err != nil {
		return fmt.Errorf("cannot encode the caBundle of APIService %s: %w", found.name, err)
	}
	if _, err := k.cfg.APIServices.Patch(ctx, found.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("cannot write the caBundle of APIService %s: %w", found.name, err)
	}
	return nil
}

// saw records the state of an APIService. A failed look changes nothing.
func (k *Keeper) saw(name string, is standing) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if is != unread {
		k.seen[name] = is
	}
}

func (k *Keeper) wasPublished() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.ever
}

// note records whether the authority is published everywhere, and logs a change of the
// reason why not. A conflict is retried at once and not logged.
func (k *Keeper) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.published = k.judge(err)
	k.ever = k.ever || k.published == nil
	switch {
	case apierrors.IsConflict(err):
		return
	case err == nil && k.told != nil:
		k.cfg.Log.Info("Published the serving certificate's authority in the APIServices", "apiServices", k.cfg.Names)
	case err != nil && (k.told == nil || err.Error() != k.told.Error()):
		k.cfg.Log.Warn("Cannot publish the serving certificate's authority", "err", err, "ready", k.published == nil)
	}
	k.told = err
}

// judge returns nil if all of callguard's APIServices trust the certificate in use, as far
// as is known, otherwise why not. If none is callguard's any more, the last result stays.
// If they are shared, none has to be callguard's.
func (k *Keeper) judge(err error) error {
	trusted := false
	for _, name := range k.cfg.Names {
		is := k.seen[name]
		if is == unread || is == distrusts {
			return err
		}
		trusted = trusted || is == trusts
	}
	if trusted || k.published == nil || k.cfg.Shared {
		return nil
	}
	return err
}

// Published returns nil if kube-apiserver can verify the certificate in use, otherwise why
// not.
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

// Collector exports when the certificate in use expires.
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

// overlap returns how long both authorities are in the caBundle before the new certificate
// is used. kube-apiserver watches APIServices, so it needs only seconds.
func (k *Keeper) overlap() time.Duration { return min(time.Minute, k.cfg.Lifetime/20) }

// checkEvery returns how often the APIServices are checked.
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
