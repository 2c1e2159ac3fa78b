// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/callguard/callguard/test/trial"
)

// promtool is Prometheus's own program for testing rules.
const promtool = "promtool"

// every is how often the rules are evaluated, and how often a series has a value.
const every = 15 * time.Second

// alert is one rule in Prometheus' format.
type alert struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type group struct {
	Name  string  `json:"name"`
	Rules []alert `json:"rules"`
}

// groups returns all alerts of the chart.
func groups(t *testing.T) []group {
	t.Helper()
	var all []group
	for _, file := range ruleFiles() {
		var rule struct{ Spec struct{ Groups []group } }
		trial.Must(t, yaml.Unmarshal(document(t, file), &rule))
		all = append(all, rule.Spec.Groups...)
	}
	return all
}

// alerts returns the same by name.
func alerts(t *testing.T) map[string]alert {
	t.Helper()
	byName := map[string]alert{}
	for _, g := range groups(t) {
		for _, a := range g.Rules {
			if _, twice := byName[a.Alert]; twice {
				t.Errorf("alert %s is there twice", a.Alert)
			}
			byName[a.Alert] = a
		}
	}
	return byName
}

// promtoolTest is one test for promtool.
type promtoolTest struct {
	Name        string          `json:"name"`
	Interval    string          `json:"interval"`
	InputSeries []inputSeries   `json:"input_series"`
	Alerts      []alertRuleTest `json:"alert_rule_test,omitempty"`
	Questions   []promqlTest    `json:"promql_expr_test,omitempty"`
}

type inputSeries struct {
	Series string `json:"series"`
	Values string `json:"values"`
}

type alertRuleTest struct {
	EvalTime  string     `json:"eval_time"`
	Alertname string     `json:"alertname"`
	Expected  []expected `json:"exp_alerts"`
}

type expected struct {
	Labels      map[string]string `json:"exp_labels"`
	Annotations map[string]string `json:"exp_annotations"`
}

// scene is what Prometheus reads, and the expected alert.
type scene struct {
	reason string
	// wrong are series, without their values, with which the alert fires; right are the same series when all is well. A value stays
	// the same for the whole time.
	wrong, right map[string]string
	// within is when the alert has fired; before is when it has not yet, and zero if it fires at once.
	before, within time.Duration
	// labels are the alert's labels other than severity.
	labels map[string]string
}

