// SPDX-License-Identifier: Apache-2.0

package leader

import (
	"testing"

	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// TestOnlyItsOwnLeaseIsReleased releases a lease as client-go does, which reads it before. A process that slept may have lost it.
func TestOnlyItsOwnLeaseIsReleased(t *testing.T) {
	for holder, left := range map[string]string{"me": "", "another guard": "another guard", UnlockHolder: UnlockHolder} {
		t.Run(holder, func(t *testing.T) {
			client := fake.NewClientset(leaseOf(holder, 10))
			lock, err := resourcelock.New(resourcelock.LeasesResourceLock, "callguard-system", LeaseName, client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: "me"})
			if err != nil {
				t.Fatal(err)
			}
			own := &lease{Interface: lock}
			if _, _, err := own.Get(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := own.Update(t.Context(), resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1}); (err == nil) != (left == "") {
				t.Errorf("releasing a lease of %q: %v", holder, err)
			}
			if is := holderIn(t.Context(), t, client); is != left {
				t.Errorf("then %q holds the lease; want %q", is, left)
			}
		})
	}
}
