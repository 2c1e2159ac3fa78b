// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// idleProcesses is how many processes a worker keeps warm, and pythonInits how many of them Python initialises at a time:
	// both SDKs use min(CPUs, 4) (Python's ServerOptions.num_idle_processes and proc_pool.MAX_CONCURRENT_INITIALIZATIONS,
	// Node's Default.numIdleProcesses). The pods of the fleet have four CPUs.
	idleProcesses = 4
	pythonInits   = 4
	// initializeTimeout is how long a process may take: initialize_process_timeout of Python's ServerOptions,
	// initializeProcessTimeout of Node's.
	initializeTimeout = 10 * time.Second
	// idleMargin is how much longer Python waits for its idle processes before it registers without them (ProcPool.start).
	idleMargin = 2 * time.Second
	// acquireAttempts and launchAttempts are those of Python's ProcPool._acquire_proc and launch_job.
	acquireAttempts = 3
	launchAttempts  = 3
	// poolPace is the interval at which Python checks whether processes are missing (ProcPool._main_task).
	poolPace = 100 * time.Millisecond
)

// errNoProcess means that the SDK gave up on a job.
var errNoProcess = errors.New("no process became available for the job")

// pool gives jobs the processes they run in, each for one job. Both SDKs accept an offer, get the assignment, and only then
// wait for a process: until they have one, the job is neither in GET /worker nor in its room.
type pool interface {
	// run keeps processes warm until ctx ends.
	run(ctx context.Context)
	// warm is closed when the worker may register.
	warm() <-chan struct{}
	// acquire waits for a process and launches a job in it.
	acquire(ctx context.Context) error
}

// poolSettings are the annotations of a pod about its processes.
type poolSettings struct {
	takes   span          // to initialise
	timeout time.Duration // after which the SDK kills a process that has not initialised
	idle    int           // processes to keep warm
	// failure is the chance that a launch fails because its process died while it was warm.
	failure float64
	dice    *dice
}

func newPool(d Dialect, s poolSettings, target func() int) pool {
	if d == Node {
		return newNodePool(s)
	}
	return &pythonPool{
		poolSettings: s, target: target, inits: make(chan struct{}, pythonInits), ready: make(chan struct{}), changed: make(chan struct{}),
	}
}

// initialise waits as long as a process takes, and reports whether it started before the SDK killed it.
func (s poolSettings) initialise(ctx context.Context) bool {
	takes := s.dice.draw(s.takes)
	return wait(ctx, min(takes, s.timeout)) && takes <= s.timeout
}

// wait reports whether a time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// pythonPool is Python's ipc.proc_pool.ProcPool.
type pythonPool struct {
	poolSettings

	// target is how many idle processes the load leaves room for (set_target_idle_processes).
	target func() int
	inits  chan struct{}
	ready  chan struct{}
	once   sync.Once
	work   sync.WaitGroup

	mu       sync.Mutex
	life     context.Context // nil before and after run
	warmed   int
	spawning int
	waiting  int           // jobs that wait for a process
	changed  chan struct{} // closed and replaced whenever a spawn ends
}

func (p *pythonPool) warm() <-chan struct{} { return p.ready }

func (p *pythonPool) isReady() { p.once.Do(func() { close(p.ready) }) }

// run is ProcPool.start and _main_task.
func (p *pythonPool) run(ctx context.Context) {
	p.mu.Lock()
	p.life = ctx
	p.mu.Unlock()
	if p.idle <= 0 {
		p.isReady()
	}
	late := time.AfterFunc(p.timeout+idleMargin, p.isReady) // "timed out waiting for idle processes to initialize"
	defer late.Stop()
	tick := time.NewTicker(poolPace)
	defer tick.Stop()
	for ctx.Err() == nil {
		p.mu.Lock()
		for missing := max(min(p.target(), p.idle), p.waiting) - p.warmed - p.spawning; missing > 0; missing-- {
			p.spawnLocked() //nolint:contextcheck // a process lives with its worker, not with the job that asks for it
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	p.work.Wait()
}

// spawnLocked is _proc_spawn_task. A process that waits for its turn to initialise counts as spawning.
func (p *pythonPool) spawnLocked() {
	if p.life == nil || p.life.Err() != nil {
		return
	}
	ctx := p.life
	p.spawning++
	p.work.Go(func() {
		came := false
		select {
		case <-ctx.Done():
		case p.inits <- struct{}{}:
			came = p.initialise(ctx)
			<-p.inits
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.spawning--
		if came {
			p.warmed++
			if p.warmed >= p.idle {
				p.isReady()
			}
		}
		close(p.changed)
		p.changed = make(chan struct{})
	})
}

// acquire is launch_job: a failed launch is retried with another process; if no process can be had, the job is given up.
func (p *pythonPool) acquire(ctx context.Context) error {
	for range launchAttempts {
		if err := p.process(ctx); err != nil {
			return err
		}
		if !p.dice.happens(p.failure) {
			return nil
		}
	}
	return fmt.Errorf("%w: failed to launch it after %d attempts", errNoProcess, launchAttempts)
}

// process is _acquire_proc: it takes a warm process, or waits for those that are starting; if all of these failed, it tries
// again.
func (p *pythonPool) process(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	defer func() { p.waiting-- }()
	for range acquireAttempts {
		if p.warmed == 0 && p.spawning < p.waiting {
			p.spawnLocked() //nolint:contextcheck // a process lives with its worker, not with the job that asks for it
		}
		for p.warmed > 0 || p.spawning > 0 {
			if p.warmed > 0 {
				p.warmed--
				return nil
			}
			changed := p.changed
			p.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			p.mu.Lock()
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return fmt.Errorf("%w after %d attempts", errNoProcess, acquireAttempts)
}

// nodePool is Node's ipc/proc_pool.ts: a MultiMutex of as many slots as there are idle processes, and one process at a time
// that initialises (initMutex). A job waits for a process without a time limit.
type nodePool struct {
	poolSettings

	slots  chan struct{} // taken from before a process starts until its job is launched
	init   chan struct{}
	warmed chan struct{}
	ready  chan struct{}
	work   sync.WaitGroup
}

func newNodePool(s poolSettings) *nodePool {
	s.idle = max(s.idle, 1) // none means the default in production, which is at least one
	p := &nodePool{
		poolSettings: s, slots: make(chan struct{}, s.idle), init: make(chan struct{}, 1), warmed: make(chan struct{}, s.idle),
		ready: make(chan struct{}),
	}
	close(p.ready) // a Node worker registers without waiting for its processes
	return p
}

func (p *nodePool) warm() <-chan struct{} { return p.ready }

// run is ProcPool.run and procWatchTask.
func (p *nodePool) run(ctx context.Context) {
	defer p.work.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case p.slots <- struct{}{}:
		}
		p.work.Go(func() {
			select {
			case <-ctx.Done():
				return
			case p.init <- struct{}{}:
			}
			came := p.initialise(ctx)
			<-p.init
			if came {
				p.warmed <- struct{}{} // never more than there are slots
			} else {
				<-p.slots
			}
		})
	}
}

// acquire is launchJob. A failed launch loses its job: Node logs that, and tries no other process.
func (p *nodePool) acquire(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.warmed:
		<-p.slots
	}
	if p.dice.happens(p.failure) {
		return fmt.Errorf("%w: error launching job", errNoProcess)
	}
	return nil
}
