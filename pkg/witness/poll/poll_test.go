// SPDX-License-Identifier: Apache-2.0

package poll

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// TestPollOfManySilentPods: a thousand pods of one namespace do not answer. The pod of another is still asked as often as
// usual.
func TestPollOfManySilentPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, timeout, during = 10 * time.Second, 2 * time.Second, 100 * time.Second
		var heard atomic.Int64
		p := New(Config{
			Pod: func(uid types.UID) *call.Pod {
				pod := &call.Pod{UID: uid, IP: "127.0.0.1", Witnesses: []call.Witness{call.Worker}, Running: true}
				pod.Namespace, _, _ = strings.Cut(string(uid), "-")
				return pod
			},
			Interval: interval, MaxStaleness: 3 * interval, Concurrency: 16, Registry: prometheus.NewRegistry(),
		}, Subject[int]{
			Witness: call.Worker, Name: "the agent", Requests: prometheus.CounterOpts{Name: "requests_total", Help: "Requests."},
			Reading: call.Known,
			Get: func(_ context.Context, _ *http.Client, pod *call.Pod) (int, error) {
				if pod.Namespace == "honest" {
					heard.Add(1)
					return 0, nil
				}
				time.Sleep(timeout)
				return 0, errors.New("it does not answer in time")
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		for i := range 1000 {
			p.Watch(types.UID(fmt.Sprintf("silent-%d", i)))
		}
		p.Watch("honest-0")
		time.Sleep(during)
		if n := heard.Load(); n < int64(during/interval)-1 {
			t.Errorf("the honest pod was asked %d times in %s beside a thousand silent ones; want once in %s", n, during, interval)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRoad asks one pod from before it runs until it is gone, in simulated time.
func TestRoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		live := map[types.UID]call.Pod{
			"a": {UID: "a", IP: "127.0.0.1", Witnesses: []call.Witness{call.Worker}},
			"b": {UID: "b", IP: "127.0.0.1", Witnesses: []call.Witness{call.Rooms}, Running: true},
		}
		asked, calls, failure := 0, 2, error(nil)
		registry := prometheus.NewRegistry()
		p := New(Config{
			Pod: func(uid types.UID) *call.Pod {
				mu.Lock()
				defer mu.Unlock()
				if pod, there := live[uid]; there {
					return &pod
				}
				return nil
			},
			Interval: 10 * time.Second, MaxStaleness: 25 * time.Second, Concurrency: 1, Registry: registry,
		}, Subject[int]{
			Witness: call.Worker, Name: "the agent", Requests: prometheus.CounterOpts{Name: "requests_total", Help: "Requests."},
			PokeAgain: 500 * time.Millisecond, Reading: call.Known,
			Get: func(_ context.Context, _ *http.Client, pod *call.Pod) (int, error) {
				if pod.UID != "a" {
					t.Errorf("pod %s does not name this witness, and was asked", pod.UID)
				}
				mu.Lock()
				defer mu.Unlock()
				asked++
				return calls, failure
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		change := func(how func()) {
			mu.Lock()
			defer mu.Unlock()
			how()
		}
		expect := func(what string, times, want int, reason string) {
			t.Helper()
			r := p.Reading(&call.Pod{UID: "a"}, time.Now())
			mu.Lock()
			defer mu.Unlock()
			got, known := r.Calls()
			if asked != times || known != (reason == "") || got != want || !strings.Contains(r.Reason(), reason) {
				t.Errorf("%s: asked %d times, %d calls, %q; want %d times, %d calls, %q", what, asked, got, r.Reason(), times, want, reason)
			}
		}

		p.Watch("a")
		p.Watch("b")
		p.Watch("nobody")
		pass(5 * time.Second)
		expect("no container runs", 0, 0, "the agent has not been asked yet")
		change(func() {
			pod := live["a"]
			pod.Running = true
			live["a"] = pod
		})
		pass(2 * time.Second)
		expect("a pod that runs is asked within a second", 1, 2, "")
		p.Watch("a")
		pass(7 * time.Second)
		expect("a pod that is watched already is not asked again for that", 1, 2, "")
		pass(5 * time.Second)
		expect("it is asked every 10 s", 2, 2, "")

		change(func() { calls = 1 })
		p.Poke("a", "b", "nobody")
		pass(100 * time.Millisecond)
		expect("poked, it is asked at once", 3, 1, "")
		change(func() { calls = 0 })
		pass(500 * time.Millisecond)
		expect("and once more half a second later", 4, 0, "")

		change(func() { failure = errors.New("connection refused") })
		pass(20 * time.Second)
		expect("an earlier reading is believed for a while", 6, 0, "")
		pass(10 * time.Second)
		expect("then the failure is the reason", 7, 0, "the agent does not say: connection refused")
		want := "# HELP requests_total Requests.\n# TYPE requests_total counter\n" +
			"requests_total{outcome=\"error\"} 3\nrequests_total{outcome=\"ok\"} 4\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		change(func() { failure = nil })
		pass(10 * time.Second)
		expect("it is back", 8, 0, "")
		if reason := p.Reading(&call.Pod{UID: "a"}, time.Now().Add(time.Minute)).Reason(); reason != "the agent last answered over 25s ago" {
			t.Errorf("a stale reading says %q", reason)
		}

		change(func() { delete(live, "a") })
		pass(20 * time.Second)
		expect("a pod that is gone is neither asked nor remembered", 8, 0, "the agent has not been asked yet")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestAsk asks a server that answers in every way.
func TestAsk(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/3", http.StatusFound)
		case "/busy":
			http.Error(w, "3", http.StatusServiceUnavailable)
		case "/cut":
			w.Header().Set("Content-Length", "5")
			_, _ = fmt.Fprint(w, "3")
		case "/packed":
			w.Header().Set("Content-Encoding", "gzip")
			packer := gzip.NewWriter(w)
			_, _ = fmt.Fprint(packer, "3")
			_ = packer.Close()
		case "/headers":
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeaders))
			_, _ = fmt.Fprint(w, "3")
		case "/long":
			_, _ = fmt.Fprint(w, strings.Repeat("3", MaxAnswer+1))
		case "/enough":
			_, _ = fmt.Fprint(w, "+"+strings.Repeat("0", MaxAnswer))
		default:
			_, _ = fmt.Fprint(w, strings.TrimPrefix(r.URL.Path, "/"))
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{
		"/3":       "",
		"/1234":    "",
		"/moved":   "the agent does not redirect",
		"/busy":    server.URL + "/busy answered 503",
		"/cut":     server.URL + "/cut cannot be asked: it ends the connection",
		"/many":    server.URL + "/many: strconv",
		"/packed":  server.URL + "/packed answered with an encoding that was not requested",
		"/headers": server.URL + "/headers cannot be asked: ",
		"/long":    server.URL + "/long answered more than 16384 bytes",
		"/enough":  "", // left to the parser
	} {
		t.Run(path, func(t *testing.T) {
			p := New(Config{Timeout: 10 * time.Second, Registry: prometheus.NewRegistry()}, Subject[int]{
				Name: "the agent", Reading: call.Known,
				Requests: prometheus.CounterOpts{Name: "requests_total", Help: "Requests."},
				Get: func(ctx context.Context, client *http.Client, _ *call.Pod) (int, error) {
					return Get(ctx, client, server.URL+path, func(body []byte) (int, error) {
						if body[0] == '+' {
							return 0, nil
						}
						return strconv.Atoi(string(body))
					})
				},
			})
			before := time.Now()
			reading, answer := p.Ask(t.Context(), &call.Pod{})
			switch n, known := reading.Calls(); {
			case want == "" && (!known || path != "/enough" && strconv.Itoa(n) != path[1:] || n != answer || reading.At().Before(before)):
				t.Errorf("%s reads %d, %t, answer %d", path, n, known, answer)
			case want != "" && (known || answer != 0 || !strings.HasPrefix(reading.Reason(), "the agent does not say: ") || !strings.Contains(reading.Reason(), want)):
				t.Errorf("%s reads %d, %t, answer %d, %q; want %q", path, n, known, answer, reading.Reason(), want)
			}
		})
	}
}
