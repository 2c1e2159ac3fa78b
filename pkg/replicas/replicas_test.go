// SPDX-License-Identifier: Apache-2.0

package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/test/trial"
)

// ours is the address of the replica under test.
const ours = 1

func address(i int) string { return fmt.Sprint("10.0.0.", i) }

// sliceOf is an EndpointSlice of the replicas' Service, with an endpoint of each number.
func sliceOf(name string, numbers ...int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "callguard-system", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "peers"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, i := range numbers {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address(i)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: types.UID(fmt.Sprint("pod-", i))},
		})
	}
	return slice
}

// start runs a Watcher that assumes 2 replicas.
func start(t *testing.T, client *fake.Clientset, log io.Writer) (*Watcher, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	w, err := New(Config{
		Client: client, Service: types.NamespacedName{Namespace: "callguard-system", Name: "peers"}, Assumed: 2,
		Own: func() ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr(address(ours))}, nil
		},
		Registry: registry, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	trial.Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w, registry
}

func counts(t *testing.T, w *Watcher, want int, when string) {
	t.Helper()
	trial.Eventually(t, fmt.Sprintf("there are %d replicas: %s", want, when), func() bool { return w.Count() == want })
}

// TestCount: replicas come and go, and their Service is deleted.
func TestCount(t *testing.T) {
	other := sliceOf("other", 7, 8, 9)
	other.Labels[discoveryv1.LabelServiceName] = "other"
	elsewhere := sliceOf("elsewhere", 7, 8, 9)
	elsewhere.Namespace = "voice"
	client := fake.NewClientset(other, elsewhere)
	api := client.DiscoveryV1().EndpointSlices("callguard-system")
	w, registry := start(t, client, io.Discard)
	set := func(slice *discoveryv1.EndpointSlice) {
		t.Helper()
		_, err := api.Update(t.Context(), slice, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = api.Create(t.Context(), slice, metav1.CreateOptions{})
		}
		trial.Must(t, err)
	}

	counts(t, w, 2, "that is assumed")
	set(sliceOf("a", 2, 3))
	counts(t, w, 3, "two are listed, and we are not yet")
	set(sliceOf("a", ours, 2, 3))
	set(sliceOf("b", 4))
	counts(t, w, 4, "all are listed, in two slices")

	no, yes := false, true
	waiting := sliceOf("b", 4, 5)
	waiting.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
	waiting.Endpoints[1].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no}
	set(waiting)
	counts(t, w, 5, "one that ends or starts may ask LiveKit, too")

	family := sliceOf("c", ours, 2, 3)
	family.AddressType = discoveryv1.AddressTypeIPv6
	for i := range family.Endpoints {
		family.Endpoints[i].Addresses = []string{fmt.Sprint("fd00::", i+1)}
	}
	set(family)
	set(sliceOf("b"))
	counts(t, w, 3, "a pod with two addresses is one")
	if err := testutil.CollectAndCompare(registry, strings.NewReader(`
# HELP callguard_adapter_replicas Replicas of metrics-adapter that this one knows of, itself included. They share the limit of requests to LiveKit.
# TYPE callguard_adapter_replicas gauge
callguard_adapter_replicas 3
`)); err != nil {
		t.Error(err)
	}

	set(sliceOf("a", ours, 2))
	set(sliceOf("c"))
	counts(t, w, 2, "one has gone")
	set(sliceOf("b", 3))
	counts(t, w, 3, "and another come")
	for _, name := range []string{"a", "b", "c"} {
		trial.Must(t, api.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	set(sliceOf("d", 9, 10, 11, 12))
	counts(t, w, 5, "who deletes the Service makes nobody believe to be alone")
	set(sliceOf("d"))
	counts(t, w, 3, "nor less than when it was known last")
	set(sliceOf("d", ours))
	counts(t, w, 1, "until it is known again")
}

// TestForbidden: an account may not read the slices, as with an earlier chart, and gets the
// right later.
func TestForbidden(t *testing.T) {
	client := fake.NewClientset(sliceOf("a", ours, 2, 3))
	var allowed atomic.Bool
	var asked atomic.Int64
	client.PrependReactor("list", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) {
		asked.Add(1)
		if allowed.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(discoveryv1.Resource("endpointslices"), "", errors.New("no RBAC policy matched"))
	})
	log := &trial.Log{}
	w, _ := start(t, client, log)
	trial.Eventually(t, "it is asked again and again", func() bool { return asked.Load() > 1 })
	if n := w.Count(); n != 2 {
		t.Errorf("got %d replicas, want the 2 that are assumed", n)
	}
	allowed.Store(true)
	counts(t, w, 3, "it may read them now")
	if n := strings.Count(log.String(), "No permission to read the EndpointSlices"); n != 1 {
		t.Errorf("%d lines of the log say so, want one:\n%s", n, log)
	}
}

// TestSilentAPIServer: while the number of replicas cannot be read, the last one stays.
func TestSilentAPIServer(t *testing.T) {
	client := fake.NewClientset(sliceOf("a", ours, 2, 3))
	var away atomic.Bool
	var asked atomic.Int64
	watched := make(chan *watch.RaceFreeFakeWatcher, 100)
	client.PrependReactor("list", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) {
		if !away.Load() {
			return false, nil, nil
		}
		asked.Add(1)
		return true, nil, errors.New("connection refused")
	})
	client.PrependWatchReactor("endpointslices", func(clienttesting.Action) (bool, watch.Interface, error) {
		if away.Load() {
			return true, nil, apierrors.NewResourceExpired("too old") // requires a new list
		}
		w := watch.NewRaceFreeFake()
		watched <- w
		return true, w, nil
	})
	w, _ := start(t, client, io.Discard)
	counts(t, w, 3, "it is known")

	away.Store(true)
	(<-watched).Stop()
	trial.Eventually(t, "it is asked again and again", func() bool { return asked.Load() > 1 })
	if n := w.Count(); n != 3 {
		t.Errorf("got %d replicas, want the earlier 3", n)
	}
	trial.Must(t, client.Tracker().Update(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), sliceOf("a", ours, 2), "callguard-system"))
	away.Store(false)
	counts(t, w, 2, "it is back")
}

// TestAssumed: without a Service the assumed number is used, and without an assumed number
// it is one.
func TestAssumed(t *testing.T) {
	for assumed, want := range map[int]int{0: 1, 1: 1, 5: 5} {
		w, err := New(Config{Assumed: assumed, Registry: prometheus.NewRegistry()})
		trial.Must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		trial.Must(t, w.Run(ctx))
		if got := w.Count(); got != want {
			t.Errorf("with %d assumed there are %d, want %d", assumed, got, want)
		}
	}
}
