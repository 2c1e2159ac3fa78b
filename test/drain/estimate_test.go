// SPDX-License-Identifier: Apache-2.0

// Two hundred calls at once need the whole machine: make e2e-estimate.

//go:build agents

package drain

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	longestCall = 110 * time.Second
	// estimateOff is how far off the median may be in the second half of a drain, as a part of it.
	estimateOff = 0.25
	// leastLooks is how often the median has to be read in the second half; fewer would show nothing.
	leastLooks = 5
)

// TestEstimate drains a node of ten pods with two hundred calls of known, mixed lengths: 50 s on average and 110 s at most.
// Callers call again and again until the drain begins. The estimate is read as an operator does, by kubectl calls plan. In the
// second half the median has to be right to a quarter of the drain's length, and the node's estimate is never less than that
// of one of its pods.
func TestEstimate(t *testing.T) {
	const pods, callers = 10, 200
	describeGuard(t)
	_, err := stage.Plugin(t.Context()) // built here, so that the drain does not include it
	if err != nil {
		t.Fatal(err)
	}
	s := tell(t, 2)
	node, other := s.nodes[0], s.nodes[1]
	s.does("cordon", other)
	d := lab.Agent(s.ns, pods)
	d.Spec.Template = s.template()
	d.Spec.Template.Labels[fleet.UnplayedLabel] = "true"
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(shortGrace)) // they have no process that would end sooner
	d.Spec.Template.Annotations = map[string]string{call.WitnessesAnnotation: string(call.Rooms)}
	_, err = stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), d, metav1.CreateOptions{})
	s.must(err)
	s.eventually(setUp, "all pods can take calls", func() (bool, error) { return s.so(s.watch.able() == pods) })
	s.does("uncordon", other)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := s.callAgain(callers, seed)
	s.eventually(setUp, "calls of each length have ended, and it is known when all will have", func() (bool, error) {
		if since := time.Since(c.began); since < longestCall {
			return false, fmt.Errorf("callers have called for %s", since)
		}
		_, err := s.ofNode(node, "seconds_until_idle")
		return err == nil, err
	})
	known := time.Now()
	c.last(func() {
		s.eventually(soon, "all calls are counted", func() (bool, error) {
			n, err := s.ofNode(node, "active_calls")
			if err == nil && n != callers {
				err = fmt.Errorf("%d of %d are", n, callers)
			}
			return err == nil, err
		})
	})

	began := time.Now()
	t.Logf("callers called for %.0f s before, and %d times in vain; the last of them was waited for for %.1f s",
		began.Sub(c.began).Seconds(), c.vain(), began.Sub(known).Seconds())
	drain := s.startCalls("drain", node)
	looks := s.look(node, c)
	over := c.wait()
	took := over.Sub(began)
	n, sum, worst := 0, 0.0, 0.0
	for _, look := range looks {
		after := look.at.Sub(began)
		off := look.at.Add(look.median).Sub(over).Abs().Seconds() / took.Seconds()
		t.Logf("%2.0f s after its beginning: in %2.0f s, nine of ten times in %2.0f s; the last call ended in %2.0f s; off by %2.0f %% of the drain",
			after.Seconds(), look.median.Seconds(), look.p90.Seconds(), over.Sub(look.at).Seconds(), 100*off)
		if look.longest > look.median+2*time.Second { // the pods are read after the node
			t.Errorf("the node's calls are estimated to end in %s, and those of one of its pods in %s", look.median, look.longest)
		}
		if after >= took/2 {
			n, sum, worst = n+1, sum+off, max(worst, off)
		}
	}
	if n < leastLooks {
		t.Fatalf("it was read %d times from half-way on; want %d, else this shows nothing", n, leastLooks)
	}
	t.Logf("a drain of %d calls took %.0f s; from half-way on the median was off by %.0f %% of that on average, by %.0f %% at worst, in %d looks",
		callers, took.Seconds(), 100*sum/float64(n), 100*worst, n)
	if worst > estimateOff {
		t.Errorf("from half-way on the median is off by up to %.0f %% of the drain; want at most %.0f %%", 100*worst, 100*estimateOff)
	}
	s.ends(drain.command, inTime)
	t.Logf("kubectl calls drain:\n%s", drain.out)
	says(t, "the drain", drain.out, `The calls held now are over by .* in half of such cases`, `node/`+node+` drained: `)
}

// look is the estimate at a time: when all calls of a node will be over, and those of its last pod.
type look struct {
	at                   time.Time
	median, p90, longest time.Duration
}

// look reads again and again when the calls of a node will be over, until they are.
func (s *story) look(node string, c *callersAgain) (looks []look) {
	s.t.Helper()
	again := time.NewTicker(2 * time.Second)
	defer again.Stop()
	for c.up("") > 0 {
		out, errOut, _ := calls(s.t, "plan", node, "-o", "json")
		var plan struct {
			CallsOver struct {
				MedianSeconds, P90Seconds *int64
				Unknown                   string
			}
		}
		s.must(json.Unmarshal([]byte(out), &plan))
		at, is := time.Now(), plan.CallsOver
		if is.MedianSeconds == nil || is.P90Seconds == nil {
			s.t.Fatalf("during the drain its end is unknown: %s\n%s", is.Unknown, errOut)
		}
		whole, err := s.ofNode(node, "seconds_until_idle")
		s.must(err)
		pods, err := s.ofPods("seconds_until_idle")
		s.must(err)
		l := look{at: at, median: time.Duration(*is.MedianSeconds) * time.Second, p90: time.Duration(*is.P90Seconds) * time.Second}
		if more := slices.Max(append(pods, 0)) - whole; more > 0 {
			l.longest = l.median + time.Duration(more)*time.Second
		}
		looks = append(looks, l)
		select {
		case <-again.C:
		case <-s.t.Context().Done():
			s.must(s.t.Context().Err())
		}
	}
	return looks
}

