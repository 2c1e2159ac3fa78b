// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Spent returns the processor time that work takes in its own goroutine, which, unlike
// elapsed time, does not depend on other processes. On Linux.
func Spent(t testing.TB, work func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := processor(t, unix.CLOCK_THREAD_CPUTIME_ID)
	work()
	return processor(t, unix.CLOCK_THREAD_CPUTIME_ID) - began
}

// CPU makes a benchmark report the processor time of an operation besides its elapsed time,
// as "cpu-ns/op": that of all goroutines from the call of CPU until report, and of the
// garbage collector. report also returns it. Earlier garbage is not collected during this
// time. On Linux.
func CPU(b *testing.B) (report func() time.Duration) {
	b.Helper()
	runtime.GC()
	began := processor(b, unix.CLOCK_PROCESS_CPUTIME_ID)
	return func() time.Duration {
		b.Helper()
		spent := (processor(b, unix.CLOCK_PROCESS_CPUTIME_ID) - began) / time.Duration(b.N)
		b.ReportMetric(float64(spent.Nanoseconds()), "cpu-ns/op")
		return spent
	}
}

func processor(t testing.TB, id int32) time.Duration {
	t.Helper()
	var at unix.Timespec
	Must(t, unix.ClockGettime(id, &at))
	return time.Duration(at.Nano())
}
