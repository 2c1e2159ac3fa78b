// SPDX-License-Identifier: Apache-2.0

// Package poll polls pods over HTTP on behalf of the worker and gate witnesses, and keeps
// the answers as long as they are recent enough.
//
// It does not know what is asked or what an answer means; the witnesses do.
package poll

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/fair"
)

// notRunning is how soon a pod without a running container is looked at again.
const notRunning = time.Second

// maxHeaders is the maximum size of the headers of an answer, in bytes.
const maxHeaders = 8 << 10

// Config is what a Poller needs. If only Ask is used, Pod, MaxStaleness and Concurrency are
// not needed.
type Config struct {
	// Pod returns a live pod, or nil if it is gone.
	Pod func(types.UID) *call.Pod
	// Interval is how often a pod is asked. Answers older than MaxStaleness count as unknown.
	Interval, MaxStaleness time.Duration
	// Timeout is the time limit of one request, Concurrency the maximum number of concurrent
	// requests.
	Timeout     time.Duration
	Concurrency int
	// Registry gets the counter of requests.
	Registry prometheus.Registerer
}

// Subject is who is asked, and how. Answer is the type of their answers.
type Subject[Answer any] struct {
	Witness call.Witness
	// Name is their name in reasons, such as "the agent".
	Name string
	// Requests counts the requests to them, by outcome.
	Requests prometheus.CounterOpts
	// PokeAgain is how long after a poke they are asked a second time; zero means not at all.
	PokeAgain time.Duration
	// Get asks a pod. Reading returns what an answer means that was requested at the given
	// time.
	Get     func(context.Context, *http.Client, *call.Pod) (Answer, error)
	Reading func(Answer, time.Time) call.Reading
	// Heard is told of each answer that Run gets, with the time at which it was asked for,
	// and Gone of pods of which no other comes. Either may be nil.
	Heard func(*call.Pod, Answer, time.Time)
	Gone  func(types.UID)
}

// Poller asks every pod that names its witness. Its methods are safe for
// concurrent use.
type Poller[Answer any] struct {
	cfg      Config
	subject  Subject[Answer]
	client   *http.Client
	requests *prometheus.CounterVec
	queue    workqueue.TypedDelayingInterface[types.UID]
	workers  *fair.Workers

	mu      sync.RWMutex
	answers map[types.UID]latest
}

// latest is a pod's latest answer. After a failure the earlier reading still counts until
// it is too old.
type latest struct {
	asked   bool // it is in the queue
	reading call.Reading
	at      time.Time // when reading was requested; zero if the pod never answered
	err     error     // why the latest request failed
}

// New returns a Poller. Ask works at once, Reading needs Run.
func New[Answer any](cfg Config, subject Subject[Answer]) *Poller[Answer] {
	requests := prometheus.NewCounterVec(subject.Requests, []string{"outcome"})
	cfg.Registry.MustRegister(requests)
	return &Poller[Answer]{
		cfg: cfg, subject: subject, requests: requests,
		client: &http.Client{
			Timeout: cfg.Timeout,
			Transport: &http.Transport{
				Proxy:               nil, // pods are reached directly
				DialContext:         (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
				MaxIdleConnsPerHost: 1,
				MaxIdleConns:        1000,
				IdleConnTimeout:     2 * cfg.Interval,
				// The pod's owner also controls what it sends before the answer.
				MaxResponseHeaderBytes: maxHeaders,
				ReadBufferSize:         2 << 10,
				WriteBufferSize:        1 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect(subject.Name) },
		},
		queue:   workqueue.NewTypedDelayingQueue[types.UID](),
		workers: fair.NewWorkers(cfg.Concurrency),
		answers: map[types.UID]latest{},
	}
}

// Run asks until ctx is done.
func (p *Poller[Answer]) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		p.queue.ShutDown()
		p.client.CloseIdleConnections()
		return nil
	})
	for range p.cfg.Concurrency {
		g.Go(func() error { p.work(ctx); return nil })
	}
	return g.Wait()
}

// Poke asks pods at once, and once more after PokeAgain, because something has happened
// there.
func (p *Poller[Answer]) Poke(pods ...types.UID) {
	for _, uid := range pods {
		if pod := p.cfg.Pod(uid); pod == nil || !pod.Asks(p.subject.Witness) {
			continue
		}
		p.mu.Lock()
		a := p.answers[uid]
		a.asked = true
		p.answers[uid] = a
		p.mu.Unlock()
		p.queue.Add(uid)
		if p.subject.PokeAgain > 0 {
			p.queue.AddAfter(uid, p.subject.PokeAgain)
		}
	}
}

// Watch begins to ask a pod at every interval, until it is gone.
func (p *Poller[Answer]) Watch(uid types.UID) {
	p.mu.RLock()
	asked := p.answers[uid].asked
	p.mu.RUnlock()
	if !asked {
		p.Poke(uid)
	}
}

