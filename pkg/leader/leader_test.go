// SPDX-License-Identifier: Apache-2.0

package leader

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/test/trial"
)

func noon() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }

func TestFind(t *testing.T) {
	holder := func(name string) *coordinationv1.Lease {
		at := metav1.NewMicroTime(noon())
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "callguard-system", Name: LeaseName}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &at}}
	}
	cases := map[string]struct {
		reason string
		lease  runtime.Object
		renews bool
		want   string
		err    string
	}{
		"Leads":    {reason: "It renews its lease.", lease: holder("one"), renews: true, want: "one"},
		"Dead":     {reason: "The lease alone is no proof.", lease: holder("one"), err: "one holds lease callguard-system/drain-guard and has not renewed it"},
		"Nobody":   {reason: "It was given up.", lease: holder(""), err: "has no holder"},
		"Unlocked": {reason: "An unlock holds it forever.", lease: holder(UnlockHolder), renews: true, err: "callguard was unlocked"},
		"None":     {reason: "There never was one.", lease: &corev1.Namespace{}, err: "there is no lease"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(tc.lease)
			if tc.renews {
				n := 0
				client.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
					lease := tc.lease.(*coordinationv1.Lease).DeepCopy()
					lease.Spec.RenewTime.Time = noon().Add(time.Duration(n) * time.Second)
					n++
					return true, lease, nil
				})
			}
			got, err := Find(t.Context(), client, "callguard-system", time.Second)
			if got != tc.want || (err != nil) != (tc.err != "") {
				t.Fatalf("%s\nleader %q, %v", tc.reason, got, err)
			}
			if err != nil && (!errors.Is(err, ErrNone) || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("%s\n%v; want %q", tc.reason, err, tc.err)
			}
		})
	}
}

// leaseOf returns a lease that somebody holds for a number of seconds from now.
func leaseOf(holder string, seconds int32) *coordinationv1.Lease {
	now := metav1.NowMicro()
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "callguard-system", Name: LeaseName},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
	}
}

func holderIn(ctx context.Context, t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	lease, err := client.CoordinationV1().Leases("callguard-system").Get(ctx, LeaseName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return holderOf(lease)
}

// TestSeizeAndTakeBack: after an unlock nobody can lead, until a guard starts.
func TestSeizeAndTakeBack(t *testing.T) {
	cases := map[string]struct {
		reason    string
		objects   []runtime.Object
		fromGuard bool
	}{
		"None":    {reason: "No guard has ever led."},
		"GivenUp": {reason: "The last one has given it up.", objects: []runtime.Object{leaseOf("", 10)}},
		"Held":    {reason: "It has to notice.", objects: []runtime.Object{leaseOf("one", 10)}, fromGuard: true},
		"Again":   {reason: "It was seized before.", objects: []runtime.Object{leaseOf(UnlockHolder, 10)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(tc.objects...)
			fromGuard, err := Seize(t.Context(), client, "callguard-system")
			if err != nil || fromGuard != tc.fromGuard {
				t.Errorf("%s The lease is taken from a guard: %t, %v; want %t", tc.reason, fromGuard, err, tc.fromGuard)
			}
			if holder := holderIn(t.Context(), t, client); holder != UnlockHolder {
				t.Errorf("%s %q holds the lease", tc.reason, holder)
			}
			for range 2 { // the second guard finds it free
				if err := takeBack(t.Context(), client, "callguard-system"); err != nil {
					t.Fatal(err)
				}
				if holder := holderIn(t.Context(), t, client); holder != "" {
					t.Errorf("after a guard has started, %q holds the lease", holder)
				}
			}
		})
	}
}

// TestTakeBackFromNobody: without an unlock the lease keeps its holder.
func TestTakeBackFromNobody(t *testing.T) {
	if err := takeBack(t.Context(), fake.NewClientset(), "callguard-system"); err != nil {
		t.Errorf("without a lease: %v", err)
	}
	client := fake.NewClientset(leaseOf("one", 10))
	if err := takeBack(t.Context(), client, "callguard-system"); err != nil || holderIn(t.Context(), t, client) != "one" {
		t.Errorf("%v, held by %q; want one", err, holderIn(t.Context(), t, client))
	}
}

// TestStandbyOfAnUnlock: a guard stands by while an unlock holds the lease. It does not lead, and
// reports that callguard is unlocked, until a starting guard frees the lease.
func TestStandbyOfAnUnlock(t *testing.T) {
	client := fake.NewClientset(leaseOf(UnlockHolder, 1<<30))
	e := &Election{Client: client, Namespace: "callguard-system", Log: slog.New(slog.DiscardHandler), Lead: func(context.Context) error {
		t.Error("it leads")
		return nil
	}}
	running(t, func(ctx context.Context) error { return e.run(ctx, "standby") })
	trial.Eventually(t, "it sees the unlock", e.Unlocked)
	other := leaseOf("another guard", 60)
	if _, err := client.CoordinationV1().Leases("callguard-system").Update(t.Context(), other, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	trial.Eventually(t, "it sees the unlock over", func() bool { return !e.Unlocked() })
}

// TestRunLeads: a starting guard ends an unlock, and leads, with an election and without. If what
// it runs fails, it fails, too.
func TestRunLeads(t *testing.T) {
	for name, elect := range map[string]bool{"Elected": true, "Alone": false} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(leaseOf(UnlockHolder, 1<<30))
			broken := errors.New("broken")
			e := &Election{Client: client, Namespace: "callguard-system", Log: slog.New(slog.DiscardHandler), Lead: func(ctx context.Context) error {
				if holder := holderIn(ctx, t, client); holder == UnlockHolder || elect == (holder == "") {
					t.Errorf("it leads while %q holds the lease", holder)
				}
				return broken
			}}
			if err := e.Run(t.Context(), elect); !errors.Is(err, broken) {
				t.Errorf("it ends with %v, want %v", err, broken)
			}
			if holder := holderIn(t.Context(), t, client); holder != "" {
				t.Errorf("%q still holds the lease: no other guard can lead", holder)
			}
		})
	}
}

// running runs something until the test ends.
func running(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
