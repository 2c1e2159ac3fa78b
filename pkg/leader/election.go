// SPDX-License-Identifier: Apache-2.0

package leader

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const (
	// If a guard is killed, the next one leads within 10 s: leaseDuration after it has seen
	// the last renewal. It looks every retryPeriod, which client-go stretches by a factor of up to 2.2. A
	// guard that loses the lease notices that within renewDeadline.
	leaseDuration = 6 * time.Second
	renewDeadline = 4 * time.Second
	retryPeriod   = 750 * time.Millisecond

	// Notice is the maximum time until a leader notices that it has lost the lease.
	Notice = renewDeadline + retryPeriod
)

// Election makes one of several processes lead at a time.
type Election struct {
	Client kubernetes.Interface
	// Namespace is the namespace of the lease.
	Namespace string
	// Lead leads until its context is done.
	Lead func(context.Context) error
	Log  *slog.Logger

	unlocked atomic.Bool
}

// Unlocked reports whether an unlock holds the lease. Then nobody leads until a guard is
// started.
func (e *Election) Unlocked() bool { return e.unlocked.Load() }

// Run leads while this process holds the lease, and stands by while another does, until ctx
// is done or Lead fails. It ends an earlier unlock. If elect is false, the process leads at
// once.
func (e *Election) Run(ctx context.Context, elect bool) error {
	if !e.locksAgain(ctx) {
		return nil
	}
	if !elect {
		return e.Lead(ctx)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot name this process for the election: %w", err)
	}
	return e.run(ctx, fmt.Sprintf("%s_%s", host, uuid.NewUUID()))
}

// locksAgain ends an unlock, if there was one, and reports whether that succeeded before ctx was
// done.
func (e *Election) locksAgain(ctx context.Context) bool {
	return wait.PollUntilContextCancel(ctx, retryPeriod, true, func(ctx context.Context) (bool, error) {
		err := takeBack(ctx, e.Client, e.Namespace)
		if err != nil {
			e.Log.Warn("Cannot see whether callguard is unlocked; retrying", "err", err)
		}
		return err == nil, nil
	}) == nil
}

// run takes part in the election under a name, until ctx is done.
func (e *Election) run(ctx context.Context, name string) error {
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, e.Namespace, LeaseName, e.Client.CoreV1(), e.Client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: name})
	if err != nil {
		return fmt.Errorf("cannot take part in the election: %w", err)
	}
	for ctx.Err() == nil {
		if err := e.once(ctx, &lease{Interface: lock}); err != nil || ctx.Err() != nil {
			return err
		}
		e.Log.Warn("Lost the lease", "lease", LeaseName)
	}
	return nil
}

// once stands by for the lease, and leads until it is lost or ctx is done.
func (e *Election) once(ctx context.Context, lock resourcelock.Interface) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	led := make(chan error, 1)
	var leads atomic.Bool
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				leads.Store(true)
				e.Log.Info("Leading")
				led <- e.Lead(ctx)
				stop() // another process may do better
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      e.tell,
		},
	})
	if err != nil {
		return fmt.Errorf("cannot take part in the election: %w", err)
	}
	elector.Run(ctx)
	if !leads.Load() {
		return nil
	}
	return <-led
}

// tell records who holds the lease now.
func (e *Election) tell(holder string) {
	unlocked := holder == UnlockHolder
	if e.unlocked.Swap(unlocked) == unlocked {
		return
	}
	if unlocked {
		e.Log.Warn("Unlocked by 'drain-guard unlock': no drain-guard leads, and existing pods are not protected; starting a drain-guard locks again")
	} else {
		e.Log.Info("No longer unlocked", "holder", holder)
	}
}
