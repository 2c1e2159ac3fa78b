// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/witness"
	"github.com/callguard/callguard/test/trial"
)

// everySync is how often kube-controller-manager syncs each HorizontalPodAutoscaler.
const everySync = 15 * time.Second

// served serves p with all handlers of an API server, to the autoscalers' controller: the
// user is authenticated, and authorized as in the adapter.
func served(t testing.TB, p *Provider) (http.Handler, *reviews) {
	t.Helper()
	klog.SetLogger(logr.Discard()) // its lines would break up those of a benchmark
	t.Cleanup(klog.ClearLogger)
	asked := &reviews{answers: func(authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) { return true, false, nil }}
	generic := &genericapiserver.NewRecommendedConfig(apiserver.Codecs).Config
	generic.ExternalAddress, generic.LoopbackClientConfig = "in.memory:443", &rest.Config{}
	generic.MaxRequestsInFlight = 32 // as in the adapter
	generic.Authorization.Authorizer = asked.authorizer(t)
	controller := &user.DefaultInfo{Name: "system:serviceaccount:kube-system:horizontal-pod-autoscaler", Groups: []string{"system:serviceaccounts", user.AllAuthenticated}}
	generic.Authentication.Authenticator = authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: controller}, true, nil
	})
	config := apiserver.Config{GenericConfig: generic}
	server, err := config.Complete(nil).New("metrics-adapter", nil, nil)
	trial.Must(t, err)
	_, err = Install(server.GenericAPIServer, p, NoOthers)
	trial.Must(t, err)
	return server.GenericAPIServer.Handler, asked
}

// reader reads an answer and records its size.
type reader struct {
	header http.Header
	status int
	bytes  int
}

func (r *reader) Header() http.Header         { return r.header }
func (r *reader) WriteHeader(status int)      { r.status = status }
func (r *reader) Write(b []byte) (int, error) { r.bytes += len(b); return len(b), nil }

// ask reads a metric of objects in namespace voice, such as pods/*, and returns the size of
// the answer.
func ask(t testing.TB, handler http.Handler, what string) int {
	path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/voice/" + what + "/" + ActiveCalls
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	trial.Must(t, err)
	req.RequestURI, req.RemoteAddr, req.Host = path, "192.0.2.1:1234", "in.memory" // as in a server
	req.Header.Set("Accept", runtime.ContentTypeJSON)
	answer := &reader{header: http.Header{}}
	handler.ServeHTTP(answer, req)
	if answer.status != http.StatusOK {
		t.Fatalf("%s answers %d", path, answer.status)
	}
	return answer.bytes
}

// workloads is a Provider of this many Deployments of five pods each.
func workloads(n int) *Provider {
	store := pods.NewStore()
	store.SetObject(&pods.Object{Kind: pods.Namespace, NamespacedName: types.NamespacedName{Name: "voice"}})
	w := known{calls: map[string]int{}}
	for i := range 5 * n {
		name := fmt.Sprintf("agent-%05d", i)
		w.calls[name] = i % 3
		store.SetPod(&call.Pod{
			NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}, UID: types.UID(name),
			Owner: call.Owner{Kind: pods.Deployment, Name: fmt.Sprint("web-", i/5)}, State: call.Serving, Running: true, Witnesses: call.DefaultWitnesses(),
		})
	}
	return New(store, witness.New(w, w, w, func(*call.Pod) {}), NewLengths(store), noon)
}

// BenchmarkServedRead is an autoscaler's read of a Deployment of five pods, among this many
// pods in its namespace, through an API server's handlers.
func BenchmarkServedRead(b *testing.B) {
	for _, n := range []int{500, 2_000, 5_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			handler, _ := served(b, among(n-5))
			b.ReportAllocs()
			report := trial.CPU(b)
			for b.Loop() {
				ask(b, handler, "deployments.apps/web")
			}
			report()
		})
	}
}

// BenchmarkAutoscalers is one round of this many HorizontalPodAutoscalers, each of a
// Deployment of five pods. It reports how many processors that keeps busy, with a round
// every 15 seconds.
func BenchmarkAutoscalers(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 4_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			handler, _ := served(b, workloads(n))
			report := trial.CPU(b)
			for b.Loop() {
				for i := range n {
					ask(b, handler, fmt.Sprint("deployments.apps/web-", i))
				}
			}
			b.ReportMetric(report().Seconds()/everySync.Seconds(), "cores")
		})
	}
}

