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
	perSec   = 12 // of each
	stormFor = 20 * time.Second
)

// TestStorm evicts every pod of a hundred again and again, while calls come and go
// and two nodes are cordoned. Only pods that were released go.
func TestStorm(t *testing.T) {
	s := tell(t, 10)
	s.deploy(100)
	plan := make(chan error, 1)
	go func() {
		plan <- s.callers.Play(t.Context(), fleet.Plan{
			Rooms: s.ns, Rate: 1, For: stormFor + 5*time.Second, Length: 6 * time.Second, Dial: fleet.DialOptions{AgentName: s.ns},
		})
	}()
	s.does("cordon", s.nodes[0], s.nodes[1])

	answers := map[int]int{}
	var mu sync.Mutex
	var storm sync.WaitGroup
	began := time.Now()
	for i := range stormers {
		config, err := stage.Cluster.RESTConfig(fmt.Sprintf("stormer-%d", i), "system:masters")
		s.must(err)
		client, err := kubernetes.NewForConfig(config)
		s.must(err)
		storm.Go(func() {
			tick := time.NewTicker(time.Second / perSec)
			defer tick.Stop()
			for n := range int(stormFor.Seconds() * perSec) {
				<-tick.C
				pods := s.pods(all)
				pod := pods[(i+n*stormers)%len(pods)]
				err := client.PolicyV1().Evictions(s.ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: pod}})
				code := http.StatusCreated
				if status := apierrors.APIStatus(nil); errors.As(err, &status) {
					code = int(status.Status().Code)
				} else if err != nil {
					code = 0
				}
				mu.Lock()
				answers[code]++
				mu.Unlock()
			}
		})
	}
	storm.Wait()
	took := time.Since(began)
	s.must(<-plan)
	total := 0
	for code, n := range answers {
		total += n
		switch code {
		case http.StatusCreated, http.StatusTooManyRequests, http.StatusNotFound, http.StatusConflict:
		default:
			t.Errorf("%d evictions were answered %d", n, code)
		}
	}
	t.Logf("%d evictions, %.0f a second, were answered %v; %d calls: %d answered, %d dropped",
		total, float64(total)/took.Seconds(), answers, s.callers.Report().Dialled, s.callers.Report().Answered, len(s.callers.Report().Dropped))
	if answers[http.StatusTooManyRequests] < total/2 {
		t.Error("most evictions should be refused with 429")
	}
	s.bounds(200, 100)
	s.noneDropped()
}
