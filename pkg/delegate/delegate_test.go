// SPDX-License-Identifier: Apache-2.0

package delegate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
)

const theirMetric = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/pods/*/http_requests"

// other is another adapter: a real server with TLS.
type other struct {
	*httptest.Server

	answer atomic.Pointer[http.HandlerFunc] // to everything except discovery
	lists  atomic.Pointer[http.HandlerFunc] // discovery
	asked  atomic.Int64
}

func newOther(t *testing.T) *other {
	t.Helper()
	o := &other{}
	o.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"items":[]}`) })
	o.list(0)
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Count(r.URL.Path, "/") == 3 {
			(*o.lists.Load())(w, r)
			return
		}
		o.asked.Add(1)
		(*o.answer.Load())(w, r)
	}))
	o.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // for handshakes that should fail
	o.StartTLS()
	t.Cleanup(o.Close)
	return o
}

func (o *other) answers(h http.HandlerFunc) { o.answer.Store(&h) }

// list makes discovery list n metrics of pods.
func (o *other) list(n int) {
	list := metav1.APIResourceList{}
	for i := range n {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: fmt.Sprintf("pods/metric_%d", i), Namespaced: true})
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(list) })
	o.lists.Store(&h)
}

func (o *other) silent() {
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	o.answer.Store(&h)
	o.lists.Store(&h)
}

// trusting configures trust in the other adapter's certificate.
func (o *other) trusting() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(o.Certificate())
	return &tls.Config{RootCAs: pool, ServerName: "example.com", MinVersion: tls.VersionTLS12}
}

type stage struct {
	*Delegate

	registry *prometheus.Registry
	handler  http.Handler
}

func newStage(t *testing.T, o *other, change func(*Config)) *stage {
	t.Helper()
	registry := prometheus.NewRegistry()
	cfg := Config{
		Service: "monitoring/other", Address: strings.TrimPrefix(o.URL, "https://"), TLS: o.trusting(),
		Authenticate: func(base http.RoundTripper) (http.RoundTripper, error) {
			return rest.HTTPWrappersForConfig(&rest.Config{BearerToken: "ours"}, base)
		},
		Timeout: 10 * time.Second, Concurrency: 4, Registry: registry, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	own := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ours") })
	h := d.Handler(own, func(r *request.RequestInfo) bool { return r.Subresource == "active_calls" })
	infos := request.RequestInfoFactory{APIPrefixes: sets.NewString("apis")}
	return &stage{d, registry, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := infos.NewRequestInfo(r)
		if err != nil {
			t.Error(err)
		}
		h.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	})}
}

// get sends a request as kube-apiserver does, for a user that it has authenticated.
func (s *stage) get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer caller")
	r.Header.Set("X-Remote-User", "admin")
	r.Header.Set("Impersonate-User", "admin")
	r.Header.Set("Cookie", "a=b")
	r.Header.Set("Accept", "application/vnd.kubernetes.protobuf, application/json")
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func TestPassedOn(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	var seen *http.Request
	o.answers(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		w.Header().Set("Content-Type", "application/x-theirs")
		w.Header().Set("Retry-After", "30")
		w.Header().Set("Set-Cookie", "a=b")
		_, _ = io.WriteString(w, "theirs")
	})
	s := newStage(t, o, nil)
	w := s.get(t, theirMetric+"?labelSelector=app%3Dshop&metricLabelSelector=verb%3DGET")
	if w.Code != http.StatusOK || w.Body.String() != "theirs" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got := w.Header(); got.Get("Content-Type") != "application/x-theirs" || got.Get("Retry-After") != "" || got.Get("Set-Cookie") != "" {
		t.Errorf("answered with header %v", got)
	}
	if got, want := seen.URL.RequestURI(), theirMetric+"?labelSelector=app%3Dshop&metricLabelSelector=verb%3DGET"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	if got := seen.Header.Get("Authorization"); got != "Bearer ours" {
		t.Errorf("asked with %q, want our own token", got)
	}
	for _, key := range []string{"X-Remote-User", "Impersonate-User", "Cookie"} {
		if got := seen.Header.Get(key); got != "" {
			t.Errorf("asked with %s %q: want our own name only", key, got)
		}
	}
	if got := seen.Header.Get("Accept"); !strings.Contains(got, "protobuf") {
		t.Errorf("asked to accept %q, want what the caller accepts", got)
	}
}

func TestOursStaysOurs(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	s := newStage(t, o, nil)
	for reason, path := range map[string]string{
		"It is our metric.":                           "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/pods/*/active_calls",
		"It is discovery.":                            "/apis/custom.metrics.k8s.io/v1beta2",
		"It is another group.":                        "/apis/apps/v1/namespaces/shop/deployments/x/http_requests",
		"It is no version of the API.":                "/apis/custom.metrics.k8s.io/v2/namespaces/shop/pods/*/http_requests",
		"It is no resource.":                          "/metrics",
		"The other might read it as another's pods.":  "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/../secret/pods/*/http_requests",
		"The other might read it as another's pods, ": "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/%2e%2e/secret/pods/*/http_requests",
	} {
		if w := s.get(t, path); w.Body.String() != "ours" {
			t.Errorf("%s: %d %s. %s", path, w.Code, w.Body, reason)
		}
	}
	if n := o.asked.Load(); n != 0 {
		t.Errorf("the other adapter was asked %d times", n)
	}
}