// scenes has one of every alert.
func scenes() map[string]scene {
	const held = `{namespace="voice", pod="agent-1", rule="%s"}`
	hold := func(rule string) string { return "callguard_hold_seconds" + fmt.Sprintf(held, rule) }
	pod := map[string]string{"namespace": "voice", "pod": "agent-1"}
	ruled := func(rule string) map[string]string {
		return map[string]string{"namespace": "voice", "pod": "agent-1", "rule": rule}
	}
	replicas := func(name string) string {
		return fmt.Sprintf(`kube_deployment_status_replicas_ready{namespace="callguard-system", deployment=%q}`, name)
	}
	deployment := func(name string) map[string]string {
		return map[string]string{"namespace": "callguard-system", "deployment": name}
	}
	one := func(series, value string) map[string]string { return map[string]string{series: value} }
	return map[string]scene{
		"CallguardNotReady": {
			reason: "No replica is ready for five minutes.",
			wrong:  one(replicas("drain-guard"), "0"), right: one(replicas("drain-guard"), "1"),
			before: 4 * time.Minute, within: 6 * time.Minute, labels: deployment("drain-guard"),
		},
		"CallguardMissing": {
			reason: "The Deployment is gone: there is no series at all, whatever else Prometheus reads.",
			wrong:  one("up", "1"), right: one(`callguard_policies_in_force{pod="drain-guard-1"}`, "1"),
			before: 9 * time.Minute, within: 11 * time.Minute,
		},
		"CallguardUnlocked": {
			reason: "One replica that has the information is enough.",
			wrong:  map[string]string{`callguard_unlocked{pod="a"}`: "1", `callguard_unlocked{pod="b"}`: "0"},
			right:  one(`callguard_unlocked{pod="a"}`, "0"), within: time.Minute,
		},
		"CallguardPoliciesNotInForce": {
			reason: "One replica that misses a policy is enough.",
			wrong:  map[string]string{`callguard_policies_in_force{pod="a"}`: "0", `callguard_policies_in_force{pod="b"}`: "1"},
			right:  one(`callguard_policies_in_force{pod="a"}`, "1"), within: 30 * time.Second,
		},
		"CallguardBudgetNotInForce": {
			reason: "Each namespace by itself.",
			wrong:  map[string]string{`callguard_budget_in_force{namespace="voice"}`: "0", `callguard_budget_in_force{namespace="other"}`: "1"},
			right:  one(`callguard_budget_in_force{namespace="voice"}`, "1"),
			within: time.Minute, labels: map[string]string{"namespace": "voice"},
		},
		"CallguardBudgetOwnerMissing": {
			reason: "The budget cannot be created.",
			wrong:  one("callguard_budget_owner_missing", "1"), right: one("callguard_budget_owner_missing", "0"),
			before: 30 * time.Second, within: 2 * time.Minute,
		},
		"CallguardCallsUnknown": {
			reason: "Unknown for a quarter of an hour.",
			wrong:  one(hold("unknown"), "901"), right: map[string]string{hold("unknown"): "900", hold("calls"): "901"},
			within: time.Minute, labels: ruled("unknown"),
		},
		"CallguardCallersUnanswered": {
			reason: "The latest success is older than the latest try, or there never was one; of two CronJobs one is well.",
			wrong: map[string]string{
				`kube_cronjob_status_last_schedule_time{namespace="voice", cronjob="voice-voice-agent-try"}`:   "10000",
				`kube_cronjob_status_last_schedule_time{namespace="other", cronjob="other-voice-agent-try"}`:   "10000",
				`kube_cronjob_status_last_successful_time{namespace="other", cronjob="other-voice-agent-try"}`: "9720",
			},
			right: map[string]string{
				`kube_cronjob_status_last_schedule_time{namespace="voice", cronjob="voice-voice-agent-try"}`:   "10000",
				`kube_cronjob_status_last_successful_time{namespace="voice", cronjob="voice-voice-agent-try"}`: "9720",
				`kube_cronjob_status_last_schedule_time{namespace="voice", cronjob="backup"}`:                  "10000",
			},
			before: 9 * time.Minute, within: 11 * time.Minute, labels: map[string]string{"namespace": "voice", "cronjob": "voice-voice-agent-try"},
		},
		"CallguardOrderNotRead": {
			reason: "Two replicas of the guard may report it, but it alerts once. Seconds are normal for a kubelet.",
			wrong: map[string]string{
				`callguard_order_unread_seconds{namespace="voice", pod="agent-1", instance="a"}`: "121",
				`callguard_order_unread_seconds{namespace="voice", pod="agent-1", instance="b"}`: "130",
			},
			right:  one(`callguard_order_unread_seconds{namespace="voice", pod="agent-1"}`, "2"),
			within: time.Minute, labels: pod,
		},
		"CallguardDrainHangs": {
			reason: "A call of four hours; one of three is a call.",
			wrong:  one(hold("calls"), "14401"), right: one(hold("calls"), "10800"),
			within: time.Minute, labels: ruled("calls"),
		},
		"CallguardHeldAtBound": {
			reason: "The replacement is Pending.",
			wrong:  one(hold("floor"), "1801"), right: map[string]string{hold("floor"): "1200", hold("calls"): "3600"},
			within: time.Minute, labels: ruled("floor"),
		},
		"CallguardStepRefused": {
			reason: "A webhook refuses the guard's PATCH.",
			wrong:  one(hold("write"), "301"), right: one(hold("write"), "10"),
			within: time.Minute, labels: ruled("write"),
		},
		"CallguardForeignBudget": {
			reason: "A short wait causes no alert.",
			wrong:  one(`callguard_foreign_budgets{namespace="voice"}`, "1"), right: one(`callguard_foreign_budgets{namespace="voice"}`, "0"),
			before: 4 * time.Minute, within: 6 * time.Minute, labels: map[string]string{"namespace": "voice"},
		},
		"CallguardForcedRelease": {
			reason: "The counter rises.",
			wrong:  one("callguard_forced_releases_total", "0 0 0 1"), right: one("callguard_forced_releases_total", "3"),
			within: 2 * time.Minute,
		},
		"CallguardDeletedWhileLocked": {
			reason: "The counter rises.",
			wrong:  one("callguard_deletions_while_locked_total", "0 0 0 1"), right: one("callguard_deletions_while_locked_total", "3"),
			within: 2 * time.Minute,
		},
		"CallguardMetricsNotReady": {
			reason: "No replica is ready for five minutes.",
			wrong:  one(replicas("metrics-adapter"), "0"), right: one(replicas("metrics-adapter"), "1"),
			before: 4 * time.Minute, within: 6 * time.Minute, labels: deployment("metrics-adapter"),
		},
		"CallguardMetricsMissing": {
			reason: "There is no series at all.",
			wrong:  one("up", "1"), right: one(`callguard_pods{known="busy"}`, "0"),
			before: 9 * time.Minute, within: 11 * time.Minute,
		},
		"CallguardMetricsUnavailable": {
			reason: "Any API server that does not reach it is enough; another API is not ours.",
			wrong: map[string]string{
				`aggregator_unavailable_apiservice{name="v1beta2.custom.metrics.k8s.io", instance="a"}`: "1",
				`aggregator_unavailable_apiservice{name="v1beta2.custom.metrics.k8s.io", instance="b"}`: "0",
			},
			right:  one(`aggregator_unavailable_apiservice{name="v1beta1.metrics.k8s.io"}`, "1"),
			before: 4 * time.Minute, within: 6 * time.Minute, labels: map[string]string{"name": "v1beta2.custom.metrics.k8s.io"},
		},
		"CallguardMetricsAPIPutBack": {
			reason: "Another chart has restored its own; without another adapter there is no alert.",
			wrong:  one(`callguard_metrics_api_taken{apiservice="v1beta2.custom.metrics.k8s.io"}`, "0"),
			right:  one(`callguard_metrics_api_taken{apiservice="v1beta2.custom.metrics.k8s.io"}`, "1"),
			before: 4 * time.Minute, within: 6 * time.Minute, labels: map[string]string{"apiservice": "v1beta2.custom.metrics.k8s.io"},
		},
		"CallguardOtherAdapterDown": {
			reason: "None of the replicas reaches it.",
			wrong:  map[string]string{`callguard_other_adapter_up{pod="a"}`: "0", `callguard_other_adapter_up{pod="b"}`: "0"},
			right:  map[string]string{`callguard_other_adapter_up{pod="a"}`: "0", `callguard_other_adapter_up{pod="b"}`: "1"},
			before: 4 * time.Minute, within: 6 * time.Minute,
		},
		"CallguardLiveKitUnread": {
			reason: "The latest sweep was at second 0 of the test; the other replica never had one.",
			wrong: map[string]string{
				`callguard_livekit_last_sweep_timestamp_seconds{project="default", pod="a"}`: "1",
				`callguard_livekit_last_sweep_timestamp_seconds{project="default", pod="b"}`: "0",
			},
			right:  one(`callguard_livekit_last_sweep_timestamp_seconds{project="default"}`, "0+15"),
			before: 9 * time.Minute, within: 11 * time.Minute, labels: map[string]string{"project": "default"},
		},
		"CallguardCallersWait": {
			reason: "Both replicas of the adapter report it; a caller who is answered in time causes no alert.",
			wrong: map[string]string{
				`callguard_waiting_calls{namespace="voice", workload="Deployment/agent", pod="a"}`: "2",
				`callguard_waiting_calls{namespace="voice", workload="Deployment/agent", pod="b"}`: "1",
				`callguard_waiting_calls{namespace="other", workload="Deployment/agent", pod="a"}`: "0",
			},
			right:  one(`callguard_waiting_calls{namespace="voice", workload="Deployment/agent"}`, "1 1 1 1 0"),
			before: 2 * time.Minute, within: 4 * time.Minute, labels: map[string]string{"namespace": "voice", "workload": "Deployment/agent"},
		},
		"CallguardPodsUnknown": {
			reason: "Pods that start are unknown for seconds.",
			wrong:  one(`callguard_pods{known="unknown"}`, "1"), right: map[string]string{`callguard_pods{known="unknown"}`: "0", `callguard_pods{known="busy"}`: "5"},
			before: 14 * time.Minute, within: 16 * time.Minute,
		},
		"CallguardUnattributedAgents": {
			reason: "Each project by itself.",
			wrong:  map[string]string{`callguard_unattributed_agents{project="default"}`: "2", `callguard_unattributed_agents{project="other"}`: "0"},
			right:  one(`callguard_unattributed_agents{project="default"}`, "0"),
			before: 14 * time.Minute, within: 16 * time.Minute, labels: map[string]string{"project": "default"},
		},
		"CallguardCertificateNotRenewed": {
			reason: "It is renewed after two thirds of its lifetime.",
			wrong:  one(`callguard_serving_certificate_expiry_timestamp_seconds{pod="metrics-adapter-1"}`, "80000"),
			right:  one(`callguard_serving_certificate_expiry_timestamp_seconds{pod="metrics-adapter-1"}`, "200000"),
			before: 14 * time.Minute, within: 16 * time.Minute, labels: map[string]string{"pod": "metrics-adapter-1"},
		},
	}
}

