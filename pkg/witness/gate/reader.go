// SPDX-License-Identifier: Apache-2.0

// Package gate is the witness that asks a pod's call-gate: GET /calls of the
// sidecar, through which every job of the agent went.
//
// It does not order anything: a gate reads from its pod's annotation that it is
// to take no more calls.
package gate

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
	maxAnswer = 1 << 20 // bytes
	// notRunning is how soon a pod is looked at again that runs no container yet.
	notRunning = time.Second
)

// Config is what a Reader needs.
type Config struct {
	// Pod returns a live pod, or nil if it is gone.
	Pod func(types.UID) *call.Pod
	// Interval is how often a gate is asked, MaxStaleness the age from which an
	// answer is not believed any more.
	Interval, MaxStaleness time.Duration
	// Timeout bounds one request, Concurrency the requests under way.
	Timeout     time.Duration
	Concurrency int
	Metrics     *Metrics
	// UnusedIsIdle has a gate that no worker has come to taken for one without
	// calls. It is for those who do not end any on that account.
	UnusedIsIdle bool
}

// Reader asks the gate of every pod that names this witness. Its methods are
// safe for concurrent use.
type Reader struct {
	cfg    Config
	client *http.Client
	queue  workqueue.TypedDelayingInterface[types.UID]

	mu      sync.RWMutex
	answers map[types.UID]latest
}

// latest is what a gate said last. A failure does not end the time for which an
// earlier reading is believed.
type latest struct {
	asked   bool // it stands in the queue
	reading call.Reading
	at      time.Time // when reading was asked for; zero if the gate never answered
	err     error     // why the latest request failed
}

// NewReader returns a Reader. Ask works at once, Reading needs Run.
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
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a gate does not redirect") },
		},
		queue:   workqueue.NewTypedDelayingQueue[types.UID](),
		answers: map[types.UID]latest{},
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

// Poke asks pods at once: something happened there.
func (r *Reader) Poke(pods ...types.UID) {
	for _, uid := range pods {
		if p := r.cfg.Pod(uid); p == nil || !p.Asks(call.Gate) {
			continue
		}
		r.mu.Lock()
		a := r.answers[uid]
		a.asked = true
		r.answers[uid] = a
		r.mu.Unlock()
		r.queue.Add(uid)
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
		if pod == nil || !pod.Asks(call.Gate) {
			r.mu.Lock()
			delete(r.answers, uid)
			r.mu.Unlock()
			r.queue.Done(uid)
			continue
		}
		pause := notRunning
		if pod.Running && pod.IP != "" {
			r.keep(ctx, pod)
			pause = wait.Jitter(r.cfg.Interval*9/10, 1.0/9)
		}
		r.queue.Done(uid)
		r.queue.AddAfter(uid, pause)
	}
}

func (r *Reader) keep(ctx context.Context, pod *call.Pod) {
	at := time.Now()
	answer, err := r.get(ctx, pod)
	r.cfg.Metrics.asked(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.answers[pod.UID]
	a.err = err
	if err == nil {
		a.reading, a.at = answer.reading(at), at
	}
	r.answers[pod.UID] = a
}

// Ask asks a pod's gate now, whether Run runs or not, so that the reading is no
// older than the call of Ask. The Answer says whether the pod is draining and
// drained; it is zero where the gate gave none.
func (r *Reader) Ask(ctx context.Context, pod *call.Pod) (call.Reading, Answer) {
	at := time.Now()
	answer, err := r.get(ctx, pod)
	r.cfg.Metrics.asked(err)
	if err != nil {
		return call.Unknown("the gate does not say: %s", err), Answer{}
	}
	return answer.reading(at), answer
}

func (r *Reader) get(ctx context.Context, pod *call.Pod) (Answer, error) {
	if pod.IP == "" {
		return Answer{}, errors.New("the pod has no address yet")
	}
	url := "http://" + net.JoinHostPort(pod.IP, strconv.Itoa(pod.GatePort)) + Path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Answer{}, fmt.Errorf("cannot ask %s: %w", url, err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("cannot read the answer of %s: %w", url, err)
	case resp.StatusCode != http.StatusOK:
		return Answer{}, fmt.Errorf("%s answered %s", url, resp.Status)
	case len(body) > maxAnswer:
		return Answer{}, fmt.Errorf("%s answered more than %d bytes", url, maxAnswer)
	}
	answer, err := parse(body, pod.UID)
	if err != nil {
		return Answer{}, fmt.Errorf("%s: %w", url, err)
	}
	answer.Known = answer.Known || !answer.Used && r.cfg.UnusedIsIdle
	return answer, nil
}

// Reading is what a pod's gate said last.
func (r *Reader) Reading(pod *call.Pod, now time.Time) call.Reading {
	r.mu.RLock()
	a := r.answers[pod.UID]
	r.mu.RUnlock()
	switch {
	case !a.at.IsZero() && now.Sub(a.at) <= r.cfg.MaxStaleness:
		return a.reading
	case a.err != nil:
		return call.Unknown("the gate does not say: %s", a.err)
	case a.at.IsZero():
		return call.Unknown("the gate has not been asked yet")
	default:
		return call.Unknown("the gate last answered over %s ago", r.cfg.MaxStaleness)
	}
}

// Metrics count what the gate witness does.
type Metrics struct{ requests *prometheus.CounterVec }

// NewMetrics registers the metrics of the gate witness.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "callguard", Name: "gate_requests_total",
		Help: "Requests to GET /calls of gates, by outcome (ok, error).",
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
