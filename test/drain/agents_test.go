// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	bursts     = 25
	everyBurst = 5 * time.Second
	talkFor    = 8 * time.Second
	// answerWithin is how long a caller waits: three attempts to make a process and the queue before them.
	answerWithin = 4 * time.Minute
	agentPods    = 6
	agentNodes   = 3
)

// manyCalls is how many callers a story of agents has; make e2e-agents has 200.
var manyCalls = flag.Int("agents-calls", 50, "how many callers the stories of agents have") //nolint:gochecknoglobals // a flag of the test

// pythonTiming has processes that take 0–40 s, of which the SDK has to be told (initialize_process_timeout is
// 10 s by default). The worker registers when four are warm.
func pythonTiming() map[string]string {
	return map[string]string{
		fleet.DialectAnnotation: string(fleet.Python), fleet.ProcessSecondsAnnotation: "0-40", fleet.InitializeTimeoutAnnotation: "45",
		fleet.ShutdownSecondsAnnotation: "0-3", fleet.MaxJobsAnnotation: "12",
	}
}

// nodeTiming has processes of 0–8 s: Node makes one at a time, and kills it after 10 s. Twelve jobs in line take less than
// the launch limit. For so long a job counts whose end went by while its gate was dead: Node tells nobody.
func nodeTiming() map[string]string {
	return map[string]string{
		fleet.DialectAnnotation: string(fleet.Node), fleet.ProcessSecondsAnnotation: "0-8",
		fleet.ShutdownSecondsAnnotation: "0-3", fleet.MaxJobsAnnotation: "12", fleet.GateArgsAnnotation: "--launch-limit=2m",
	}
}

// TestPythonAgentsAnswerAllCalls has callers come in bursts to unmodified "Python" agents behind gates while they are
// rolled out, drained, and their gates killed. A process for each gate leaves two processors no room for other stories.
func TestPythonAgentsAnswerAllCalls(t *testing.T) {
	answersAll(t, pythonTiming())
}

// TestNodeAgentsAnswerAllCalls is the same with "Node" agents, which tell nobody how their jobs go.
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

// gated has agents of a timing behind gates of a kind.
func gated(timing map[string]string, kind string, probes bool) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		maps.Copy(d.Spec.Template.Annotations, timing)
		lab.Gated(&d.Spec.Template, kind, probes)
		all, none := intstr.FromString("100%"), intstr.FromInt32(0)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &all, MaxUnavailable: &none}
	}
}

// hearGates listens to what the gates of the story's pods say to everybody, until the story is over.
func (s *story) hearGates() {
	ctx, stop := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			for _, a := range s.agents() {
				for _, page := range []string{"/metrics", "/readyz", "/healthz"} {
					if a.Gate != "" {
						_ = stage.HearPage(ctx, a.Gate+page) // it may be gone
					}
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Second):
			}
		}
	})
	s.t.Cleanup(func() { stop(); done.Wait() })
}

// TestRolloutWithAWrongKey gives the agents a Secret whose key LiveKit refuses (case P6). The old ones serve on, and
// people are told which Secret it is, whether or not the pods have readiness probes.
func TestRolloutWithAWrongKey(t *testing.T) {
	t.Parallel()
	for name, probes := range map[string]bool{"Probed": true, "ReadyFromTheirStart": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, 2)
			right, wrong := stage.LiveKits[0], stage.LiveKits[0]
			wrong.APISecret = "planted-" + s.ns + "-that-is-long-enough-for-a-key"
			s.must(stage.Secret(t.Context(), s.ns, "livekit", right))
			s.must(stage.Secret(t.Context(), s.ns, "livekit-next", wrong))
			s.deploy(3, gated(map[string]string{call.SecretAnnotation: "livekit", fleet.MaxJobsAnnotation: "5"}, lab.GateKind, probes))
			s.hearGates()
			s.dial(3)
			old := s.pods(all)

			s.does("patch", "deployment/"+lab.AgentName, "--patch",
				fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{%q:"livekit-next"}}}}}`, call.SecretAnnotation))
			next := func(p *corev1.Pod) bool { return p.Annotations[call.SecretAnnotation] == "livekit-next" }
			s.eventually(inTime, "new pods run", func() (bool, error) {
				return len(s.pods(func(p *corev1.Pod) bool { return next(p) && runs(p) })) > 0, nil
			})
			for range 6 {
				s.always(5*s1, "the old pods take calls", func() (bool, error) {
					return len(s.pods(func(p *corev1.Pod) bool { return !next(p) && ready(p) && !leaving(p) })) == len(old) && s.talking(), nil
				})
				s.dial(1)
			}
			s.there(old...)
			s.eventually(soon, "why names the Secret, of a pod of either revision", func() (bool, error) {
				var said string
				for _, pod := range s.pods(all) {
					out, errOut, _ := calls(t, "why", pod, "-n", s.ns)
					// Where Kubernetes itself stops the rollout nobody wants a pod to go, and the cause is that of the unknown number.
					held := strings.Contains(out, "LiveKit refuses the key of Secret "+s.ns+"/livekit-next")
					if held || probes && strings.Contains(out, s.ns+"/livekit-next") && strings.Contains(out, "401 Unauthorized") {
						return true, nil
					}
					said += out + errOut
				}
				return shown(false, said)
			})

			s.does("rollout", "undo", "deployment/"+lab.AgentName)
			// Their rooms cannot be read with that key, so they may be held until their workers give LiveKit up, after 130 s.
			s.eventually(6*inTime, "the new pods are gone", func() (bool, error) { return shown(len(s.pods(next)) == 0, s.watch.describe()) })
			s.dial(1)
			s.hangUpAll()
			s.noneDropped()
		})
	}
}

// callersIn are the callers of a story, who come in bursts, talk for a while and hang up.
type callersIn struct {
	s    *story
	work sync.WaitGroup
	next sync.Mutex // held while nobody new may call

	mu      sync.Mutex
	waiting map[string]bool // rooms whose caller has no agent yet
	took    []time.Duration // until an agent was there
	errs    []error
	kills   int
}

// begin has n callers come.
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
// is in the gate when this dies is lost, whoever holds which pod.
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
		c.s.t.Log(err) // its pod has just gone
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
