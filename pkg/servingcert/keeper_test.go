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

// verifies says whether kube-apiserver would trust what k serves.
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

// TestRotation walks two replicas through three of their certificates'
// lives and checks at every step that what each serves is trusted.
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
		t.Errorf("the server was told %d times, want once", l.told)
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

// TestCrashLoop has one replica start again and again beside two that are healthy:
// one of before, and one that came in the middle. Whoever serves is trusted after
// every single write, and the healthy ones hardly write.
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
		if i == starts/2 { // as a rollout brings one
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