func (p *Poller[Answer]) work(ctx context.Context) {
	for {
		uid, shutdown := p.queue.Get()
		if shutdown {
			return
		}
		pod := p.cfg.Pod(uid)
		if pod == nil || !pod.Asks(p.subject.Witness) {
			p.mu.Lock()
			delete(p.answers, uid)
			p.mu.Unlock()
			if p.subject.Gone != nil {
				p.subject.Gone(uid)
			}
			p.queue.Done(uid)
			continue
		}
		pause := notRunning
		switch {
		case !pod.Running || pod.IP == "":
		case p.workers.Take(pod.Namespace):
			p.keep(ctx, pod)
			p.workers.Give(pod.Namespace)
			pause = wait.Jitter(p.cfg.Interval*9/10, 1.0/9)
		default:
			pause = fair.Again
		}
		p.queue.Done(uid)
		p.queue.AddAfter(uid, pause)
	}
}

func (p *Poller[Answer]) keep(ctx context.Context, pod *call.Pod) {
	at := time.Now()
	answer, err := p.get(ctx, pod)
	if err == nil && p.subject.Heard != nil {
		p.subject.Heard(pod, answer, at)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.answers[pod.UID]
	a.err = err
	if err == nil {
		a.reading, a.at = p.subject.Reading(answer, at), at
	}
	p.answers[pod.UID] = a
}

func (p *Poller[Answer]) get(ctx context.Context, pod *call.Pod) (Answer, error) {
	answer, err := p.subject.Get(ctx, p.client, pod)
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	p.requests.WithLabelValues(outcome).Inc()
	return answer, err
}

// Ask asks a pod now, even if Run is not running, so that the reading is no older than the
// call of Ask. After any failure the reading is unknown, and the answer zero.
func (p *Poller[Answer]) Ask(ctx context.Context, pod *call.Pod) (call.Reading, Answer) {
	at := time.Now()
	answer, err := p.get(ctx, pod)
	if err != nil {
		var none Answer
		return call.Unknown("%s does not say: %s", p.subject.Name, err), none
	}
	return p.subject.Reading(answer, at), answer
}

// Reading returns a pod's latest reading.
func (p *Poller[Answer]) Reading(pod *call.Pod, now time.Time) call.Reading {
	p.mu.RLock()
	a := p.answers[pod.UID]
	p.mu.RUnlock()
	switch {
	case !a.at.IsZero() && now.Sub(a.at) <= p.cfg.MaxStaleness:
		return a.reading
	case a.err != nil:
		return call.Unknown("%s does not say: %s", p.subject.Name, a.err)
	case a.at.IsZero():
		return call.Unknown("%s has not been asked yet", p.subject.Name)
	default:
		return call.Unknown("%s last answered over %s ago", p.subject.Name, p.cfg.MaxStaleness)
	}
}

// errRedirect names who must not redirect.
type errRedirect string

func (e errRedirect) Error() string { return string(e) + " does not redirect" }

// unasked is why a page could not be read, without text from the server: net/http repeats
// what it does not understand.
type unasked struct {
	url   string
	cause error
}

func (e *unasked) Unwrap() error { return e.cause }

func (e *unasked) Error() string {
	var (
		timeout  interface{ Timeout() bool }
		errno    syscall.Errno
		redirect errRedirect
	)
	why := "it does not speak HTTP"
	switch {
	case errors.As(e.cause, &redirect):
		why = redirect.Error()
	case errors.As(e.cause, &timeout) && timeout.Timeout():
		why = "it does not answer in time"
	case errors.As(e.cause, &errno):
		why = errno.Error()
	case errors.Is(e.cause, context.Canceled):
		why = "the question was given up"
	case errors.Is(e.cause, io.EOF), errors.Is(e.cause, io.ErrUnexpectedEOF):
		why = "it ends the connection"
	}
	return e.url + " cannot be asked: " + why
}

// MaxAnswer is how much of an answer is read, in bytes, because the pod's owner controls
// its size.
const MaxAnswer = 16 << 10

// Get reads the first MaxAnswer bytes of a page, without decompression, and parses them. A
// longer page is an error unless these bytes are enough for parse.
func Get[Answer any](ctx context.Context, client *http.Client, url string, parse func([]byte) (Answer, error)) (answer Answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer, fmt.Errorf("cannot ask %s: %w", url, err)
	}
	req.Header.Set("Accept-Encoding", "identity") // otherwise net/http decompresses the answer, without a limit
	resp, err := client.Do(req)
	if err != nil {
		return answer, &unasked{url, err}
	}
	defer resp.Body.Close()
	switch packed := resp.Header.Get("Content-Encoding"); {
	case resp.StatusCode != http.StatusOK:
		// The error contains no text from the server.
		return answer, fmt.Errorf("%s answered %d %s", url, resp.StatusCode, http.StatusText(resp.StatusCode))
	case packed != "" && packed != "identity":
		return answer, fmt.Errorf("%s answered with an encoding that was not requested; it has to answer plain JSON", url)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return answer, &unasked{url, err}
	}
	whole := len(body) <= MaxAnswer
	answer, err = parse(body[:min(len(body), MaxAnswer)])
	switch {
	case err == nil:
		return answer, nil
	case whole:
		return answer, fmt.Errorf("%s: %w", url, err)
	default:
		return answer, fmt.Errorf("%s answered more than %d bytes, which is longer than any answer that is read", url, MaxAnswer)
	}
}
