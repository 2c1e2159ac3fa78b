// SPDX-License-Identifier: Apache-2.0

package leader

import (
	"context"
	"fmt"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease is the lock of one process, which only releases what is its own. client-go (0.36) reads the lease before it releases it,
// but goes by what it had read before. A process that was paused for longer than the lease lasts would clear another holder, or an
// unlock, and could lead beside it.
type lease struct {
	resourcelock.Interface

	holder string // as last read or written; the election asks from one goroutine
}

// Get implements resourcelock.Interface.
func (l *lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if err == nil {
		l.holder = record.HolderIdentity
	}
	return record, raw, err
}

// Update implements resourcelock.Interface.
func (l *lease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity == "" && l.holder != l.Identity() {
		return fmt.Errorf("%s is held by %q now, and is left to it", l.Describe(), l.holder)
	}
	err := l.Interface.Update(ctx, record)
	if err == nil {
		l.holder = record.HolderIdentity
	}
	return err
}