// BenchmarkServedList is a list of this many pods, as JSON, through an API server's
// handlers.
func BenchmarkServedList(b *testing.B) {
	for _, n := range []int{100, 1_000, 5_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			handler, _ := served(b, among(n-5))
			b.ReportAllocs()
			b.SetBytes(int64(ask(b, handler, "pods/*")))
			report := trial.CPU(b)
			for b.Loop() {
				ask(b, handler, "pods/*")
			}
			report()
		})
	}
}

// TestServedReadIsOneQuestion reads many Deployments through an API server's handlers: all
// reads together cause one question about the controller's rights.
func TestServedReadIsOneQuestion(t *testing.T) {
	const n = 400
	handler, asked := served(t, workloads(n))
	for i := range n {
		ask(t, handler, fmt.Sprint("deployments.apps/web-", i))
	}
	if len(asked.asked) != 1 {
		t.Errorf("of %d reads %d were asked about: %q", n, len(asked.asked), asked.asked)
	}
}

// TestServedReadCostsItsWorkload: the cost of a read in an API server does not grow with
// its namespace. It counts allocations.
func TestServedReadCostsItsWorkload(t *testing.T) {
	cost := func(pods int) float64 {
		handler, _ := served(t, among(pods-5))
		return testing.AllocsPerRun(100, func() { ask(t, handler, "deployments.apps/web") })
	}
	few, many := cost(500), cost(20_000)
	t.Logf("a read allocates %.0f times among 500 pods, and %.0f times among 20,000", few, many)
	if many > 1.1*few {
		t.Errorf("a read allocates %.0f times among 500 pods, and %.0f times among 20,000", few, many)
	}
}

// TestListCostsItsEncoding: collecting what is known about 5,000 pods and encoding it, in
// any way, takes at most half as long again as the library takes to encode it as JSON.
func TestListCostsItsEncoding(t *testing.T) {
	const rounds = 10
	p := among(4_995)
	find := func() *custom_metrics.MetricValueList {
		found, err := p.GetMetricBySelector(t.Context(), "voice", labels.Everything(), info("pods", ActiveCalls), labels.Everything())
		trial.Must(t, err)
		return found
	}
	cost := func(mediaType string, object func() runtime.Object) time.Duration {
		media, _ := runtime.SerializerInfoForMediaType(apiserver.Codecs.SupportedMediaTypes(), mediaType)
		encoder := apiserver.Codecs.EncoderForVersion(media.Serializer, v1beta2.SchemeGroupVersion)
		return trial.Spent(t, func() {
			for range rounds {
				trial.Must(t, encoder.Encode(object(), &reader{}))
			}
		}) / rounds
	}
	list, itself := find(), func() runtime.Object { return encoded{find(), jsonIdentifier(), &sync.Pool{}} }
	cost(runtime.ContentTypeJSON, itself)
	alone := cost(runtime.ContentTypeJSON, func() runtime.Object { return list })
	for _, mediaType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		whole := cost(mediaType, itself)
		t.Logf("the library encodes a list as JSON in %s of a processor's time; to find and encode it as %s takes %s", alone, mediaType, whole)
		if whole > alone*3/2 {
			t.Errorf("to find and encode a list as %s takes %s of a processor's time, and the library takes %s to encode it as JSON", mediaType, whole, alone)
		}
	}
}

// TestListAllocatesLittle: a list takes memory in large pieces, not for each pod.
func TestListAllocatesLittle(t *testing.T) {
	media, _ := runtime.SerializerInfoForMediaType(apiserver.Codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	encoder := apiserver.Codecs.EncoderForVersion(media.Serializer, v1beta2.SchemeGroupVersion)
	p := among(4_995)
	times := testing.AllocsPerRun(20, func() {
		found, err := p.GetMetricBySelector(t.Context(), "voice", labels.Everything(), info("pods", ActiveCalls), labels.Everything())
		trial.Must(t, err)
		trial.Must(t, encoder.Encode(encoded{found, jsonIdentifier(), &sync.Pool{}}, &reader{}))
	})
	t.Logf("a list of 5,000 pods allocates %.0f times", times)
	if times > 500 {
		t.Errorf("a list of 5,000 pods allocates %.0f times; want a tenth of its pods at most", times)
	}
}