// TestAlertsFire runs each alert in Prometheus's own promtool: what makes it fire, when, with which text, and what does not.
func TestAlertsFire(t *testing.T) {
	if _, err := exec.LookPath(promtool); err != nil {
		t.Fatalf("%v; Debian has it in package prometheus", err)
	}
	rules, played := alerts(t), scenes()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(rules)), slices.Sorted(maps.Keys(played))); diff != "" {
		t.Fatalf("not every alert is played (-alerts, +scenes):\n%s", diff)
	}
	dir := t.TempDir()
	for name, s := range played {
		t.Run(name, func(t *testing.T) {
			wrong := promtoolTest{Name: name, Interval: every.String(), InputSeries: series(s.wrong), Alerts: []alertRuleTest{{s.within.String(), name, []expected{s.expects(rules[name])}}}}
			if s.before > 0 {
				wrong.Alerts = append(wrong.Alerts, alertRuleTest{EvalTime: s.before.String(), Alertname: name})
			}
			right := promtoolTest{Name: name + " is silent", Interval: every.String(), InputSeries: series(s.right), Alerts: []alertRuleTest{{EvalTime: s.within.String(), Alertname: name}}}
			play(t, dir, name, wrong, right)
			if t.Failed() {
				t.Log(s.reason)
			}
		})
	}
}

