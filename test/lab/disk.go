// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// FillDisk has the disk of a pod's gate full: files can be created, and emptied, but nothing can be written into them. A gate that is
// started again has room. The kernel limits how long the files are that the gate writes, which needs no root. The error that the gate
// sees is EFBIG instead of ENOSPC. Its log has the same disk.
func (l *Lab) FillDisk(pod types.UID) (free func() error, err error) {
	l.mu.Lock()
	gate := l.gates[pod]
	l.mu.Unlock()
	if gate == nil {
		return nil, fmt.Errorf("pod %s has no gate of this stage", pod)
	}
	limit := func(bytes uint64) error {
		if err := gate.Alive(); err != nil {
			return err
		}
		var is unix.Rlimit
		err := unix.Prlimit(gate.PID, unix.RLIMIT_FSIZE, nil, &is)
		if err == nil {
			err = unix.Prlimit(gate.PID, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: min(bytes, is.Max), Max: is.Max}, nil)
		}
		if err != nil {
			return fmt.Errorf("cannot limit the files of the gate: %w", err)
		}
		return nil
	}
	if err := limit(0); err != nil {
		return nil, err
	}
	return func() error {
		select {
		case <-gate.Done():
			return nil // the next one has room
		default:
			return limit(unix.RLIM_INFINITY)
		}
	}, nil
}
