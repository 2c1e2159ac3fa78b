// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"log/slog"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
)

// idleWorker is a worker without a connection.
func idleWorker(maxJobs int) *worker {
	return (&worker{maxJobs: maxJobs, dialect: Node, log: slog.New(slog.DiscardHandler)}).init()
}

func offer(id string) *livekit.AvailabilityRequest {
	return &livekit.AvailabilityRequest{Job: &livekit.Job{Id: id}}
}

func isDrained(w *worker) bool {
	select {
	case <-w.drained:
		return true
	default:
		return false
	}
}

// place adds a job as an assignment would.
func place(w *worker, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if timer := w.reserved[id]; timer != nil {
		timer.Stop()
	}
	delete(w.reserved, id)
	w.jobs[id] = &job{id: id, room: "room-" + id}
	w.changedLocked()
}

// finish removes a job as its end would.
func finish(w *worker, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.jobs, id)
	w.changedLocked()
}

func TestWorkerTakesNoMoreThanItCan(t *testing.T) {
	w := idleWorker(2)
	for i, want := range []bool{true, true, false} {
		id := string(rune('a' + i))
		if got := w.answer(offer(id), 0).GetAvailability(); got.GetAvailable() != want || got.GetJobId() != id {
			t.Errorf("answer to offer %d = %v; want available %v", i, got, want)
		}
	}
	status := w.status().GetUpdateWorker()
	if status.GetStatus() != livekit.WorkerStatus_WS_FULL || status.GetLoad() != 1 {
		t.Errorf("status with two accepted offers of two = %v; want FULL at load 1", status)
	}
	w.release("b")
	if status := w.status().GetUpdateWorker(); status.GetStatus() != livekit.WorkerStatus_WS_AVAILABLE || status.GetLoad() != 0.5 {
		t.Errorf("status after one was never assigned = %v; want AVAILABLE at load 0.5", status)
	}
}

func TestDrainOrder(t *testing.T) {
	w := idleWorker(10)
	w.answer(offer("running"), 0)
	place(w, "running")
	w.answer(offer("accepted"), 0) // its assignment is on the way

	w.drain()
	if w.answer(offer("late"), 0).GetAvailability().GetAvailable() {
		t.Error("a draining worker took an offer")
	}
	status := w.status().GetUpdateWorker()
	if status.GetStatus() != livekit.WorkerStatus_WS_FULL {
		t.Errorf("status of a draining worker = %v; want FULL", status)
	}
	finish(w, "running")
	if isDrained(w) {
		t.Error("the worker exits although an accepted offer may still be assigned")
	}
	place(w, "accepted")
	if isDrained(w) || len(w.state().rooms) != 1 {
		t.Error("the worker exits under a job that was assigned during the drain")
	}
	finish(w, "accepted")
	if !isDrained(w) {
		t.Error("the worker does not exit when its last job is over")
	}
}

func TestIdleWorkerDrainsAtOnce(t *testing.T) {
	w := idleWorker(1)
	w.drain()
	if !isDrained(w) {
		t.Error("an idle worker does not exit")
	}
	w.drain() // a second call has no effect
}

func TestKillGivesRunningJobsOnly(t *testing.T) {
	w := idleWorker(5)
	place(w, "on")
	place(w, "over")
	w.jobs["over"].over = true
	on := w.kill()
	if len(on) != 1 || on[0].id != "on" {
		t.Errorf("kill = %v; want the job that was going on", on)
	}
	if again := w.kill(); len(again) != 0 {
		t.Errorf("a second kill = %v; want nothing", again)
	}
}

func TestReservationLapses(t *testing.T) {
	w := idleWorker(1)
	w.answer(offer("a"), 0)
	w.mu.Lock()
	w.reserved["a"].Reset(0)
	w.mu.Unlock()
	w.drain()
	select {
	case <-w.drained:
	case <-time.After(5 * time.Second):
		t.Error("an offer that is never assigned keeps the worker")
	}
}

func TestClosedWorkerWorksOn(t *testing.T) {
	w := idleWorker(10)
	w.dialect = Python // Python reports the number of its jobs
	w.answer(offer("running"), 0)
	place(w, "running")
	w.closeIntake()
	if w.answer(offer("late"), 0).GetAvailability().GetAvailable() {
		t.Error("a closed worker took an offer")
	}
	if status := w.status().GetUpdateWorker(); status.GetStatus() != livekit.WorkerStatus_WS_FULL || status.GetJobCount() != 1 || status.GetLoad() != 1 {
		t.Errorf("status of a closed worker = %v; want FULL at load 1 with its job", status)
	}
	finish(w, "running")
	if isDrained(w) {
		t.Error("a closed worker exits; only SIGTERM ends it")
	}
}
