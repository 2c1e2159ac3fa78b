// SPDX-License-Identifier: Apache-2.0

// Package replicas counts the replicas of the program that it is part of, by the
// EndpointSlices of a Service that names all of them, ready or not, and decides which of the
// ready ones is in charge of a piece of work.
//
// It elects nobody and stores nothing. If it is not sure, it counts too many rather than
// too few, so that a replica uses less than its part of a limit and never more.
package replicas

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// Config is what a Watcher needs.
type Config struct {
	Client kubernetes.Interface
	// Service names all replicas, ready or not. If it is empty, nothing is watched, and
	// Assumed applies.
	Service types.NamespacedName
	// Assumed is how many replicas there are until their number is known.
	Assumed int
	// Own returns the addresses of this replica; nil means those of the machine's interfaces.
	Own      func() ([]netip.Addr, error)
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Watcher knows how many replicas there are. Its methods are safe for concurrent use.
type Watcher struct {
	cfg    Config
	count  atomic.Int64
	ring   atomic.Pointer[ring] // nil while no ready replica is listed
	silent atomic.Bool          // the slices may not be read, and that was logged

	// The following fields belong to the informer's only handler.
	slices map[string]*discoveryv1.EndpointSlice // by name
	own    []netip.Addr
	sure   int // the last count that included this replica, or Assumed
}

// New returns a Watcher that returns Assumed until Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.Own == nil {
		cfg.Own = ofInterfaces
	}
	w := &Watcher{cfg: cfg, slices: map[string]*discoveryv1.EndpointSlice{}, sure: max(1, cfg.Assumed)}
	w.count.Store(int64(w.sure))
	err := cfg.Registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "callguard", Name: "adapter_replicas",
		Help: "Replicas of metrics-adapter that this one knows of, itself included. They share the limit of requests to LiveKit.",
	}, func() float64 { return float64(w.Count()) }))
	if err != nil {
		return nil, fmt.Errorf("cannot register the number of replicas: %w", err)
	}
	return w, nil
}

// Count returns how many replicas there are, including this one: Assumed until that is
// known, and the last known number while it cannot be read.
func (w *Watcher) Count() int { return int(w.count.Load()) }

// ring has the ready replicas, and which of them is this one.
type ring struct {
	ready map[string]bool // ids; true is this one
}

// Mine reports whether this replica, among the ready ones, is in charge of a key. If all
// replicas have the same list, exactly one is in charge of each key; without a list all are.
func (w *Watcher) Mine(key string) bool {
	r := w.ring.Load()
	if r == nil {
		return true
	}
	mine, most, last := false, uint64(0), ""
	for id, own := range r.ready {
		sum := sha256.Sum256([]byte(id + "\x00" + key))
		if n := binary.BigEndian.Uint64(sum[:]); last == "" || n > most || n == most && id > last {
			mine, most, last = own, n, id
		}
	}
	return mine
}

// Run watches until ctx is done. If the API server does not answer or refuses, that is not
// an error: the last known number applies.
func (w *Watcher) Run(ctx context.Context) error {
	if w.cfg.Service.Name == "" {
		<-ctx.Done()
		return nil
	}
	var err error
	if w.own, err = w.cfg.Own(); err != nil {
		w.cfg.Log.Warn("Cannot tell which of the listed replicas this is; it is counted in addition to them", "err", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(w.cfg.Client, 0,
		informers.WithNamespace(w.cfg.Service.Namespace), informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = discoveryv1.LabelServiceName + "=" + w.cfg.Service.Name
		}))
	informer := factory.Discovery().V1().EndpointSlices().Informer()
	if err := informer.SetWatchErrorHandlerWithContext(w.cannot); err != nil {
		return fmt.Errorf("cannot watch EndpointSlices: %w", err)
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    w.set,
		UpdateFunc: func(_, now any) { w.set(now) },
		DeleteFunc: w.delete,
	}); err != nil {
		return fmt.Errorf("cannot watch EndpointSlices: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	<-ctx.Done()
	return nil
}

// cannot logs, once until a slice is read, that the account may not read slices. An
// unreachable API server is reported by the pods' informers.
func (w *Watcher) cannot(ctx context.Context, r *cache.Reflector, err error) {
	cache.DefaultWatchErrorHandler(ctx, r, err)
	if apierrors.IsForbidden(err) && !w.silent.Swap(true) {
		w.cfg.Log.Warn("No permission to read the EndpointSlices of the replicas, so their number is unknown; apply the chart's RBAC objects",
			"service", w.cfg.Service.String(), "assumed", w.Count(), "err", err)
	}
}

func (w *Watcher) set(obj any) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		w.slices[slice.Name] = slice
		w.recount()
	}
}