func TestWhatItAnswersAndWhatItDoesNot(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), maxAnswer+1)
	for name, tc := range map[string]struct {
		reason  string
		answer  http.HandlerFunc
		change  func(*other, *Config)
		status  int
		want    string // in the answer
		outcome outcome
	}{
		"NotFound": {
			reason: "Its own errors go back as they are.",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "there is no such metric", http.StatusNotFound)
			},
			status: http.StatusNotFound, want: "there is no such metric", outcome: denied,
		},
		"Forbidden": {
			reason: "A refusal of callguard's account names the missing right.",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "metrics-adapter cannot get pods/x", http.StatusForbidden)
			},
			status: http.StatusForbidden, want: "metrics-adapter cannot get pods/x", outcome: denied,
		},
		"Failing": {
			reason: "Its own 503 is its own.",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "no Prometheus", http.StatusServiceUnavailable)
			},
			status: http.StatusServiceUnavailable, want: "no Prometheus", outcome: denied,
		},
		"TokenRefused": {
			reason: "A 401 would make the caller believe that their own credentials are wrong.",
			answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
			status: http.StatusServiceUnavailable, want: "adapter monitoring/other, which serves it, is not available: it does not take the token", outcome: failed,
		},
		"Redirect": {
			reason: "The token is only for the other adapter.",
			answer: func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://evil.example.org", http.StatusFound)
			},
			status: http.StatusServiceUnavailable, want: "it answers 302 Found", outcome: failed,
		},
		"Slow": {
			reason: "Its slowness is bounded.",
			answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			change: func(_ *other, c *Config) { c.Timeout = 100 * time.Millisecond },
			status: http.StatusServiceUnavailable, want: "it is too slow", outcome: failed,
		},
		"SlowBody": {
			reason: "Its slowness is bounded to the last byte.",
			answer: func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "begun")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			},
			change: func(_ *other, c *Config) { c.Timeout = 100 * time.Millisecond },
			status: http.StatusServiceUnavailable, want: "it is too slow", outcome: failed,
		},
		"Large": {
			reason: "The size of its answers is limited.",
			answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(large) },
			status: http.StatusServiceUnavailable, want: "larger than 4 MiB", outcome: failed,
		},
		"LargeByItsHead": {
			reason: "An answer that declares itself too large is not read.",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(large)))
				_, _ = w.Write(large)
			},
			status: http.StatusServiceUnavailable, want: "larger than 4 MiB", outcome: failed,
		},
		"CutOff": {
			reason: "Half an answer is none.",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, "half")
			},
			status: http.StatusServiceUnavailable, want: "unexpected EOF", outcome: failed,
		},
		"Down": {
			reason: "An outage names the adapter that is down.",
			change: func(o *other, _ *Config) { o.Close() },
			status: http.StatusServiceUnavailable, want: "adapter monitoring/other, which serves it, is not available: dial tcp", outcome: failed,
		},
		"WrongAuthority": {
			reason: "Whoever answers in its place gets no token.",
			change: func(_ *other, c *Config) { c.TLS.RootCAs = x509.NewCertPool() },
			status: http.StatusServiceUnavailable, want: "certificate signed by unknown authority", outcome: failed,
		},
		"WrongName": {
			reason: "A certificate of another server is not its.",
			change: func(_ *other, c *Config) { c.TLS.ServerName = "other.monitoring.svc" },
			status: http.StatusServiceUnavailable, want: "not other.monitoring.svc", outcome: failed,
		},
		"Insecure": {
			reason: "If a value says so, its certificate is not verified.",
			change: func(_ *other, c *Config) { c.TLS = &tls.Config{InsecureSkipVerify: true} }, //nolint:gosec // it is what is tested
			status: http.StatusOK, want: "items", outcome: answered,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOther(t)
			if tc.answer != nil {
				o.answers(tc.answer)
			}
			s := newStage(t, o, func(c *Config) {
				if tc.change != nil {
					tc.change(o, c)
				}
			})
			w := s.get(t, theirMetric)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
				t.Errorf("%d %.300s; want %d with %q. %s", w.Code, w.Body, tc.status, tc.want, tc.reason)
			}
			if w.Header().Get("Retry-After") != "" {
				t.Error("a Retry-After would have autoscalers sleep")
			}
			if got := s.counted(t)[string(tc.outcome)]; got != 1 {
				t.Errorf("counted %v; want one %s", s.counted(t), tc.outcome)
			}
		})
	}
}

