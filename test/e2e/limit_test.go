// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/weburl"
	"github.com/callguard/callguard/test/trial"
)

const (
	limitPerMinute = 60
	adapterShare   = 60 // per cent of LiveKit's limit that all adapters together use
	limitedRooms   = 12
	// limitedFor is longer than a minute and a sweep: a budget that is used up too early shows as a gap.
	limitedFor = 100 * time.Second
	retryAfter = 20 * time.Second
	// onTheirWay is how long requests may still arrive that were sent before the refusal was received.
	onTheirWay = 8 * time.Second
)

// limiter is a proxy in front of a LiveKit that refuses requests above a number in any minute, as LiveKit Cloud does.
type limiter struct {
	url string

	mu      sync.Mutex
	most    int
	asked   []time.Time // all requests, including refused ones
	refused int
	early   int       // requests before the time in a refusal
	until   time.Time // the end of that time
}

func limit(t *testing.T, lk local.LiveKit, most int) *limiter {
	t.Helper()
	there, err := weburl.Parse(lk.URL, "http://127.0.0.1:7880")
	trial.Must(t, err)
	l := &limiter{most: most}
	proxy := httputil.NewSingleHostReverseProxy(there)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.takes(time.Now()) {
			w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

func (l *limiter) takes(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.until) && now.After(l.until.Add(onTheirWay-retryAfter)) {
		l.early++
	}
	l.asked = append(l.asked, now)
	if inMinute(l.asked, now) > l.most {
		l.refused++
		if now.After(l.until) {
			l.until = now.Add(retryAfter)
		}
		return false
	}
	return true
}

// inMinute counts the requests in the minute before a time.
func inMinute(asked []time.Time, end time.Time) int {
	n := 0
	for _, at := range asked {
		if !at.After(end) && end.Sub(at) < time.Minute {
			n++
		}
	}
	return n
}

// busiest is the largest number of requests of any minute.
// seen returns the requests so far.
type seen struct{ asked, busiest, refused, early int }

func (l *limiter) seen() seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := 0
	for _, at := range l.asked {
		most = max(most, inMinute(l.asked, at))
	}
	return seen{asked: len(l.asked), busiest: most, refused: l.refused, early: l.early}
}

// TestRequestsStayWithinTheLimit has 12 calls at a LiveKit that accepts 60 requests a minute, and an adapter that knows the
// limit. No request is refused, and the calls are always known.
func TestRequestsStayWithinTheLimit(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "limited")
	pod, limited := limitedPod(t, ns, 1)
	known := knownFor(t, pod, limited, limitedFor)
	l := limited.seen()
	t.Logf("%d requests, at most %d in a minute, %d refused; %d answers", l.asked, l.busiest, l.refused, known)
	if l.refused > 0 || l.busiest > limitPerMinute {
		t.Errorf("%d requests were refused, and up to %d came in a minute; want none above %d", l.refused, l.busiest, limitPerMinute)
	}
}

// TestRefusalsAreHonoured: LiveKit accepts fewer requests than the adapter was told. The adapter sends none while it has to
// wait, and never more in a minute than its own limit.
func TestRefusalsAreHonoured(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "refused")
	_, limited := limitedPod(t, ns, 2)
	l := limited.limiter
	l.mu.Lock()
	l.most = limitPerMinute / 4
	l.mu.Unlock()
	eventually(t, 2*time.Minute, "LiveKit has refused a request", func() (bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.refused > 0, nil
	})
	refused := time.Now()
	eventually(t, 5*retryAfter, "it has waited several times as long as it was told", func() (bool, error) {
		limited.path() // for its answer meanwhile
		return time.Since(refused) > 4*retryAfter, nil
	})
	s := l.seen()
	t.Logf("%d requests, at most %d in a minute, %d refused, %d while it was to wait", s.asked, s.busiest, s.refused, s.early)
	if s.early > 0 || s.busiest > limitPerMinute {
		t.Errorf("%d requests came while LiveKit had said to wait, and up to %d in a minute; want none, and at most %d", s.early, s.busiest, limitPerMinute)
	}
}

// limitedAdapter is an adapter whose LiveKit has a request limit.
type limitedAdapter struct {
	*limiter

	path func() string // the answer for the pod
}

// limitedPod is a pod with calls at one of the stage's LiveKits behind a limiter, seen by its own adapter.
func limitedPod(t *testing.T, ns string, which int) (*corev1.Pod, *limitedAdapter) {
	t.Helper()
	pod := lonePod(t, ns)
	joinAll(t, which, agentsIn(pod, limitedRooms))
	lk := stage.LiveKits[which]
	l := limit(t, lk, limitPerMinute)
	key, secret := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "secret")
	trial.Must(t, os.WriteFile(key, []byte(lk.APIKey), 0o600))
	trial.Must(t, os.WriteFile(secret, []byte(lk.APISecret), 0o600))
	a := adapter(t, "--livekit-url="+l.url, "--livekit-api-key-file="+key, "--livekit-api-secret-file="+secret,
		fmt.Sprintf("--livekit-requests-per-minute=%d", limitPerMinute*100/adapterShare), "--replicas=1")
	path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + ns + "/pods/" + pod.Name + "/active_calls"
	limited := &limitedAdapter{limiter: l, path: func() string { return adapterPath(t, a, path) }}
	eventually(t, 2*time.Minute, "the calls are known", func() (bool, error) {
		if text := limited.path(); !slices.Contains(values(text), fmt.Sprint(limitedRooms)) {
			return false, fmt.Errorf("the answer is %s", text)
		}
		return true, nil
	})
	return pod, limited
}

// knownFor reads the pod's calls once a second, and fails the test when they are unknown or wrong.
func knownFor(t *testing.T, pod *corev1.Pod, a *limitedAdapter, during time.Duration) (answers int) {
	t.Helper()
	end := time.Now().Add(during)
	eventually(t, during+time.Minute, "the time is over", func() (bool, error) {
		if text := a.path(); !slices.Contains(values(text), fmt.Sprint(limitedRooms)) {
			t.Fatalf("after %d answers the calls of pod %s are no longer %d: %s", answers, pod.Name, limitedRooms, text)
		}
		answers++
		pause := time.NewTimer(time.Second)
		<-pause.C
		return time.Now().After(end), nil
	})
	return answers
}

// values are the values of an answer of the metrics API.
func values(text string) []string {
	var found []string
	for _, part := range strings.Split(text, `"value":"`)[1:] {
		value, _, _ := strings.Cut(part, `"`)
		found = append(found, value)
	}
	return found
}
