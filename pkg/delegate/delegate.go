// SPDX-License-Identifier: Apache-2.0

// Package delegate passes requests for custom metrics that are not callguard's on to the
// adapter that served them before, and tells discovery which metrics that one has.
//
// What the other adapter does is never callguard's: its requests have connections, a time
// limit and a bound of their own, its answers are bounded, and while it does not answer its
// callers are told so at once. Its own answers, errors too, go back as they are. It is asked
// as callguard's account and never in somebody else's name: who asks, and whether they may,
// is decided before. The package answers no metric itself and knows none of callguard's.
package delegate

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
)

const (
	// maxAnswer bounds what is kept of an answer, as it is sent: a list of some 20,000 pods,
	// or of 100,000 where it is compressed.
	maxAnswer = 4 << 20
	// maxDiscovery bounds the list of its metrics, which is unpacked.
	maxDiscovery = 8 << 20
	// readEvery is how often the list of its metrics is read, and retryEvery how often while it
	// does not answer.
	readEvery, retryEvery = 30 * time.Second, 5 * time.Second
)

// Config is what a Delegate needs.
type Config struct {
	// Service is the other adapter's, as namespace/name: its name in errors.
	Service string
	// Address is where it is reached, as host:port.
	Address string
	// TLS says whom to believe that it is the other adapter.
	TLS *tls.Config
	// Authenticate adds callguard's credentials to requests.
	Authenticate func(http.RoundTripper) (http.RoundTripper, error)
	// Timeout limits a request, Concurrency how many are under way at once.
	Timeout     time.Duration
	Concurrency int
	Registry    prometheus.Registerer
	Log         *slog.Logger
}

// Delegate knows the other adapter.
type Delegate struct {
	cfg     Config
	client  *http.Client
	slots   chan struct{}
	breaker breaker
	metrics *metrics

	mu        sync.RWMutex
	resources map[string][]metav1.APIResource // by version, as last read
	lasting   map[string]error                // why a version could not be read last; nil where it could
	changed   func()
}

// New returns a Delegate that asks nobody until it runs, or has a request to pass on.
func New(cfg Config) (*Delegate, error) {
	transport, err := cfg.Authenticate(&http.Transport{
		TLSClientConfig: cfg.TLS, DisableCompression: true, // what it sends goes on as it is
		// A connection for each request that may be under way: one that hangs holds up no other, as in HTTP/2 it might.
		TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxConnsPerHost: cfg.Concurrency + len(Versions()), MaxIdleConnsPerHost: cfg.Concurrency, IdleConnTimeout: time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot authenticate to %s: %w", cfg.Service, err)
	}
	d := &Delegate{
		cfg: cfg, slots: make(chan struct{}, cfg.Concurrency), metrics: newMetrics(cfg.Registry),
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for nobody else
		},
		resources: map[string][]metav1.APIResource{}, lasting: map[string]error{}, changed: func() {},
	}
	for _, version := range Versions() {
		d.lasting[version] = errors.New("it has not been asked yet")
	}
	return d, nil
}

// Versions are those of the API.
func Versions() []string { return []string{"v1beta1", "v1beta2"} }

// OnChange has a function called when the list of metrics has changed. Call it before Run.
func (d *Delegate) OnChange(changed func()) { d.changed = changed }

