// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/callguard/callguard/pkg/call"
)

// metrics count what the guard does.
type metrics struct {
	releases    *prometheus.CounterVec
	forced      prometheus.Counter
	refused     *prometheus.CounterVec
	whileLocked prometheus.Counter
	held        *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		releases: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Name: "releases_total",
			Help: "Pods released, by intent.",
		}, []string{"intent"}),
		forced: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "callguard", Name: "forced_releases_total",
			Help: "Pods released although they may have held calls: a deadline had passed.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Name: "refused_deletes_seen_total",
			Help: "Attempts to delete locked pods that left a trace, by who tried (controller, scheduler, taint, other).",
		}, []string{"by"}),
		whileLocked: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "callguard", Name: "deletions_while_locked_total",
			Help: "Locked pods with a running container that were deleted despite the admission policies: by break-glass, or because their node was gone.",
		}),
		held: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "callguard", Name: "drain_duration_seconds",
			Help:    "How long released pods had accepted no new calls, by intent.",
			Buckets: []float64{1, 5, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14400},
		}, []string{"intent"}),
	}
	reg.MustRegister(m.releases, m.forced, m.refused, m.whileLocked, m.held)
	for _, intent := range call.Intents() {
		m.releases.WithLabelValues(string(intent))
	}
	for _, who := range []string{"controller", "scheduler", "taint", "other"} {
		m.refused.WithLabelValues(who)
	}
	return m
}

// podCollector exports the guarded pods and why they are held, at each scrape.
type podCollector struct {
	cluster *cluster
	budgets *budgets
	report  *report
	now     func() time.Time
}

func (*podCollector) pods() *prometheus.Desc {
	return prometheus.NewDesc("callguard_guarded_pods",
		"Guarded pods of enabled namespaces, by workload and state (serving, aside, draining, released).",
		[]string{"namespace", "workload", "state"}, nil)
}

func (*podCollector) holds() *prometheus.Desc {
	return prometheus.NewDesc("callguard_holds",
		"Pods that should leave and are held, by rule.", []string{"rule"}, nil)
}

func (*podCollector) seconds() *prometheus.Desc {
	return prometheus.NewDesc("callguard_hold_seconds",
		"How long a pod that should leave has been held, by the rule that holds it.", []string{"namespace", "pod", "rule"}, nil)
}

func (*podCollector) unread() *prometheus.Desc {
	return prometheus.NewDesc("callguard_order_unread_seconds",
		"How long the call-gate of a pod that is to take no more calls has answered without knowing it: calls may still come to the pod.", []string{"namespace", "pod"}, nil)
}

func (*podCollector) foreign() *prometheus.Desc {
	return prometheus.NewDesc("callguard_foreign_budgets",
		"PodDisruptionBudgets other than callguard's that match guarded pods: evictions of those pods fail.", []string{"namespace"}, nil)
}

func (*podCollector) locked() *prometheus.Desc {
	return prometheus.NewDesc("callguard_budget_in_force",
		"1 while PodDisruptionBudget callguard locks the guarded pods of the namespace, else 0: none of them is released then.", []string{"namespace"}, nil)
}

func (*podCollector) ownerless() *prometheus.Desc {
	return prometheus.NewDesc("callguard_budget_owner_missing",
		"1 while ClusterRole callguard-budget-owner is missing: existing budgets stay in effect, and none can be created.", nil, nil)
}

// Describe implements prometheus.Collector.
func (c *podCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.pods()
	ch <- c.holds()
	ch <- c.seconds()
	ch <- c.unread()
	ch <- c.foreign()
	ch <- c.locked()
	ch <- c.ownerless()
}