// play runs tests of one alert with promtool.
func play(t *testing.T, dir, name string, tests ...promtoolTest) {
	t.Helper()
	write := func(file string, content any) string {
		text, err := yaml.Marshal(content)
		trial.Must(t, err)
		path := filepath.Join(dir, file)
		trial.Must(t, os.WriteFile(path, text, 0o600))
		return path
	}
	write("rules.yaml", map[string]any{"groups": groups(t)})
	path := write(name+".yaml", map[string]any{"rule_files": []string{"rules.yaml"}, "evaluation_interval": every.String(), "tests": tests})
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// series keep a single value for the whole time, and the last of several for the rest of it.
func series(values map[string]string) []inputSeries {
	var list []inputSeries
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		first, last, several := "", value, false
		if i := strings.LastIndex(value, " "); i >= 0 {
			first, last, several = value[:i+1], value[i+1:], true
		}
		switch {
		case !several && strings.Contains(value, "+"):
			value += "x120"
		default:
			value = first + last + "x120"
		}
		list = append(list, inputSeries{Series: name, Values: value})
	}
	return list
}

// expects is the alert as people read it.
func (s scene) expects(a alert) expected {
	e := expected{Labels: maps.Clone(a.Labels), Annotations: map[string]string{}}
	maps.Copy(e.Labels, s.labels)
	for key, text := range a.Annotations {
		for label, value := range s.labels {
			text = strings.ReplaceAll(text, "{{ $labels."+label+" }}", value)
		}
		e.Annotations[key] = text
	}
	return e
}

