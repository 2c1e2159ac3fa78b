// SPDX-License-Identifier: Apache-2.0

// Package delegate passes requests for custom metrics that are not callguard's on to the
// adapter that served them before, and lists that adapter's metrics in discovery.
//
// The other adapter must not affect callguard: requests to it have their own connections,
// time limit and concurrency limit, its answers are limited in size, and while it does not
// answer, callers get an error at once. Its answers, including errors, are passed back
// unchanged. Requests to it use callguard's account and never impersonate: the caller is
// authenticated and authorized before. The package serves no metric itself and does not know
// callguard's.
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
	// maxAnswer is the maximum size of an answer, as it is sent: a list of about 20,000 pods,
	// or of 100,000 if it is compressed.
	maxAnswer = 4 << 20
	// maxDiscovery is the maximum size of the list of its metrics, uncompressed.
	maxDiscovery = 8 << 20
	// readEvery is how often the list of its metrics is read, and retryEvery how often while it
	// does not answer.
	readEvery, retryEvery = 30 * time.Second, 5 * time.Second
)

// Config is what a Delegate needs.
type Config struct {
	// Service is the other adapter's Service, as namespace/name, for errors.
	Service string
	// Address is its address, as host:port.
	Address string
	// TLS verifies the other adapter.
	TLS *tls.Config
	// Authenticate adds callguard's credentials to requests.
	Authenticate func(http.RoundTripper) (http.RoundTripper, error)
	// Timeout is the time limit of a request, Concurrency the maximum number of concurrent
	// requests.
	Timeout     time.Duration
	Concurrency int
	Registry    prometheus.Registerer
	Log         *slog.Logger
}

// Delegate talks to the other adapter.
type Delegate struct {
	cfg     Config
	client  *http.Client
	slots   chan struct{}
	breaker breaker
	metrics *metrics

	mu        sync.RWMutex
	resources map[string][]metav1.APIResource // by version, as last read
	lasting   map[string]error                // why a version could not be read last time; nil if it could
	changed   func()
}

// New returns a Delegate that sends nothing until it runs or has a request to pass on.
func New(cfg Config) (*Delegate, error) {
	transport, err := cfg.Authenticate(&http.Transport{
		TLSClientConfig: cfg.TLS, DisableCompression: true, // its answers are passed on unchanged
		// HTTP/1.1, with a connection for each concurrent request, so that one that hangs does not block others as it
		// might in HTTP/2.
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
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token must not go elsewhere
		},
		resources: map[string][]metav1.APIResource{}, lasting: map[string]error{}, changed: func() {},
	}
	for _, version := range Versions() {
		d.lasting[version] = errors.New("it has not been asked yet")
	}
	return d, nil
}

// Versions returns the versions of the API.
func Versions() []string { return []string{"v1beta1", "v1beta2"} }

// OnChange sets a function that is called when the list of metrics has changed. Call it
// before Run.
func (d *Delegate) OnChange(changed func()) { d.changed = changed }

// Run keeps the list of metrics up to date until ctx is done.
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

// Resources returns the other adapter's metrics in a version of the API, as they were last
// read. They stay while it does not answer, so that its outage does not change discovery.
func (d *Delegate) Resources(version string) []metav1.APIResource {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.resources[version]
}

// Answers returns nil if the other adapter listed its metrics in a version when it was last
// asked, otherwise why not.
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
			d.cfg.Log.Warn("The other adapter does not list its metrics; callguard's own metrics are still served", "service", d.cfg.Service, "version", version, "err", err)
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
		return nil, fmt.Errorf("its list of resources is not Kubernetes': %w", err)
	}
	resources := make([]metav1.APIResource, 0, len(list.APIResources))
	for _, r := range list.APIResources {
		resources = append(resources, metav1.APIResource{Name: r.Name, Namespaced: r.Namespaced, Kind: "MetricValueList", Verbs: metav1.Verbs{"get"}})
	}
	return resources, nil
}

// statusError is the error for an answer with another status than 200.
type statusError struct{ status int }

// Error implements error.
func (e *statusError) Error() string {
	return fmt.Sprintf("it answers %d %s", e.status, http.StatusText(e.status))
}

// answer is a complete answer of the other adapter.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// tooLarge is the error for an answer above the maximum size.
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
	defer func() { _ = resp.Body.Close() }() // it was read completely, or is not needed
	if resp.ContentLength > most {
		return nil, tooLarge{most}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil {
		// At the time limit the connection is closed, and a server that sees this may end its answer properly before
		// the connection is gone. Such an answer is incomplete, too.
		err = ctx.Err()
	}
	if err != nil {
		return nil, plain(err)
	}
	if int64(len(body)) > most {
		return nil, tooLarge{most}
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// plain removes the URL from an error: the caller knows it, and it would make every error
// different.
func plain(err error) error {
	if wrapped, is := errors.AsType[*url.Error](err); is {
		err = wrapped.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it is too slow: %w", err)
	}
	return err
}

// Handler passes on what own does not serve: reads of custom metrics that are not
// callguard's. ours recognizes callguard's by their path.
func (d *Delegate) Handler(own http.Handler, ours func(*request.RequestInfo) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, found := request.RequestInfoFrom(r.Context())
		switch {
		case !found, !info.IsResourceRequest, info.APIGroup != custom_metrics.GroupName, !slices.Contains(Versions(), info.APIVersion),
			r.Method != http.MethodGet, info.Verb != "get" && info.Verb != "list",
			path.Clean(r.URL.Path) != r.URL.Path, // rights were checked for this path, and the other adapter might interpret it differently
			ours(info):
			own.ServeHTTP(w, r)
		default:
			d.pass(w, r, schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion})
		}
	})
}

// pass passes back the other adapter's answer, or an error if there is none.
func (d *Delegate) pass(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion) {
	began := time.Now()
	a, outcome, err := d.forward(r)
	d.metrics.count(outcome, time.Since(began))
	if err != nil {
		// No Retry-After: see package metricsapi.
		unavailable := apierrors.NewServiceUnavailable(fmt.Sprintf("this metric is not callguard's, and adapter %s, which serves it, is not available: %v", d.cfg.Service, err))
		responsewriters.ErrorNegotiated(unavailable, apiserver.Codecs, gv, w, r)
		return
	}
	for _, key := range []string{"Content-Type", "Content-Encoding"} {
		if value := a.header.Get(key); value != "" {
			w.Header().Set(key, value)
		}
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client may be gone
}

// forward sends a request on to the other adapter.
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
