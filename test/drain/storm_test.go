// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/test/fleet"
)

const (
	stormers = 20
	perSec   = 12               // of each
	stormFor = 20 * time.Second // at least

	mostAsked = 10 // evictions that a client waits for at once

	// TestStorm needs 200 evictions a second, from 20 clients, which an idle machine
	// answers. kube-apiserver, LiveKit, the agents and the clients share the test's machine,
	// and a busy one answers fewer. So the storm goes on, and calls come and go, until as
	// many were answered as 200 a second make in stormFor: every pod was asked for 40 times,
	// however long that took. The rate is logged.
	leastEvictions = 200 * int(stormFor/time.Second)
	stormPatience  = 10 * time.Minute
	leastCallers   = 10 // who are answered meanwhile, of one a second
)

// TestStorm evicts every one of a hundred pods again and again, while calls come and go
// and two nodes are cordoned. Only released pods leave.
func TestStorm(t *testing.T) {
	s := tell(t, 10)
	s.deploy(100)
	answers, total := map[int]int{}, 0
	var mu sync.Mutex
	began := time.Now()
	over := func() bool {
		mu.Lock()
		defer mu.Unlock()
		took := time.Since(began)
		return took > stormFor && total >= leastEvictions && s.callers.Report().Answered >= leastCallers || took > stormPatience
	}
	calls := make(chan error, 1)
	go func() {
		for {
			err := s.callers.Play(t.Context(), fleet.Plan{
				Rooms: s.rooms, Rate: 1, For: stormFor + 5*time.Second, Length: 6 * time.Second, Dial: fleet.DialOptions{AgentName: s.ns},
			})
			if err != nil || over() {
				calls <- err
				return
			}
		}
	}()
	s.does("cordon", s.nodes[0], s.nodes[1])

	var storm sync.WaitGroup
	for i := range stormers {
		config, err := stage.Cluster.RESTConfig(fmt.Sprintf("stormer-%d", i), "system:masters")
		s.must(err)
		client, err := kubernetes.NewForConfig(config)
		s.must(err)
		storm.Go(func() {
			asked := make(chan struct{}, mostAsked)
			evict := func(pod string) {
				defer func() { <-asked }()
				err := client.PolicyV1().Evictions(s.ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: pod}})
				code := http.StatusCreated
				if status := apierrors.APIStatus(nil); errors.As(err, &status) {
					code = int(status.Status().Code)
				} else if err != nil {
					code = 0
				}
				mu.Lock()
				answers[code]++
				total++
				mu.Unlock()
			}
			tick := time.NewTicker(time.Second / perSec)
			defer tick.Stop()
			for n := 0; !over(); n++ {
				<-tick.C // even if the last one is still running
				asked <- struct{}{}
				pods := s.pods(all)
				storm.Go(func() { evict(pods[(i+n*stormers)%len(pods)]) })
			}
		})
	}
	storm.Wait()
	took := time.Since(began)
	s.must(<-calls)
	for code, n := range answers {
		switch code {
		case http.StatusCreated, http.StatusTooManyRequests, http.StatusNotFound, http.StatusConflict:
		default:
			t.Errorf("%d evictions were answered %d", n, code)
		}
	}
	t.Logf("%d evictions, %.0f a second, were answered %v; %d calls: %d answered, %d dropped",
		total, float64(total)/took.Seconds(), answers, s.callers.Report().Dialled, s.callers.Report().Answered, len(s.callers.Report().Dropped))
	if total < leastEvictions {
		t.Errorf("only %d evictions were answered within %s; want %d, else this is no storm", total, stormPatience, leastEvictions)
	}
	if n := s.callers.Report().Answered; n < leastCallers {
		t.Errorf("only %d calls were answered meanwhile; want at least %d, else there is nothing to drop", n, leastCallers)
	}
	if answers[http.StatusTooManyRequests] < total/2 {
		t.Error("most evictions should be refused with 429")
	}
	s.bounds(200, 100)
	s.noneDropped()
}
