// SPDX-License-Identifier: Apache-2.0

// Package monitoring checks that the alerts and the dashboard use metrics that the
// programs have, and that each alert fires when it should and points to its runbook. It
// runs none of callguard's programs, and of Prometheus only promtool.
package monitoring

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/claim"
	"github.com/callguard/callguard/pkg/delegate"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/keda"
	"github.com/callguard/callguard/pkg/metricsapi"
	"github.com/callguard/callguard/pkg/redispatch"
	"github.com/callguard/callguard/pkg/replicas"
	"github.com/callguard/callguard/pkg/servingcert"
	"github.com/callguard/callguard/pkg/witness"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/pkg/witness/poll"
	"github.com/callguard/callguard/pkg/witness/rooms"
	"github.com/callguard/callguard/pkg/witness/worker"
)

// names is a registry that only records which metrics exist.
type names map[string]described

// described is the description of a metric.
type described struct {
	help   string
	labels []string
}

var description = regexp.MustCompile(`fqName: "(\w+)", help: ("(?:[^"\\]|\\.)*").*variableLabels: \{(.*)\}\}`)

func (n names) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		ch := make(chan *prometheus.Desc)
		go func() {
			defer close(ch)
			c.Describe(ch)
		}()
		for d := range ch {
			m := description.FindStringSubmatch(d.String())
			if m == nil {
				panic("a metric describes itself in another way: " + d.String())
			}
			help, err := strconv.Unquote(m[2])
			if err != nil {
				panic("a metric's help is no text: " + d.String())
			}
			n[m[1]] = described{help, strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' })}
		}
	}
}

func (n names) Register(c prometheus.Collector) error { n.MustRegister(c); return nil }
func (n names) Unregister(prometheus.Collector) bool  { return false }

// registered returns the metrics of the metrics-adapter and the drain-guard.
func registered(t *testing.T) names {
	t.Helper()
	n := names{}
	client := fake.NewClientset()
	recorder := record.NewFakeRecorder(1)
	rooms.NewMetrics(n)
	worker.NewReader(poll.Config{Registry: n})
	gate.NewReader(poll.Config{Registry: n})
	n.MustRegister(metricsapi.New(nil, nil, nil, time.Now).Collector())
	n.MustRegister(witness.NewCollector(nil, func() []*call.Pod { return nil }, time.Now))
	keeper, err := servingcert.New(servingcert.Config{
		Service: types.NamespacedName{Namespace: "callguard-system", Name: "metrics-adapter"}, Lifetime: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.MustRegister(keeper.Collector())
	claim.New(claim.Config{Registry: n})
	if _, err := replicas.New(replicas.Config{Registry: n}); err != nil {
		t.Fatal(err)
	}
	if _, err := keda.New(keda.Config{Registry: n}); err != nil {
		t.Fatal(err)
	}
	if _, err := redispatch.New(redispatch.Config{Registry: n}); err != nil {
		t.Fatal(err)
	}
	if _, err := delegate.New(delegate.Config{Registry: n, Authenticate: func(base http.RoundTripper) (http.RoundTripper, error) { return base, nil }}); err != nil {
		t.Fatal(err)
	}
	doors, err := admission.New(admission.Config{Client: client, Values: manifests.DefaultValues(), Recorder: recorder, Registry: n, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guard.New(guard.Config{Client: client, Doors: doors, Recorder: recorder, Registry: n, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	guard.CountWrites(n)
	guard.ShowUnlocked(n, func() bool { return false })
	return n
}

// asked returns every expression of the alerts and of the dashboard, with its place.
func asked(t *testing.T) map[string]string {
	t.Helper()
	exprs := map[string]string{}
	for name, a := range alerts(t) {
		exprs[name] = a.Expr
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(read(t, "../../charts/callguard/dashboards/callguard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			exprs[p.Title+" "+target.RefID] = target.Expr
		}
	}
	return exprs
}

// ruleFiles are the manifests of alerts.
func ruleFiles() []string { return []string{"drain-guard-rules.yaml", "metrics-adapter-rules.yaml"} }

// document is the one object of a manifest.
func document(t *testing.T, file string) []byte {
	t.Helper()
	text := read(t, "../../manifests/"+file)
	return text[strings.Index(string(text), "\n---\n"):]
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	metric   = regexp.MustCompile(`(callguard_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=|!=|=~|!~)"`)
	grouping = regexp.MustCompile(`by \(([\w, ]+)\) \((?:rate\(|increase\()?(callguard_\w+)`)
	suffix   = regexp.MustCompile(`_(bucket|sum|count)$`)
)

func TestNames(t *testing.T) {
	known := registered(t)
	exprs := asked(t)
	if len(exprs) < 30 {
		t.Fatalf("only %d expressions were found", len(exprs))
	}
	has := func(where, name string, wanted ...string) {
		is, ok := known[name]
		labels := is.labels
		if !ok {
			name = suffix.ReplaceAllString(name, "")
			is, ok = known[name]
			labels = append(slices.Clone(is.labels), "le")
		}
		if !ok {
			t.Errorf("%s: there is no metric %s", where, name)
		}
		for _, label := range wanted {
			if ok && !slices.Contains(labels, label) {
				t.Errorf("%s: %s has no label %s; it has %v", where, name, label, labels)
			}
		}
	}
	for where, expr := range exprs {
		for _, m := range metric.FindAllStringSubmatch(expr, -1) {
			has(where, m[1])
			for _, label := range matcher.FindAllStringSubmatch(m[2], -1) {
				has(where, m[1], label[1])
			}
		}
		for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
			has(where, m[2], strings.Split(strings.ReplaceAll(m[1], " ", ""), ",")...)
		}
	}
}
