// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Spent is the processor time that work takes in its own goroutine: other processes take
// time from it on the clock, and none of this. On Linux.
func Spent(t testing.TB, work func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() time.Duration {
		var at unix.Timespec
		Must(t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at))
		return time.Duration(at.Nano())
	}
	began := now()
	work()
	return now() - began
}