// Collect implements prometheus.Collector.
func (c *podCollector) Collect(ch chan<- prometheus.Metric) {
	type group struct {
		namespace, workload string
		state               call.State
	}
	groups := map[group]int{}
	namespaces := map[string]bool{}
	list, err := c.cluster.pods.List(labels.Everything())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.pods(), err)
		return
	}
	for _, pod := range list {
		if !c.cluster.enabled(pod.Namespace) {
			continue
		}
		namespaces[pod.Namespace] = true
		key := c.cluster.top(pod)
		groups[group{pod.Namespace, key.Kind + "/" + key.Name, call.StateOf(pod.Labels, pod.Annotations)}]++
	}
	for g, n := range groups {
		ch <- prometheus.MustNewConstMetric(c.pods(), prometheus.GaugeValue, float64(n), g.namespace, g.workload, string(g.state))
	}
	for namespace := range namespaces {
		ch <- prometheus.MustNewConstMetric(c.locked(), prometheus.GaugeValue, gauge(c.budgets.inForce(namespace) == nil), namespace)
	}
	if c.cluster.ownerSynced() {
		_, err := c.cluster.budgetOwners.Get(BudgetOwner)
		ch <- prometheus.MustNewConstMetric(c.ownerless(), prometheus.GaugeValue, gauge(err != nil))
	}
	holds := map[string]int{}
	for _, h := range c.report.holding() {
		holds[h.rule]++
		ch <- prometheus.MustNewConstMetric(c.seconds(), prometheus.GaugeValue, c.now().Sub(h.since).Seconds(), h.pod.Namespace, h.pod.Name, h.rule)
		if !h.unread.IsZero() {
			ch <- prometheus.MustNewConstMetric(c.unread(), prometheus.GaugeValue, c.now().Sub(h.unread).Seconds(), h.pod.Namespace, h.pod.Name)
		}
	}
	for rule, n := range holds {
		ch <- prometheus.MustNewConstMetric(c.holds(), prometheus.GaugeValue, float64(n), rule)
	}
	for namespace, n := range c.budgets.foreignBudgets() {
		ch <- prometheus.MustNewConstMetric(c.foreign(), prometheus.GaugeValue, float64(n), namespace)
	}
}

// ShowUnlocked registers a gauge that is 1 while callguard is unlocked.
func ShowUnlocked(reg prometheus.Registerer, unlocked func() bool) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "callguard", Name: "unlocked",
		Help: "1 after 'drain-guard unlock', until a drain-guard starts: none leads, and pods of that time are not protected.",
	}, func() float64 { return gauge(unlocked()) }))
}

func gauge(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// CountWrites wraps a client's transport and counts all its writes to the Kubernetes API,
// including Events and the election's lease.
func CountWrites(reg prometheus.Registerer) func(http.RoundTripper) http.RoundTripper {
	writes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "callguard", Name: "api_writes_total",
		Help: "Writes to the Kubernetes API, by resource, verb and outcome (ok, conflict, error).",
	}, []string{"resource", "verb", "outcome"})
	reg.MustRegister(writes)
	return func(next http.RoundTripper) http.RoundTripper {
		return &writeCounter{
			next: next, writes: writes,
			paths: request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
		}
	}
}

type writeCounter struct {
	next   http.RoundTripper
	writes *prometheus.CounterVec
	paths  request.RequestInfoFactory
}

// RoundTrip implements http.RoundTripper.
func (c *writeCounter) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(req)
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		return answer, err
	}
	info, pathErr := c.paths.NewRequestInfo(req)
	if pathErr != nil || !info.IsResourceRequest || info.Resource == "selfsubjectreviews" || dryRun(req) {
		return answer, err // a dry run, which changes nothing
	}
	outcome := "ok"
	switch {
	case err != nil || answer.StatusCode >= http.StatusBadRequest && answer.StatusCode != http.StatusConflict:
		outcome = "error"
	case answer.StatusCode == http.StatusConflict:
		outcome = "conflict"
	}
	c.writes.WithLabelValues(info.Resource, info.Verb, outcome).Inc()
	return answer, err
}

// dryRun reports whether a request changes nothing. A deletion has that in its body, all
// others in their query.
func dryRun(req *http.Request) bool {
	if req.URL.Query().Has("dryRun") {
		return true
	}
	if req.Method != http.MethodDelete || req.GetBody == nil {
		return false
	}
	body, err := req.GetBody()
	if err != nil {
		return false
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return false
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil)
	options, ok := object.(*metav1.DeleteOptions)
	return err == nil && ok && len(options.DryRun) > 0
}