// ofNode and ofPods ask the metrics API.
func (s *story) ofNode(node, metric string) (int64, error) {
	values, err := s.metrics("nodes/" + node + "/" + metric)
	if err == nil && len(values) != 1 {
		err = fmt.Errorf("there are %d answers", len(values))
	}
	if err != nil {
		return 0, err
	}
	return values[0], nil
}

func (s *story) ofPods(metric string) ([]int64, error) {
	return s.metrics("namespaces/" + s.ns + "/pods/*/" + metric)
}

func (s *story) metrics(path string) (values []int64, err error) {
	text, err := stage.Kubectl(s.t.Context(), "get", "--raw", "/apis/"+v1beta2.SchemeGroupVersion.String()+"/"+path)
	if err != nil {
		return nil, err
	}
	var list v1beta2.MetricValueList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	for _, item := range list.Items {
		values = append(values, item.Value.Value())
	}
	return values, nil
}

// callersAgain are callers who call again as soon as a call is over. Their agents are in the rooms as if the pods had put them
// there.
type callersAgain struct {
	began time.Time
	work  sync.WaitGroup
	next  sync.RWMutex // read-locked while one calls again, write-locked while nobody may

	mu    sync.Mutex
	done  bool // nobody calls again
	calls map[types.UID]int
	over  time.Time // when the latest call ended
	// failed is how many calls could not begin.
	failed int
}

// callAgain starts n callers of the story's pods, the same number for each.
func (s *story) callAgain(n int, seed uint64) *callersAgain {
	s.t.Helper()
	pods, err := s.watch.lister.List(labels.Everything())
	s.must(err)
	c := &callersAgain{began: time.Now(), calls: map[types.UID]int{}}
	s.watch.whenSeen(func(pod *corev1.Pod) {
		if n := c.up(pod.UID); n > 0 && (stateOf(pod) == call.Released || pod.DeletionTimestamp != nil) {
			s.t.Errorf("pod %s was released with %d calls", pod.Name, n)
		}
	})
	for i := range n {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		c.work.Go(func() { c.line(s, pods[i%len(pods)].UID, fmt.Sprintf("%s-%d", s.rooms, i), random) })
	}
	s.t.Cleanup(func() { // also after a failure
		c.mu.Lock()
		c.done = true
		c.mu.Unlock()
		c.wait()
	})
	return c
}

// line is one caller, who also calls again if a call could not begin.
func (c *callersAgain) line(s *story, pod types.UID, room string, random *rand.Rand) {
	c.next.RLock()
	defer c.next.RUnlock()
	for i := 0; s.t.Context().Err() == nil; i++ {
		dialling <- struct{}{}
		leave, err := lab.Join(s.t.Context(), stage.LiveKits[0], lab.Participant{
			Room: fmt.Sprintf("%s-%d", room, i), Identity: "agent", Kind: lksdk.ParticipantAgent, Attributes: map[string]string{call.PodAttribute: string(pod)},
		})
		<-dialling
		if err != nil {
			c.mu.Lock()
			c.failed++
			c.mu.Unlock()
			continue
		}
		c.count(pod, 1)
		c.next.RUnlock()
		over := time.NewTimer(mixedLength(random))
		select {
		case <-over.C:
		case <-s.t.Context().Done():
			over.Stop()
		}
		c.next.RLock()
		leave()
		if c.count(pod, -1) {
			return
		}
	}
}

// mixedLength draws the length of a call: half are short, and every fifth is long.
func mixedLength(random *rand.Rand) time.Duration {
	between := func(a, b float64) time.Duration {
		return time.Duration((a + (b-a)*random.Float64()) * float64(time.Second))
	}
	switch n := random.Float64(); {
	case n < 0.5:
		return between(20, 40)
	case n < 0.8:
		return between(40, 65)
	default:
		return between(75, longestCall.Seconds())
	}
}

// count counts the beginning or end of a pod's call, and reports whether nobody calls again.
func (c *callersAgain) count(pod types.UID, by int) (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[pod] += by
	if by < 0 {
		c.over = time.Now()
	}
	return c.done
}

// up returns how many calls a pod has, or all pods if it names none.
func (c *callersAgain) up(pod types.UID) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, calls := range c.calls {
		if pod == "" || pod == uid {
			n += calls
		}
	}
	return n
}

// last makes the current calls the last ones. No call begins or ends while is is called.
func (c *callersAgain) last(is func()) {
	c.next.Lock()
	defer c.next.Unlock()
	is()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
}

// wait waits until all calls are over, and returns when the last one ended.
func (c *callersAgain) wait() time.Time {
	c.work.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// vain returns how often a call could not begin, as on a busy machine.
func (c *callersAgain) vain() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}
