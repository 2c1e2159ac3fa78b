// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

const testLifetime = time.Hour

func apiService(name, service string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"service": map[string]any{"namespace": "callguard-system", "name": service}},
	}}
}

func cluster(objects ...runtime.Object) *fake.FakeDynamicClient {
	return fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}: "APIServiceList",
	}, objects...)
}

func keeper(t *testing.T, client dynamic.Interface) *Keeper {
	t.Helper()
	k, err := New(Config{
		APIServices: APIServices(client), Names: []string{"v1beta1.x", "v1beta2.x"},
		Service: types.NamespacedName{Namespace: "callguard-system", Name: "metrics-adapter"}, Lifetime: testLifetime,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bundleOf(t *testing.T, client dynamic.Interface, name string) []byte {
	t.Helper()
	object, err := APIServices(client).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := unstructured.NestedString(object.Object, "spec", "caBundle")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// verifies reports whether kube-apiserver would trust what k serves.
func verifies(t *testing.T, k *Keeper, bundle []byte, at time.Time) error {
	t.Helper()
	certPEM, keyPEM := k.CurrentCertKeyContent()
	served, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	_, err = served.Leaf.Verify(x509.VerifyOptions{DNSName: "metrics-adapter.callguard-system.svc", Roots: roots, CurrentTime: at})
	return err
}

// TestRotation runs two replicas through three lifetimes of their certificates and checks at every step that what
// each serves is trusted.
func TestRotation(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
	replicas := []*Keeper{keeper(t, client), keeper(t, client)}
	now := time.Now()
	end := now.Add(3 * testLifetime)
	served := map[string]bool{}
	for ; now.Before(end); now = now.Add(time.Minute) {
		for _, k := range replicas {
			if err := k.step(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"v1beta1.x", "v1beta2.x"} {
			bundle := bundleOf(t, client, name)
			for i, k := range replicas {
				if err := verifies(t, k, bundle, now); err != nil {
					t.Fatalf("replica %d is not trusted by %s at %s: %v", i, name, now, err)
				}
			}
			if n := strings.Count(string(bundle), "BEGIN"); n > 6 {
				t.Fatalf("the bundle has grown to %d authorities", n)
			}
		}
		cert, _ := replicas[0].CurrentCertKeyContent()
		served[string(cert)] = true
	}
	if len(served) < 4 {
		t.Errorf("%d certificates were served, want a new one after each two thirds of a lifetime", len(served))
	}
}

// TestTrustedByOtherClocks: a kube-apiserver whose clock is ten minutes ahead or behind accepts a new certificate.
func TestTrustedByOtherClocks(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
	k, now := keeper(t, client), time.Now()
	if err := k.step(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for _, ahead := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		if err := verifies(t, k, bundleOf(t, client, "v1beta1.x"), now.Add(ahead)); err != nil {
			t.Errorf("%s ahead: %v", ahead, err)
		}
	}
}

type listener struct{ told int }

func (l *listener) Enqueue() { l.told++ }

func TestChangeOverTellsTheServer(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
	k := keeper(t, client)
	var l listener
	k.AddListener(&l)
	due := time.Now().Add(testLifetime*2/3 + time.Minute)
	for _, at := range []time.Time{due, due.Add(time.Second), due.Add(k.overlap())} {
		if l.told != 0 {
			t.Fatal("changed over before kube-apiserver could have seen the next authority")
		}
		if err := k.step(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	if l.told != 1 {
		t.Errorf("the server was notified %d times, want once", l.told)
	}
}

func TestPublishRefuses(t *testing.T) {
	cases := map[string]struct {
		objects []runtime.Object
		want    string
	}{
		"OtherAdapter": {[]runtime.Object{apiService("v1beta1.x", "prometheus-adapter"), apiService("v1beta2.x", "metrics-adapter")},
			"APIService v1beta1.x belongs to Service callguard-system/prometheus-adapter"},
		"NoAPIService": {nil, "there is no APIService v1beta1.x"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := cluster(tc.objects...)
			k := keeper(t, client)
			err := k.step(t.Context(), time.Now())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("step: %v, want %q", err, tc.want)
			}
			for _, action := range client.Actions() {
				if action.GetVerb() != "get" {
					t.Errorf("it did %s", action.GetVerb())
				}
			}
			k.note(err)
			if k.Published() == nil {
				t.Error("it claims to be published")
			}
		})
	}
}

// TestPublishedStays: what was published stays published, whatever error a later check gets, until a check shows
// that it is gone.
func TestPublishedStays(t *testing.T) {
	type replaced = map[string]*unstructured.Unstructured
	refusing := func(verb string) func(*fake.FakeDynamicClient) {
		return func(client *fake.FakeDynamicClient) {
			client.PrependReactor(verb, "apiservices", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, errors.NewInternalError(context.DeadlineExceeded)
			})
		}
	}
	theirs := apiService("v1beta1.x", "prometheus-adapter")
	cases := map[string]struct {
		reason    string
		after     time.Duration // since the certificate was made
		objects   replaced      // by others, nil for deleted
		change    func(*fake.FakeDynamicClient)
		told      string // the remaining problem
		published bool
	}{
		"Well":          {reason: "Nothing has changed.", published: true},
		"NoAnswer":      {reason: "Silence says nothing about the certificate.", change: refusing("get"), told: "cannot read APIService v1beta1.x", published: true},
		"RenewalFails":  {reason: "The certificate in use has a third of its lifetime left.", after: testLifetime*2/3 + time.Minute, change: refusing("patch"), told: "cannot write the caBundle of APIService v1beta1.x", published: true},
		"OtherAdapter":  {reason: "The other version is ours, and has no other server.", objects: replaced{"v1beta1.x": theirs}, told: "belongs to Service callguard-system/prometheus-adapter", published: true},
		"Deleted":       {reason: "The same.", objects: replaced{"v1beta1.x": nil}, told: "there is no APIService v1beta1.x", published: true},
		"BothTaken":     {reason: "No requests come to us any more, so there is nothing to give up.", objects: replaced{"v1beta1.x": theirs, "v1beta2.x": nil}, told: "there is no APIService v1beta2.x", published: true},
		"Emptied":       {reason: "It is written again within the same look.", objects: replaced{"v1beta2.x": apiService("v1beta2.x", "metrics-adapter")}, published: true},
		"EmptiedForBad": {reason: "kube-apiserver verifies us no more.", objects: replaced{"v1beta2.x": apiService("v1beta2.x", "metrics-adapter")}, change: refusing("patch"), told: "cannot write the caBundle of APIService v1beta2.x"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
			k := keeper(t, client)
			look := func(at time.Time) error {
				err := k.step(t.Context(), at)
				k.note(err)
				return err
			}
			if err := look(time.Now()); err != nil || k.Published() != nil {
				t.Fatalf("not published at first: %v", k.Published())
			}
			replace(t, client, tc.objects)
			if tc.change != nil {
				tc.change(client)
			}
			for range 2 {
				err := look(time.Now().Add(tc.after))
				if tc.told == "" && err != nil || tc.told != "" && (err == nil || !strings.Contains(err.Error(), tc.told)) {
					t.Errorf("%s\nit tells %v, want %q", tc.reason, err, tc.told)
				}
				if is := k.Published(); (is == nil) != tc.published {
					t.Errorf("%s\npublished: %v, want it so: %t", tc.reason, is, tc.published)
				}
			}
		})
	}
}

// replace deletes and creates APIServices as others do.
func replace(t *testing.T, client dynamic.Interface, objects map[string]*unstructured.Unstructured) {
	t.Helper()
	for name, object := range objects {
		if err := APIServices(client).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if object == nil {
			continue
		}
		if _, err := APIServices(client).Create(t.Context(), object.DeepCopy(), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBesideAnotherAdapter: another adapter takes one version for good. A replica renews its certificate for the
// other version, one that starts is ready for it, and neither touches what is not theirs.
func TestBesideAnotherAdapter(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
	replicas := []*Keeper{keeper(t, client)}
	now := time.Now()
	look := func() {
		for _, k := range replicas {
			k.note(k.step(t.Context(), now))
			if err := k.Published(); err != nil {
				t.Fatalf("not published at %s: %v", now, err)
			}
			if err := verifies(t, k, bundleOf(t, client, "v1beta2.x"), now); err != nil {
				t.Fatalf("not trusted at %s: %v", now, err)
			}
		}
	}
	look()
	replace(t, client, map[string]*unstructured.Unstructured{"v1beta1.x": apiService("v1beta1.x", "prometheus-adapter")})
	replicas = append(replicas, keeper(t, client))
	for end := now.Add(2 * testLifetime); now.Before(end); now = now.Add(time.Minute) {
		look()
	}
	if bundle := bundleOf(t, client, "v1beta1.x"); len(bundle) > 0 {
		t.Errorf("the other adapter's caBundle is written:\n%s", bundle)
	}
}

func TestConflictIsTriedAgain(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
	conflicts := 2
	client.PrependReactor("patch", "apiservices", func(clienttesting.Action) (bool, runtime.Object, error) {
		if conflicts == 0 {
			return false, nil, nil
		}
		conflicts--
		return true, nil, errors.NewConflict(schema.GroupResource{Resource: "apiservices"}, "v1beta1.x", nil)
	})
	k := keeper(t, client)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for k.Published() != nil {
		if time.Now().After(deadline) {
			t.Fatalf("not published: %v", k.Published())
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := verifies(t, k, bundleOf(t, client, "v1beta2.x"), time.Now()); err != nil {
		t.Error(err)
	}
}

func TestMergeBundle(t *testing.T) {
	now := time.Now()
	authority := func(at time.Time) []byte {
		p, err := newPair([]string{"x"}, at, testLifetime)
		if err != nil {
			t.Fatal(err)
		}
		return p.ca
	}
	expired, other, mine := authority(now.Add(-2*testLifetime)), authority(now), authority(now.Add(-time.Minute))
	merged := mergeBundle(append(append([]byte("rubbish\n"), expired...), other...), [][]byte{mine}, now)
	if string(merged) != string(mine)+string(other) {
		t.Errorf("merged:\n%s", merged)
	}
	var many []byte
	for i := range maxAuthorities + 5 {
		many = append(many, authority(now.Add(time.Duration(i)*time.Second))...)
	}
	merged = mergeBundle(many, [][]byte{mine}, now)
	if n := strings.Count(string(merged), "BEGIN"); n != maxAuthorities || !safe(merged, [][]byte{mine}) {
		t.Errorf("%d authorities, own among them: %t", n, safe(merged, [][]byte{mine}))
	}
}

// TestCrashLoop: one replica starts again and again next to two healthy ones: an earlier one, and one that started
// in the middle. Each serving replica is trusted after every single write, and the healthy ones hardly write.
func TestCrashLoop(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "metrics-adapter"), apiService("v1beta2.x", "metrics-adapter"))
	now := time.Now()
	step := func(k *Keeper, healthy []*Keeper) {
		t.Helper()
		if err := k.step(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		bundle := bundleOf(t, client, "v1beta1.x")
		for i, h := range healthy {
			if err := verifies(t, h, bundle, now); err != nil {
				t.Fatalf("healthy replica %d is not trusted any more: %v", i, err)
			}
		}
		if n := strings.Count(string(bundle), "BEGIN"); n > maxAuthorities {
			t.Fatalf("the bundle has grown to %d authorities", n)
		}
	}
	healthy := []*Keeper{keeper(t, client)}
	step(healthy[0], healthy)
	const starts = 4 * maxAuthorities
	client.ClearActions()
	for i := range starts {
		if i == starts/2 { // as in a rollout
			late := keeper(t, client)
			step(late, healthy)
			healthy = append(healthy, late)
		}
		step(keeper(t, client), healthy)
		for _, k := range healthy {
			step(k, healthy)
		}
	}
	writes := 0
	for _, action := range client.Actions() {
		if action.GetVerb() == "patch" {
			writes++
		}
	}
	// Each start writes both APIServices; a healthy replica does when it has sunk.
	if most := 2 * (starts + 1 + 2*starts/safePlaces); writes > most {
		t.Errorf("%d writes, want %d at most", writes, most)
	}
}

// TestSharedUntilTaken: somebody else points the APIServices to us, long after the start. A replica is ready before
// that, renews its certificate, and is trusted from its next check on.
func TestSharedUntilTaken(t *testing.T) {
	client := cluster(apiService("v1beta1.x", "prometheus-adapter"))
	k := keeper(t, client)
	k.cfg.Shared = true
	now := time.Now()
	first, _ := k.CurrentCertKeyContent()
	for end := now.Add(2 * testLifetime); now.Before(end); now = now.Add(time.Minute) {
		k.note(k.step(t.Context(), now))
		if err := k.Published(); err != nil {
			t.Fatalf("not ready at %s: %v", now, err)
		}
	}
	if cert, _ := k.CurrentCertKeyContent(); string(cert) == string(first) {
		t.Error("it serves with a certificate that has expired")
	}
	if bundle := bundleOf(t, client, "v1beta1.x"); len(bundle) > 0 {
		t.Errorf("the other adapter's caBundle is written:\n%s", bundle)
	}
	replace(t, client, map[string]*unstructured.Unstructured{"v1beta1.x": apiService("v1beta1.x", "metrics-adapter")})
	k.note(k.step(t.Context(), now))
	if err := verifies(t, k, bundleOf(t, client, "v1beta1.x"), now); err != nil || k.Published() != nil {
		t.Errorf("after the take-over: %v, %v", err, k.Published())
	}
}
