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
	// A guard that was killed is followed by the next within 10 s: leaseDuration after the
	// next has seen the last renewal. It looks every retryPeriod, of which client-go makes
	// up to 2.2. One that loses the lease notices within renewDeadline.
	leaseDuration = 6 * time.Second
	renewDeadline = 4 * time.Second
	retryPeriod   = 750 * time.Millisecond

	// Notice is how long a leader may take to notice that the lease was taken from it.
	Notice = renewDeadline + retryPeriod
)

// Election has one process of several lead at a time.
type Election struct {
	Client kubernetes.Interface
	// Namespace is that of the lease.
	Namespace string
	// Lead leads until its context is done.
	Lead func(context.Context) error
	Log  *slog.Logger

	unlocked atomic.Bool
}

// Unlocked reports whether the lease is held by an unlock, whoever led before: nobody leads
// then until a guard starts anew.
func (e *Election) Unlocked() bool { return e.unlocked.Load() }

// Run leads while this process holds the lease, and stands by while another does, until
// ctx is done or Lead fails. An earlier unlock is over, because a guard starts. Without an
// election the process leads at once.
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

// locksAgain ends an unlock, if there was one, and reports whether it did so before ctx was done.
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
		if err := e.once(ctx, lock); err != nil || ctx.Err() != nil {
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
				stop() // another may do better
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

// tell enters who holds the lease now.
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
