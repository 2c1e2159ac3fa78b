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
	began := processor(t, unix.CLOCK_THREAD_CPUTIME_ID)
	work()
	return processor(t, unix.CLOCK_THREAD_CPUTIME_ID) - began
}

// CPU has a benchmark tell the processor time of an operation beside its time on the clock,
// as "cpu-ns/op": that of all goroutines since CPU was called until report is, and of the
// garbage collector; report returns it, too. What was made before is not collected
// meanwhile. On Linux.
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
