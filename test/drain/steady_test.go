// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	crowd       = 480             // guarded pods without a process
	players     = 20              // and those with one, which hold some calls with media
	steadyFor   = time.Minute     // at least
	seatsPerSec = 55              // calls offered; each is an agent in a room for a second, without media
	mostSeats   = 4 * seatsPerSec // in progress or about to begin, if LiveKit is slow
	mostWrites  = 5               // for each leaving pod

	// TestSteady needs 50 calls a second, and an idle machine makes a little more: calls
	// begin when they are due, however long it takes to begin one. A busy machine makes
	// fewer, so the test continues until this many have begun and ended, half of an idle
	// machine's minute: it does not depend on the time that the guard writes nothing. The
	// rate is logged.
	leastCalls     = 1500
	steadyPatience = 10 * time.Minute
)

// TestSteady has five hundred guarded pods and calls that begin and end. No pod should
// leave, so the guard writes nothing; then four leave.
func TestSteady(t *testing.T) {
	s := tell(t, 10)
	silent := lab.Agent(s.ns, crowd)
	silent.Name = "crowd"
	silent.Spec.Template = s.template()
	silent.Spec.Selector.MatchLabels = map[string]string{"app": silent.Name}
	silent.Spec.Template.Labels = map[string]string{"app": silent.Name, call.GuardedLabel: "true", fleet.UnplayedLabel: "true"}
	silent.Spec.Template.Annotations[call.WitnessesAnnotation] = "rooms"
	silent.Spec.Template.Spec.TopologySpreadConstraints = nil
	playing := lab.Agent(s.ns, players)
	playing.Spec.Template = s.template()
	playing.Spec.Template.Annotations[fleet.MaxJobsAnnotation] = "50"
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), silent, metav1.CreateOptions{})
	s.must(err)
	_, err = stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), playing, metav1.CreateOptions{})
	s.must(err)
	s.eventually(10*time.Minute, "500 pods can take calls", func() (bool, error) {
		return s.watch.able() == crowd+players && s.registered() == players, nil
	})

	s.first(4) // they talk all the time
	began := time.Now()
	var plans sync.WaitGroup
	var seats, refused atomic.Int64
	pods, err := s.watch.lister.List(labels.SelectorFromSet(silent.Spec.Selector.MatchLabels))
	s.must(err)
	slots := make(chan struct{}, mostSeats)
	over := func() bool {
		took := time.Since(began)
		return took > steadyFor && seats.Load() >= leastCalls || took > steadyPatience
	}
	for n := 0; !over(); n++ {
		<-time.After(time.Until(began.Add(time.Duration(n) * time.Second / seatsPerSec)))
		slots <- struct{}{}
		pod := string(pods[n%len(pods)].UID)
		plans.Go(func() {
			defer func() { <-slots }()
			room := fmt.Sprintf("%s-seat-%d", s.rooms, n)
			leave, err := lab.Sit(t.Context(), stage.LiveKits[0], lab.Participant{
				Room: room, Identity: "agent-" + room, Kind: lksdk.ParticipantAgent, Attributes: map[string]string{call.PodAttribute: pod},
			})
			if err != nil {
				refused.Add(1) // the machine is too slow for the rate
				return
			}
			<-time.After(time.Second)
			leave()
			seats.Add(1)
		})
	}
	plans.Wait()
	took := time.Since(began)
	t.Logf("%d calls, %.1f a second, began and ended in %.0f s (%d could not begin)", seats.Load(), float64(seats.Load())/took.Seconds(), took.Seconds(), refused.Load())
	if seats.Load() < leastCalls {
		t.Errorf("only %d calls began and ended within %s (%d could not begin); want %d, else this shows nothing", seats.Load(), steadyPatience, refused.Load(), leastCalls)
	}
	for resource, n := range s.writes(began) {
		t.Errorf("the guard wrote %s %d times while no pod had to leave", resource, n)
	}

	began = time.Now()
	const leavers = 4
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=16")
	s.hangUpAll()
	s.eventually(inTime, "four pods are gone", func() (bool, error) { return len(s.pods(all)) == crowd+players-leavers, nil })
	writes := s.writes(began)
	t.Logf("%d pods went; the guard wrote %v", leavers, writes)
	total := 0
	for resource, n := range writes {
		if resource != "events" {
			total += n
		}
	}
	if total > leavers*mostWrites {
		t.Errorf("a leaving pod cost %.1f writes; want at most %d", float64(total)/leavers, mostWrites)
	}
	s.noneDropped()
}

// writes counts the guard's writes since a time, by resource, except its lease, as
// kube-apiserver recorded them. Refused requests write nothing: the guard tries the
// delete policy every 15 s, in a dry run.
func (s *story) writes(since time.Time) map[string]int {
	s.t.Helper()
	list, err := stage.GuardWrites(since)
	s.must(err)
	list = slices.DeleteFunc(list, func(w lab.Request) bool { return w.Resource == "leases" || w.Code >= http.StatusBadRequest })
	counts := map[string]int{}
	for _, w := range list {
		counts[w.Resource]++
	}
	return counts
}
