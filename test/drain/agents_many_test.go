// SPDX-License-Identifier: Apache-2.0

// These stories load two processors as hundreds of callers do, so they run one at a time, by make e2e-agents.

//go:build agents

package drain

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	bursts     = 25
	everyBurst = 5 * time.Second
	talkFor    = 8 * time.Second
	// answerWithin is how long a caller waits: three attempts to start a process, and the queue before them.
	answerWithin = 4 * time.Minute
	agentPods    = 6
	agentNodes   = 3
)

// manyCalls is how many callers a story of agents has; make e2e-agents has 200.
var manyCalls = flag.Int("agents-calls", 50, "how many callers the stories of agents have") //nolint:gochecknoglobals // a flag of the test

// pythonTiming has processes that take 0–40 s to start. The SDK has to know that (initialize_process_timeout is 10 s by
// default). The worker registers when four are warm.
func pythonTiming() map[string]string {
	return map[string]string{
		fleet.DialectAnnotation: string(fleet.Python), fleet.ProcessSecondsAnnotation: "0-40", fleet.InitializeTimeoutAnnotation: "45",
		fleet.ShutdownSecondsAnnotation: "0-3", fleet.MaxJobsAnnotation: "12",
	}
}

// nodeTiming has processes of 0–8 s: Node makes one at a time, and kills it after 10 s. Twelve jobs in line take less than
// the launch limit. A job that ended while its gate was dead counts for that long, because Node does not report its end.
func nodeTiming() map[string]string {
	return map[string]string{
		fleet.DialectAnnotation: string(fleet.Node), fleet.ProcessSecondsAnnotation: "0-8",
		fleet.ShutdownSecondsAnnotation: "0-3", fleet.MaxJobsAnnotation: "12", fleet.GateArgsAnnotation: "--launch-limit=2m",
	}
}

// TestPythonAgentsAnswerAllCalls sends bursts of callers to unmodified "Python" agents behind gates while the agents are
// rolled out and drained, and their gates killed. A process for each gate leaves two processors no room for other stories.
func TestPythonAgentsAnswerAllCalls(t *testing.T) {
	answersAll(t, pythonTiming())
}

// TestNodeAgentsAnswerAllCalls is the same with "Node" agents, which do not report how their jobs go.
func TestNodeAgentsAnswerAllCalls(t *testing.T) {
	answersAll(t, nodeTiming())
}

func answersAll(t *testing.T, timing map[string]string) {
	s := tell(t, agentNodes)
	s.deploy(agentPods, gated(timing, lab.GateKind, true))
	s.hearGates()
	c := &callersIn{s: s, waiting: map[string]bool{}}
	c.begin(*manyCalls)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var drain *command
	steps := []func(){
		func() { s.rollOut("deployment", newImage) },
		func() { c.killGate(random) },
		func() {
			s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=4m"), 5*time.Minute)
			drain = s.drain(s.nodes[0])
		},
		func() { c.killGate(random) },
		func() { c.killGate(random) },
		func() { s.rollOut("deployment", oldImage) },
		func() { c.killGate(random) },
		func() {
			s.ends(drain, 5*time.Minute)
			s.does("uncordon", s.nodes[0])
		},
	}
	for _, step := range steps {
		pause := time.NewTimer(2*time.Second + time.Duration(random.Int64N(int64(6*time.Second))))
		<-pause.C
		step()
	}
	c.wait()

	r := s.callers.Report()
	t.Logf("%d calls: %d answered, the last after %.1f s, half within %.1f s; %d unanswered, %d dropped; %d gates killed",
		r.Dialled, r.Answered, c.slowest().Seconds(), c.median().Seconds(), r.Unanswered, len(r.Dropped), c.kills)
	if r.Dialled != *manyCalls || r.Answered != *manyCalls {
		t.Errorf("%d of %d calls were answered; want all %d: %v", r.Answered, r.Dialled, *manyCalls, c.errs)
	}
	s.noneDropped()
	s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=4m"), 5*time.Minute)
	s.eventually(6*time.Minute, "only pods that serve are left", func() (bool, error) {
		return shown(len(s.pods(all)) == agentPods && len(s.pods(in(call.Serving))) == agentPods, s.watch.describe())
	})
}

// callersIn are the callers of a story, who come in bursts, talk for a while and hang up.
type callersIn struct {
	s    *story
	work sync.WaitGroup
	next sync.Mutex // held while no new caller may call

	mu      sync.Mutex
	waiting map[string]bool // rooms whose caller has no agent yet
	took    []time.Duration // until an agent was there
	errs    []error
	kills   int
}

// begin starts n callers.
func (c *callersIn) begin(n int) {
	c.work.Go(func() {
		for i := range n {
			if i%max(1, n/bursts) == 0 && i > 0 {
				pause := time.NewTimer(everyBurst)
				select {
				case <-pause.C:
				case <-c.s.t.Context().Done():
					pause.Stop()
					return
				}
			}
			c.next.Lock()
			room := fmt.Sprintf("%s-%d", c.s.rooms, i)
			c.mu.Lock()
			c.waiting[room] = true
			c.mu.Unlock()
			c.next.Unlock()
			c.work.Go(func() { c.call(room) })
		}
	})
}

func (c *callersIn) call(room string) {
	began := time.Now()
	call, err := c.s.callers.Dial(c.s.t.Context(), room, fleet.DialOptions{AgentName: c.s.ns, AnswerWithin: answerWithin})
	c.mu.Lock()
	delete(c.waiting, room)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("called at %s: %w", began.Format("15:04:05"), err))
	} else {
		c.took = append(c.took, time.Since(began))
	}
	c.mu.Unlock()
	if err != nil {
		return
	}
	over := time.NewTimer(talkFor)
	defer over.Stop()
	select {
	case <-over.C:
	case <-call.Done():
	}
	call.HangUp()
}

// wait waits until the last caller has hung up.
func (c *callersIn) wait() { c.work.Wait() }

// killGate kills the gate of some pod that has a job. No assignment is on its way then: LiveKit sends it once, and one that
// is in the gate when the gate dies is lost, whatever callguard does.
func (c *callersIn) killGate(random *rand.Rand) {
	c.s.t.Helper()
	c.next.Lock()
	defer c.next.Unlock()
	c.s.eventually(answerWithin, "every caller's job is with an agent", func() (bool, error) {
		with := map[string]bool{}
		for _, a := range c.s.agents() {
			for _, room := range append(slices.Clone(a.Rooms), a.Waiting...) {
				with[room] = true
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for room := range c.waiting {
			if !with[room] {
				return false, fmt.Errorf("the job of room %s is not", room)
			}
		}
		return true, nil
	})
	busy := slices.DeleteFunc(c.s.agents(), func(a fleet.AgentState) bool { return a.ActiveJobs+len(a.Waiting) == 0 })
	if len(busy) == 0 {
		return
	}
	a := busy[random.IntN(len(busy))]
	if err := stage.Fleet.KillGate(types.NamespacedName{Namespace: a.Pod.Namespace, Name: a.Pod.Name}); err != nil {
		c.s.t.Log(err) // its pod has just been deleted
		return
	}
	c.s.t.Logf("the gate of %s was killed under %d jobs, %d of which waited for a process", a.Pod.Name, a.ActiveJobs+len(a.Waiting), len(a.Waiting))
	c.kills++
}

func (c *callersIn) slowest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.took) == 0 {
		return 0
	}
	return slices.Max(c.took)
}

func (c *callersIn) median() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.took) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(c.took))[len(c.took)/2]
}