func (w *Watcher) delete(obj any) {
	if unseen, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unseen.Obj
	}
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		delete(w.slices, slice.Name)
		w.recount()
	}
}

// recount counts again. A list without this replica is too old, of another Service, or the
// rest of a deleted one, so it does not lower the number.
func (w *Watcher) recount() {
	w.silent.Store(false)
	w.ring.Store(ringOf(w.slices, w.own))
	listed, sure := among(w.slices, w.own)
	n := listed
	if sure {
		w.sure = listed
	} else {
		n = max(w.sure, listed+1)
	}
	if before := w.count.Swap(int64(n)); before != int64(n) {
		w.cfg.Log.Info("The number of replicas has changed; they share the limit of requests to LiveKit", "replicas", n, "before", before, "listed", listed)
	}
}

// among returns how many replicas EndpointSlices list, and whether one of them has one of
// this replica's addresses. Replicas that are not ready or are terminating count, because
// they may still send requests. A replica with addresses of both families is in a slice of
// each.
func among(slices map[string]*discoveryv1.EndpointSlice, own []netip.Addr) (listed int, sure bool) {
	ours := map[netip.Addr]bool{}
	for _, addr := range own {
		ours[addr.Unmap()] = true
	}
	ids := map[string]bool{}
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			if len(endpoint.Addresses) == 0 {
				continue
			}
			ids[idOf(endpoint)] = true
			for _, text := range endpoint.Addresses {
				addr, err := netip.ParseAddr(text)
				sure = sure || err == nil && ours[addr.Unmap()]
			}
		}
	}
	return len(ids), sure
}

// ringOf returns which replicas EndpointSlices list as ready; nil for none.
func ringOf(slices map[string]*discoveryv1.EndpointSlice, own []netip.Addr) *ring {
	r := &ring{ready: map[string]bool{}}
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			// Condition "ready" is of no use: it is true for all endpoints of such a Service.
			if len(endpoint.Addresses) == 0 || !ptr.Deref(endpoint.Conditions.Serving, true) || ptr.Deref(endpoint.Conditions.Terminating, false) {
				continue
			}
			id, ours := idOf(endpoint), false
			for _, text := range endpoint.Addresses {
				addr, err := netip.ParseAddr(text)
				for _, o := range own {
					ours = ours || err == nil && addr.Unmap() == o.Unmap()
				}
			}
			r.ready[id] = r.ready[id] || ours
		}
	}
	if len(r.ready) == 0 {
		return nil
	}
	return r
}

// idOf returns an id of a replica that is the same in all slices that list it.
func idOf(endpoint discoveryv1.Endpoint) string {
	if endpoint.TargetRef != nil && endpoint.TargetRef.UID != "" {
		return string(endpoint.TargetRef.UID)
	}
	return endpoint.Addresses[0]
}

// ofInterfaces returns the addresses of this machine's interfaces, as a pod sees them.
func ofInterfaces() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("cannot tell this replica's own addresses: %w", err)
	}
	var own []netip.Addr
	for _, addr := range found {
		prefix, err := netip.ParsePrefix(addr.String())
		if err == nil {
			own = append(own, prefix.Addr())
		}
	}
	return own, nil
}

// trim keeps what is read of a slice.
func trim(obj any) (any, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, errors.New("the API server sent no EndpointSlice")
	}
	kept := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: slice.Namespace, Name: slice.Name, ResourceVersion: slice.ResourceVersion}}
	for _, endpoint := range slice.Endpoints {
		kept.Endpoints = append(kept.Endpoints, discoveryv1.Endpoint{
			Addresses: endpoint.Addresses, TargetRef: endpoint.TargetRef, Conditions: discoveryv1.EndpointConditions{Serving: endpoint.Conditions.Serving, Terminating: endpoint.Conditions.Terminating},
		})
	}
	return kept, nil
}