// counted returns how many requests ended in each way.
func (s *stage) counted(t *testing.T) map[string]uint64 {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetHistogram() != nil && m.GetHistogram().GetSampleCount() > 0 {
				counts[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	return counts
}

// TestOneThatHangsCostsNobody sends more requests than allowed: surplus ones are refused at
// once, and our own metrics are served as usual.
func TestOneThatHangsCostsNobody(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	o.silent()
	s := newStage(t, o, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hung := make(chan struct{}, 4)
	for range 4 {
		go func() {
			s.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, theirMetric, nil))
			hung <- struct{}{}
		}()
	}
	for deadline := time.Now().Add(10 * time.Second); o.asked.Load() < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the requests never reached the other adapter")
		}
	}
	began := time.Now()
	if w := s.get(t, theirMetric); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "4 requests to it are under way") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := s.get(t, "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop/pods/*/active_calls"); w.Body.String() != "ours" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("both answers took %s", took)
	}
	cancel()
	for range 4 {
		<-hung
	}
	if got := s.counted(t); got["gone"] != 4 {
		t.Errorf("counted %v; want 4 that did not wait", got)
	}
	o.answers(func(http.ResponseWriter, *http.Request) {})
	if w := s.get(t, theirMetric); w.Code != http.StatusOK {
		t.Errorf("after that: %d %s", w.Code, w.Body)
	}
}

// TestRefusedAtOnceWhileItIsOut makes it unavailable and available again.
func TestRefusedAtOnceWhileItIsOut(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	s := newStage(t, o, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	o.silent()
	for range tolerated {
		if w := s.get(t, theirMetric); !strings.Contains(w.Body.String(), "too slow") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	before := o.asked.Load()
	if w := s.get(t, theirMetric); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "it did not answer 3 times in a row: it is too slow") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.read(t.Context())
	if w := s.get(t, theirMetric); w.Code != http.StatusServiceUnavailable || o.asked.Load() != before {
		t.Errorf("while it lists nothing it is asked: %d %s", w.Code, w.Body)
	}
	o.list(1) // its metrics still hang, which one request finds out
	s.read(t.Context())
	for i, want := range []string{"it is too slow", "3 times in a row"} {
		if w := s.get(t, theirMetric); !strings.Contains(w.Body.String(), want) {
			t.Errorf("request %d: %d %s; want %q", i, w.Code, w.Body, want)
		}
	}
	o.answers(func(http.ResponseWriter, *http.Request) {})
	s.read(t.Context())
	for i := range 3 {
		if w := s.get(t, theirMetric); w.Code != http.StatusOK {
			t.Errorf("request %d after it is back: %d %s", i, w.Code, w.Body)
		}
	}
}

func TestItsMetricsAreListed(t *testing.T) {
	t.Parallel()
	o := newOther(t)
	o.list(300)
	s := newStage(t, o, nil)
	changes := 0
	s.OnChange(func() { changes++ })
	if err := s.Answers("v1beta1"); err == nil {
		t.Error("it answers before it was asked")
	}
	for range 2 {
		if !s.read(t.Context()) {
			t.Fatal("it does not answer")
		}
	}
	for _, version := range Versions() {
		if got := s.Resources(version); len(got) != 300 || s.Answers(version) != nil {
			t.Errorf("%s: %d metrics, %v; want 300", version, len(got), s.Answers(version))
		}
	}
	want := metav1.APIResource{Name: "pods/metric_7", Namespaced: true, Kind: "MetricValueList", Verbs: metav1.Verbs{"get"}}
	if diff := cmp.Diff(want, s.Resources("v1beta2")[7]); diff != "" {
		t.Errorf("a metric (-want +got):\n%s", diff)
	}
	if changes != 1 {
		t.Errorf("reported %d changes; want 1", changes)
	}
	o.Close()
	if s.read(t.Context()) || s.Answers("v1beta1") == nil {
		t.Error("it answers after its end")
	}
	if got := len(s.Resources("v1beta2")); got != 300 {
		t.Errorf("%d metrics after its end; its outage must not change discovery", got)
	}
}

func TestListsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		list    http.HandlerFunc
		answers bool
		want    string
	}{
		"NoSuchVersion": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, true, "it answers 404 Not Found"},
		"Rubbish":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, false, "its list of resources is not Kubernetes'"},
		"Huge": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte(" "), maxDiscovery+1))
		}, false, "larger than 8 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOther(t)
			o.lists.Store(&tc.list)
			s := newStage(t, o, nil)
			if got := s.read(t.Context()); got != tc.answers {
				t.Errorf("answers = %t, want %t", got, tc.answers)
			}
			if err := s.Answers("v1beta1"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
			if got := s.Resources("v1beta1"); len(got) != 0 {
				t.Errorf("lists %v", got)
			}
		})
	}
}
