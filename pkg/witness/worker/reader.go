// SPDX-License-Identifier: Apache-2.0

// Package worker is the witness that asks an agent itself: GET /worker on the
// HTTP server that LiveKit Agents runs in every pod.
//
// The agent counts a job from before it joins its room until its process ends,
// so this witness begins earlier and ends later than the rooms. The package
// signals nobody and asks for nothing else.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
)

const (
	maxAnswer = 64 << 10 // bytes
	// pokeAgain is when a poked pod is asked a second time: a job's process ends
	// shortly after its agent has left the room.
	pokeAgain = 500 * time.Millisecond
	// notRunning is how soon a pod is looked at again that runs no container yet.
	notRunning = time.Second
)

// Config is what a Reader needs.
type Config struct {
	// Pod returns a live pod, or nil if it is gone.
	Pod func(types.UID) *call.Pod
	// Interval is how often a pod is asked, MaxStaleness the age from which an
	// answer is not believed any more.
	Interval, MaxStaleness time.Duration
	// Timeout bounds one request, Concurrency the requests under way.
	Timeout     time.Duration
	Concurrency int
	Metrics     *Metrics
}

// Reader asks every pod that names this witness. Its methods are safe for
// concurrent use.
type Reader struct {
	cfg    Config
	client *http.Client
	queue  workqueue.TypedDelayingInterface[types.UID]

	mu      sync.RWMutex
	answers map[types.UID]answer
}

// answer is what a pod said last. A failure does not end the time for which an
// earlier number is believed.
type answer struct {
	asked bool // it stands in the queue
	calls int
	at    time.Time // when calls was asked for; zero if never known
	err   error     // why the latest request failed
}

// NewReader returns a Reader that asks nobody until Run.
func NewReader(cfg Config) *Reader {
	return &Reader{
		cfg: cfg,
		client: &http.Client{
			Timeout: cfg.Timeout,
			Transport: &http.Transport{
				Proxy:               nil, // pods are reached directly
				DialContext:         (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
				MaxIdleConnsPerHost: 1,
				MaxIdleConns:        1000,
				IdleConnTimeout:     2 * cfg.Interval,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("an agent does not redirect") },
		},
		queue:   workqueue.NewTypedDelayingQueue[types.UID](),
		answers: map[types.UID]answer{},
	}
}

// Run asks until ctx is done.
func (r *Reader) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		r.queue.ShutDown()
		r.client.CloseIdleConnections()
		return nil
	})
	for range r.cfg.Concurrency {
		g.Go(func() error { r.work(ctx); return nil })
	}
	return g.Wait()
}

// Poke asks pods soon, and once more a little later: something happened there.
func (r *Reader) Poke(pods ...types.UID) {
	for _, uid := range pods {
		if p := r.cfg.Pod(uid); p == nil || !p.Asks(call.Worker) {
			continue
		}
		r.mu.Lock()
		a := r.answers[uid]
		a.asked = true
		r.answers[uid] = a
		r.mu.Unlock()
		r.queue.Add(uid)
		r.queue.AddAfter(uid, pokeAgain)
	}
}

// Watch begins to ask a pod at every interval, until it is gone.
func (r *Reader) Watch(uid types.UID) {
	r.mu.RLock()
	asked := r.answers[uid].asked
	r.mu.RUnlock()
	if !asked {
		r.Poke(uid)
	}
}

func (r *Reader) work(ctx context.Context) {
	for {
		uid, shutdown := r.queue.Get()
		if shutdown {
			return
		}
		pod := r.cfg.Pod(uid)
		if pod == nil || !pod.Asks(call.Worker) {
			r.mu.Lock()
			delete(r.answers, uid)
			r.mu.Unlock()
			r.queue.Done(uid)
			continue
		}
		pause := notRunning
		if pod.Running && pod.IP != "" {
			r.ask(ctx, pod)
			pause = wait.Jitter(r.cfg.Interval*9/10, 1.0/9)
		}
		r.queue.Done(uid)
		r.queue.AddAfter(uid, pause)
	}
}

func (r *Reader) ask(ctx context.Context, pod *call.Pod) {
	at := time.Now()
	calls, err := Get(ctx, r.client, workerURL(pod))
	r.cfg.Metrics.asked(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.answers[pod.UID]
	a.err = err
	if err == nil {
		a.calls, a.at = calls, at
	}
	r.answers[pod.UID] = a
}

// Ask asks a pod now. Whatever goes wrong is unknown.
func (r *Reader) Ask(ctx context.Context, pod *call.Pod) call.Reading {
	if !pod.Running || pod.IP == "" {
		return call.Unknown("the agent has no address yet")
	}
	at := time.Now()
	calls, err := Get(ctx, r.client, workerURL(pod))
	r.cfg.Metrics.asked(err)
	if err != nil {
		return call.Unknown("the agent does not say: %s", err)
	}
	return call.Known(calls, at)
}

func workerURL(pod *call.Pod) string {
	return "http://" + net.JoinHostPort(pod.IP, strconv.Itoa(pod.WorkerPort)) + "/worker"
}

// Get asks one agent for the number of its active jobs.
func Get(ctx context.Context, client *http.Client, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("cannot ask %s: %w", url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot read the answer of %s: %w", url, err)
	case resp.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("%s answered %s", url, resp.Status)
	case len(body) > maxAnswer:
		return 0, fmt.Errorf("%s answered more than %d bytes", url, maxAnswer)
	}
	calls, err := parse(body)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", url, err)
	}
	return calls, nil
}

// Reading is what a pod said of itself.
func (r *Reader) Reading(pod *call.Pod, now time.Time) call.Reading {
	r.mu.RLock()
	a := r.answers[pod.UID]
	r.mu.RUnlock()
	switch {
	case !a.at.IsZero() && now.Sub(a.at) <= r.cfg.MaxStaleness:
		return call.Known(a.calls, a.at)
	case a.err != nil:
		return call.Unknown("the agent does not say: %s", a.err)
	case a.at.IsZero():
		return call.Unknown("the agent has not been asked yet")
	default:
		return call.Unknown("the agent last answered over %s ago", r.cfg.MaxStaleness)
	}
}

// Metrics count what the worker witness does.
type Metrics struct{ requests *prometheus.CounterVec }

// NewMetrics registers the metrics of the worker witness.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "callguard", Name: "worker_requests_total",
		Help: "Requests to GET /worker of agents, by outcome (ok, error).",
	}, []string{"outcome"})}
	reg.MustRegister(m.requests)
	return m
}

func (m *Metrics) asked(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.requests.WithLabelValues(outcome).Inc()
}
