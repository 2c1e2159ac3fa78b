// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/callguard/callguard/pkg/guard"
)

// TestStandbyOfAnUnlock has a guard stand by while an unlock holds the lease. It is not
// ready, though it never led: it will not lead. When a guard that starts frees the
// lease, it is no longer unlocked.
func TestStandbyOfAnUnlock(t *testing.T) {
	holder, seconds, now := guard.UnlockHolder, int32(1<<30), metav1.NowMicro()
	client := fake.NewClientset(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "callguard-system", Name: guard.LeaseName},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
	})
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, "callguard-system", guard.LeaseName, client.CoreV1(), client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: "standby"})
	if err != nil {
		t.Fatal(err)
	}
	status := &status{}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- elect(ctx, lock, nil, status, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	becomes := func(unlocked bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); status.unlocked.Load() != unlocked; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after 30s unlocked is %t", !unlocked)
			}
		}
	}
	becomes(true)
	if err := status.ready(); err == nil || !strings.HasPrefix(err.Error(), "unlocked: ") {
		t.Errorf("ready: %v", err)
	}
	lease, err := client.CoordinationV1().Leases("callguard-system").Get(t.Context(), guard.LeaseName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := "another guard"
	lease.Spec.HolderIdentity, lease.Spec.RenewTime = &other, &metav1.MicroTime{Time: time.Now().Add(time.Minute)}
	if _, err := client.CoordinationV1().Leases("callguard-system").Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(false)
}
