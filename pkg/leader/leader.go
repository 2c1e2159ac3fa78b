// SPDX-License-Identifier: Apache-2.0

// Package leader handles drain-guard's lease: the election, who leads as seen from
// outside, what an unlock does to it, and the LiveKit server recorded there. It does not
// know what a leader does.
package leader

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// LeaseName is the name of the lease by which one guard is elected.
	LeaseName = call.GuardName
	// UnlockHolder holds the lease after an unlock, so that no running guard locks anything
	// again. A guard that starts takes the lease back.
	UnlockHolder = "unlock"

	// fieldManager is the field manager of what is written to the lease.
	fieldManager = "callguard-drain-guard"
	// lookEvery is how often Find looks.
	lookEvery = 250 * time.Millisecond
)

// ErrNone is the error of Find if no guard leads.
var ErrNone = errors.New("no drain-guard leads")

// Find waits, no longer than the given time, until the leading guard renews its lease, and
// returns its name. It compares no clocks.
func Find(ctx context.Context, client kubernetes.Interface, namespace string, within time.Duration) (string, error) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var first *metav1.MicroTime
	for {
		lease, err := client.CoordinationV1().Leases(namespace).Get(ctx, LeaseName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", fmt.Errorf("%w: there is no lease %s/%s", ErrNone, namespace, LeaseName)
		}
		if err != nil {
			return "", fmt.Errorf("cannot read lease %s/%s: %w", namespace, LeaseName, err)
		}
		holder, renewed := holderOf(lease), lease.Spec.RenewTime
		switch {
		case holder == UnlockHolder:
			return "", fmt.Errorf("%w: callguard was unlocked, and nothing is locked until a drain-guard starts again", ErrNone)
		case holder == "" || renewed == nil:
		case first == nil:
			first = renewed
		case !renewed.Equal(first):
			return holder, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline.C:
			if holder == "" {
				return "", fmt.Errorf("%w: lease %s/%s has no holder", ErrNone, namespace, LeaseName)
			}
			return "", fmt.Errorf("%w: %s holds lease %s/%s and has not renewed it within %s", ErrNone, holder, namespace, LeaseName, within)
		case <-tick.C:
		}
	}
}

func holderOf(lease *coordinationv1.Lease) string { return ptr.Deref(lease.Spec.HolderIdentity, "") }

// Seize makes UnlockHolder the holder of the lease, and reports whether a guard held it.
func Seize(ctx context.Context, client kubernetes.Interface, namespace string) (fromGuard bool, err error) {
	leases := client.CoordinationV1().Leases(namespace)
	err = retry.OnError(retry.DefaultBackoff, func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }, func() error {
		now := metav1.NowMicro()
		spec := coordinationv1.LeaseSpec{
			HolderIdentity: new(UnlockHolder), LeaseDurationSeconds: new(int32(math.MaxInt32)), AcquireTime: &now, RenewTime: &now,
		}
		lease, err := leases.Get(ctx, LeaseName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName, Namespace: namespace}, Spec: spec}, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		if holderOf(lease) == UnlockHolder {
			return nil
		}
		fromGuard = holderOf(lease) != ""
		lease.Spec = spec
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("cannot take the lease %s/%s from the guard: %w", namespace, LeaseName, err)
	}
	return fromGuard, nil
}

// takeBack ends an unlock, if there was one: the lease is free again.
func takeBack(ctx context.Context, client kubernetes.Interface, namespace string) error {
	lease, err := client.CoordinationV1().Leases(namespace).Get(ctx, LeaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && holderOf(lease) != UnlockHolder {
		return nil
	}
	if err == nil {
		lease.Spec = coordinationv1.LeaseSpec{}
		_, err = client.CoordinationV1().Leases(namespace).Update(ctx, lease, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if err != nil && !apierrors.IsConflict(err) { // otherwise another guard has done it
		return fmt.Errorf("cannot take the lease %s/%s back: %w", namespace, LeaseName, err)
	}
	return nil
}