// Run keeps the list of metrics until ctx is done.
func (d *Delegate) Run(ctx context.Context) error {
	for {
		pause := readEvery
		if !d.read(ctx) {
			pause = retryEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// Resources are the other adapter's metrics in a version of the API, as they were last read.
// They stay while it does not answer, so that its outage changes nothing in discovery.
func (d *Delegate) Resources(version string) []metav1.APIResource {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.resources[version]
}

// Answers returns nil if the other adapter listed its metrics in a version when it was last
// asked, else why not.
func (d *Delegate) Answers(version string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.lasting[version]; err != nil {
		return fmt.Errorf("%s does not list its metrics in %s: %w", d.cfg.Service, version, err)
	}
	return nil
}

// read reads the list of metrics in each version, and reports whether there was an answer.
func (d *Delegate) read(ctx context.Context) (answers bool) {
	answers, changed := true, false
	for _, version := range Versions() {
		found, err := d.list(ctx, version)
		if ctx.Err() != nil {
			return true
		}
		var refused *statusError
		answers = answers && (err == nil || errors.As(err, &refused))
		d.mu.Lock()
		was := d.lasting[version]
		d.lasting[version] = err
		if err == nil && !slices.EqualFunc(found, d.resources[version], sameResource) {
			d.resources[version] = found
			changed = true
		}
		d.mu.Unlock()
		switch {
		case err != nil && (was == nil || was.Error() != err.Error()):
			d.cfg.Log.Warn("The other adapter does not list its metrics; callguard's own go on", "service", d.cfg.Service, "version", version, "err", err)
		case err == nil && was != nil:
			d.cfg.Log.Info("The other adapter lists its metrics", "service", d.cfg.Service, "version", version, "resources", len(found))
		}
		d.breaker.listed(err)
	}
	d.metrics.set(answers)
	if changed {
		d.changed()
	}
	return answers
}

func sameResource(a, b metav1.APIResource) bool {
	return a.Name == b.Name && a.Namespaced == b.Namespaced
}

// list asks for the metrics in one version.
func (d *Delegate) list(ctx context.Context, version string) ([]metav1.APIResource, error) {
	a, err := d.ask(ctx, "/apis/"+custom_metrics.GroupName+"/"+version, "", http.Header{"Accept": {"application/json"}}, maxDiscovery)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, &statusError{a.status}
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(a.body, &list); err != nil {
		return nil, fmt.Errorf("its list is none of Kubernetes': %w", err)
	}
	resources := make([]metav1.APIResource, 0, len(list.APIResources))
	for _, r := range list.APIResources {
		resources = append(resources, metav1.APIResource{Name: r.Name, Namespaced: r.Namespaced, Kind: "MetricValueList", Verbs: metav1.Verbs{"get"}})
	}
	return resources, nil
}

// statusError is an answer of another status than 200.
type statusError struct{ status int }

// Error implements error.
func (e *statusError) Error() string {
	return fmt.Sprintf("it answers %d %s", e.status, http.StatusText(e.status))
}

// answer is an answer of the other adapter, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// tooLarge is the error of an answer above its bound.
type tooLarge struct{ most int64 }

// Error implements error.
func (e tooLarge) Error() string {
	return fmt.Sprintf("its answer is larger than %d MiB; ask for fewer objects, by a selector", e.most>>20)
}

// ask sends a GET, and returns the whole answer.
func (d *Delegate) ask(ctx context.Context, at, query string, header http.Header, most int64) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	to := url.URL{Scheme: "https", Host: d.cfg.Address, Path: at, RawPath: at, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("User-Agent", "callguard-metrics-adapter")
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, plain(err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is of no use
	if resp.ContentLength > most {
		return nil, tooLarge{most}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, plain(err)
	}
	if int64(len(body)) > most {
		return nil, tooLarge{most}
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// plain takes the URL out of an error: the caller knows it, and it makes every text another.
func plain(err error) error {
	if wrapped, is := errors.AsType[*url.Error](err); is {
		err = wrapped.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it is too slow: %w", err)
	}
	return err
}

// Handler passes on what own does not serve: reads of custom metrics that are not ours. Ours
// are told by their path alone.
func (d *Delegate) Handler(own http.Handler, ours func(*request.RequestInfo) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, found := request.RequestInfoFrom(r.Context())
		switch {
		case !found, !info.IsResourceRequest, info.APIGroup != custom_metrics.GroupName, !slices.Contains(Versions(), info.APIVersion),
			r.Method != http.MethodGet, info.Verb != "get" && info.Verb != "list",
			path.Clean(r.URL.Path) != r.URL.Path, // rights were judged by the path as it is, and the other might read it in another way
			ours(info):
			own.ServeHTTP(w, r)
		default:
			d.pass(w, r, schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion})
		}
	})
}

// pass answers with what the other adapter answers, or says why there is no answer.
func (d *Delegate) pass(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion) {
	began := time.Now()
	a, outcome, err := d.forward(r)
	d.metrics.count(outcome, time.Since(began))
	if err != nil {
		// No Retry-After, for which see package metricsapi.
		unavailable := apierrors.NewServiceUnavailable(fmt.Sprintf("this metric is none of callguard's, and adapter %s, which served it before, is not there for it: %v", d.cfg.Service, err))
		responsewriters.ErrorNegotiated(unavailable, apiserver.Codecs, gv, w, r)
		return
	}
	for _, key := range []string{"Content-Type", "Content-Encoding"} {
		if value := a.header.Get(key); value != "" {
			w.Header().Set(key, value)
		}
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // who asked may be gone
}

// forward asks the other adapter what was asked of us.
func (d *Delegate) forward(r *http.Request) (*answer, outcome, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	default:
		return nil, refused, fmt.Errorf("%d requests to it are under way, which is the most at once", cap(d.slots))
	}
	leave, err := d.breaker.enter()
	if err != nil {
		return nil, refused, err
	}
	header := http.Header{}
	for _, key := range []string{"Accept", "Accept-Encoding"} {
		if values := r.Header.Values(key); len(values) > 0 {
			header[key] = values
		}
	}
	a, err := d.ask(r.Context(), r.URL.Path, r.URL.RawQuery, header, maxAnswer)
	var large tooLarge
	switch {
	case err != nil && r.Context().Err() != nil:
		leave(errGone)
		return nil, gone, err
	case errors.As(err, &large):
		leave(nil)
		return nil, failed, err
	case err != nil:
		leave(err)
		return nil, failed, err
	}
	leave(nil)
	switch {
	case a.status == http.StatusUnauthorized:
		return nil, failed, errors.New("it does not take the token of callguard's service account (401)")
	case a.status < 200 || 300 <= a.status && a.status < 400:
		return nil, failed, &statusError{a.status}
	case a.status >= 400:
		return a, denied, nil
	}
	return a, answered, nil
}