// TestTriedCallsThatOnceSucceeded: test calls that succeeded once, and fail now, also alert.
func TestTriedCallsThatOnceSucceeded(t *testing.T) {
	const name = "CallguardCallersUnanswered"
	labels := map[string]string{"namespace": "voice", "cronjob": "voice-voice-agent-try"}
	s := scene{labels: labels, within: 21 * time.Minute, wrong: map[string]string{
		`kube_cronjob_status_last_schedule_time{namespace="voice", cronjob="voice-voice-agent-try"}`:   "10000+15",
		`kube_cronjob_status_last_successful_time{namespace="voice", cronjob="voice-voice-agent-try"}`: "10000",
	}}
	play(t, t.TempDir(), name, promtoolTest{
		Name: name, Interval: every.String(), InputSeries: series(s.wrong),
		Alerts: []alertRuleTest{{s.within.String(), name, []expected{s.expects(alerts(t)[name])}}, {EvalTime: "19m", Alertname: name}},
	})
}

// TestRunbooks: every alert has a paragraph in docs/alerts.md with its severity, to which its runbook_url points, and every
// paragraph an alert.
func TestRunbooks(t *testing.T) {
	page := string(read(t, "../../docs/alerts.md"))
	paragraphs, severities := map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^## (\w+)\n\n(?:Severity: (\w+)\.\n\n\w)?`).FindAllStringSubmatch(page, -1) {
		paragraphs[m[1]] = m[2]
	}
	rules := alerts(t)
	for name, a := range rules {
		severities[name] = a.Labels["severity"]
	}
	if diff := cmp.Diff(severities, paragraphs); diff != "" {
		t.Errorf("docs/alerts.md does not have the alerts of the chart and their severities (-alerts, +page):\n%s", diff)
	}
	for name, a := range rules {
		if want := "/docs/alerts.md#" + strings.ToLower(name); !strings.HasSuffix(a.Annotations["runbook_url"], want) {
			t.Errorf("the runbook_url of %s is %q; want it to end in %s", name, a.Annotations["runbook_url"], want)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.Labels["severity"] == "" {
			t.Errorf("alert %s has no summary, description or severity", name)
		}
	}
}

// TestOwnLabelsStay: if metrics have a label that Prometheus would set, alerts and panels use the metrics' own.
func TestOwnLabelsStay(t *testing.T) {
	monitors := strings.Split(string(read(t, "../../manifests/monitors.yaml")), "\n---\n")
	found := 0
	for _, text := range monitors {
		var monitor struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct{ Endpoints []struct{ HonorLabels bool } }
		}
		trial.Must(t, yaml.Unmarshal([]byte(text), &monitor))
		if monitor.Kind != "ServiceMonitor" {
			continue
		}
		for _, e := range monitor.Spec.Endpoints {
			found++
			if !e.HonorLabels {
				t.Errorf("ServiceMonitor %s gives its own namespace to calls of others", monitor.Metadata.Name)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d endpoints were found", found)
	}
}
