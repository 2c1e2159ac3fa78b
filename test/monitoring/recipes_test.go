// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/callguard/callguard/test/trial"
)

// recipes are the YAML documents of docs/keda.md.
func recipes(t *testing.T) (documents []string) {
	t.Helper()
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(read(t, "../../docs/keda.md")), -1) {
		documents = append(documents, strings.Split(block[1], "\n---\n")...)
	}
	return documents
}

// promqlTest is a query in a test for promtool.
type promqlTest struct {
	Expr    string   `json:"expr"`
	At      string   `json:"eval_time"`
	Samples []sample `json:"exp_samples"`
}

type sample struct {
	Labels string  `json:"labels"`
	Value  float64 `json:"value"`
}

// ask lets Prometheus answer queries about series. Their values have promtool's syntax: "stale" means absent from then on.
func ask(t *testing.T, name string, values map[string]string, questions ...promqlTest) {
	t.Helper()
	input := make([]inputSeries, 0, len(values))
	for s, v := range values {
		input = append(input, inputSeries{s, v})
	}
	play(t, t.TempDir(), name, promtoolTest{Name: name, Interval: every.String(), InputSeries: input, Questions: questions})
}

// TestKEDAsPrometheusTrigger: the query on the page returns the workload's calls, once, and nothing while they are unknown,
// which KEDA is told to treat as missing.
func TestKEDAsPrometheusTrigger(t *testing.T) {
	var found []map[string]string
	for _, text := range recipes(t) {
		var object struct {
			Kind string
			Spec struct {
				MinReplicaCount int
				Fallback        struct{ Replicas int }
				Triggers        []struct {
					Type     string
					Metadata map[string]string
				}
			}
		}
		trial.Must(t, yaml.Unmarshal([]byte(text), &object))
		if object.Kind != "ScaledObject" {
			continue
		}
		if object.Spec.Fallback.Replicas < 1 {
			t.Errorf("a ScaledObject has a fallback of %d replicas, so KEDA treats an error as idle", object.Spec.Fallback.Replicas)
		}
		for _, trigger := range object.Spec.Triggers {
			if trigger.Type == "prometheus" {
				found = append(found, trigger.Metadata)
				if object.Spec.MinReplicaCount < 1 {
					t.Error("it scales to zero by what Prometheus does not know")
				}
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("docs/keda.md has %d triggers of type prometheus, want one", len(found))
	}
	if found[0]["ignoreNullValues"] != "false" {
		t.Errorf("KEDA treats a missing metric as zero: %v", found[0])
	}
	query := found[0]["query"]
	series := func(replica, namespace, workload string) string {
		return `callguard_active_calls{instance="` + replica + `", namespace="` + namespace + `", workload="` + workload + `"}`
	}
	ask(t, "trigger", map[string]string{
		series("a", "voice", "Deployment/agent"):  "7x10 stale",
		series("b", "voice", "Deployment/agent"):  "7x20 stale",
		series("a", "other", "Deployment/agent"):  "50x60",
		series("a", "voice", "StatefulSet/agent"): "60x60",
	},
		promqlTest{query, "1m", []sample{{"{}", 7}}},                    // both replicas know the calls
		promqlTest{query, "4m", []sample{{"{}", 7}}},                    // one knows them
		promqlTest{query, "10m", nil},                                   // none knows them
		promqlTest{query + " or vector(0)", "10m", []sample{{"{}", 0}}}, // KEDA's default result
	)
}

// TestPrometheusAdaptersRule: with the query on the page, in the form that prometheus-adapter sends, each pod has its calls.
func TestPrometheusAdaptersRule(t *testing.T) {
	type rule struct{ SeriesQuery, MetricsQuery string }
	var found []rule
	for _, text := range recipes(t) {
		var values struct{ Rules any }
		trial.Must(t, yaml.Unmarshal([]byte(text), &values))
		if _, is := values.Rules.(map[string]any); !is {
			continue
		}
		var adapter struct{ Rules struct{ Custom []rule } }
		trial.Must(t, yaml.Unmarshal([]byte(text), &adapter))
		found = append(found, adapter.Rules.Custom...)
	}
	if len(found) != 1 {
		t.Fatalf("docs/keda.md has %d rules for prometheus-adapter, want one", len(found))
	}
	// As pkg/naming/metrics_query.go of kubernetes-sigs/prometheus-adapter does for pods a and b.
	query := strings.NewReplacer(
		"<<.Series>>", "callguard_gate_calls", "<<.LabelMatchers>>", `namespace="voice",pod=~"a|b"`, "<<.GroupBy>>", "pod").Replace(found[0].MetricsQuery)
	values := map[string]string{
		`callguard_gate_calls{namespace="voice", pod="a", phase="running"}`:  "2x60",
		`callguard_gate_calls{namespace="voice", pod="a", phase="accepted"}`: "1x60",
		`callguard_gate_calls{namespace="voice", pod="b", phase="running"}`:  "0x10 stale",
		`callguard_gate_calls{namespace="other", pod="a", phase="running"}`:  "9x60",
		`callguard_gate_calls{phase="running"}`:                              "1x60", // without a pod
	}
	ask(t, "rule", values,
		promqlTest{query, "1m", []sample{{`{pod="a"}`, 3}, {`{pod="b"}`, 0}}},
		promqlTest{query, "10m", []sample{{`{pod="a"}`, 3}}},
		promqlTest{"count(" + found[0].SeriesQuery + ")", "1m", []sample{{"{}", 4}}},
	)
}
