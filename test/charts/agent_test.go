// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// version returns another version of the chart.
func version(c *chart.Chart) {
	c.Metadata.Version = "9.9.9"
	c.Metadata.AppVersion = "other"
}

func TestSidecars(t *testing.T) {
	t.Parallel()
	agent := deployment(t, given{}.must(t), "agent")
	if got := agent.Spec.Template.Labels["callguard.dev/guarded"]; got != "true" {
		t.Errorf("label callguard.dev/guarded is %q", got)
	}
	want := map[string]string{
		"callguard.dev/gate-port": "8089", "callguard.dev/livekit-secret": "v-voice-agent-livekit-keys",
		"cluster-autoscaler.kubernetes.io/safe-to-evict": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "tmp,journal",
	}
	annotations := agent.Spec.Template.Annotations
	delete(annotations, "checksum/livekit-keys") // see TestKeysChange
	if diff := cmp.Diff(want, annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}

	gate := container(t, agent, "call-gate")
	if diff := cmp.Diff([]string{"--bind-address=127.0.0.1:7880", "--status-address=:8089", "--worker-ports=8081", "--order-file=/podinfo/annotations", "--journal=/journal", "--launch-limit=5m"}, gate.Args); diff != "" {
		t.Errorf("call-gate (-want +got):\n%s", diff)
	}
	if got := env(gate)["LIVEKIT_URL"]; got != "ws://v-voice-agent-livekit.voice.svc:7880" {
		t.Errorf("call-gate goes on to %q, want the real LiveKit", got)
	}
	if got := env(container(t, agent, "agent"))["LIVEKIT_URL"]; got != "ws://127.0.0.1:7880" {
		t.Errorf("the agent's LIVEKIT_URL is %q, want the gate", got)
	}
	if got := env(container(t, agent, "agent"))["LIVEKIT_PUBLIC_URL"]; got != "ws://v-voice-agent-livekit.voice.svc:7880" {
		t.Errorf("the agent's LIVEKIT_PUBLIC_URL is %q, want the real LiveKit: avatar providers are told it", got)
	}
	// A startup probe that waits for a worker would wait forever, because the agent starts after it.
	if p := gate.ReadinessProbe; p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/readyz" || p.HTTPGet.Port.String() != "gate" {
		t.Errorf("call-gate's readiness probe is %+v, want GET /readyz: ready is not able", p)
	}
	if p := gate.StartupProbe; p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/healthz" {
		t.Errorf("call-gate's startup probe is %+v, want GET /healthz", p)
	}
	if gate.LivenessProbe != nil {
		t.Errorf("call-gate has liveness probe %+v; that LiveKit is away is no reason to restart it", gate.LivenessProbe)
	}

	probe := container(t, agent, "realtime-probe")
	if diff := cmp.Diff([]string{
		"--bind-address=:8080", "--base-url=https://api.openai.com/v1", "--model=gpt-realtime-2.1", "--key-file=/etc/openai/openai",
		"--calls-url=http://127.0.0.1:8089/calls", "--interval=60s", "--mode=cached",
	}, probe.Args); diff != "" {
		t.Errorf("realtime-probe (-want +got):\n%s", diff)
	}
	ready := probe.ReadinessProbe
	if ready == nil || ready.HTTPGet.Path != "/healthz/realtime" || ready.TimeoutSeconds != 3 || ready.FailureThreshold != 3 {
		t.Errorf("the readiness probe is %+v, want GET /healthz/realtime, timeout 3, threshold 3", ready)
	}
	if !slices.ContainsFunc(probe.Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == 8080 }) {
		t.Errorf("realtime-probe listens on %v, want 8080", probe.Ports)
	}
	if live := container(t, agent, "agent").LivenessProbe; live != nil {
		t.Errorf("the agent has liveness probe %+v, which would end the calls it asks about", live)
	}
}

// TestNodeAutoscalers: no emptyDir of the chart's pods keeps Cluster Autoscaler from removing a node, it may try to evict
// guarded pods, and a team can override both.
func TestNodeAutoscalers(t *testing.T) {
	t.Parallel()
	const safe, local = "cluster-autoscaler.kubernetes.io/safe-to-evict", "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
	for name, tc := range map[string]struct {
		given
		component   string
		safe, local string
	}{
		"Guarded":   {given{}, "agent", "true", "tmp,journal"},
		"Unguarded": {given{}, "worker", "", "tmp"},
		"LiveKit":   {given{}, "livekit", "", "tmp"},
		"MCP":       {given{set: []string{"mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a"}}, "mcp-crm", "", "tmp"},
		"TeamsOwn":  {given{json: []string{`agent.extraVolumes=[{"name":"models","emptyDir":{}},{"name":"keys","secret":{"secretName":"x"}}]`}}, "agent", "true", "tmp,journal,models"},
		"TeamsWord": {given{json: []string{`agent.podAnnotations={"cluster-autoscaler.kubernetes.io/safe-to-evict":"false"}`}}, "agent", "false", "tmp,journal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := deployment(t, tc.must(t), tc.component).Spec.Template.Annotations
			if told[safe] != tc.safe || told[local] != tc.local {
				t.Errorf("%s is %q, want %q; %s is %q, want %q", safe, told[safe], tc.safe, local, told[local], tc.local)
			}
		})
	}
}

// TestPacked: guarded pods prefer nodes with other guarded pods and are not spread, unless the team places them itself.
func TestPacked(t *testing.T) {
	t.Parallel()
	agent := func(more ...string) corev1.PodSpec {
		return deployment(t, given{set: []string{"callguard.packed=true"}, json: more}.must(t), "agent").Spec.Template.Spec
	}
	spec := agent()
	if len(spec.TopologySpreadConstraints) > 0 {
		t.Errorf("packed pods are spread, too: %+v", spec.TopologySpreadConstraints)
	}
	want := []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{
		TopologyKey: corev1.LabelHostname,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{
			"app.kubernetes.io/name": "voice-agent", "app.kubernetes.io/instance": "v", "app.kubernetes.io/component": "agent",
		}},
	}}}
	if diff := cmp.Diff(want, spec.Affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution); diff != "" {
		t.Errorf("affinity (-want +got):\n%s", diff)
	}
	spec = agent(`agent.topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]`, `agent.affinity={"nodeAffinity":{}}`)
	if len(spec.TopologySpreadConstraints) != 1 || spec.Affinity.NodeAffinity == nil || spec.Affinity.PodAffinity == nil {
		t.Errorf("the team's own word is lost: %+v, %+v", spec.TopologySpreadConstraints, spec.Affinity)
	}
	livekit := deployment(t, given{set: []string{"callguard.packed=true"}}.must(t), "livekit").Spec.Template.Spec
	if len(livekit.TopologySpreadConstraints) != 1 || livekit.Affinity != nil {
		t.Errorf("LiveKit is packed, too: %+v", livekit.Affinity)
	}
}

// TestSidecarsOff: each can be turned off by itself, also without drain-guard.
func TestSidecarsOff(t *testing.T) {
	t.Parallel()
	names := func(d *appsv1.Deployment) []string {
		names := []string{}
		for _, c := range d.Spec.Template.Spec.InitContainers {
			names = append(names, c.Name)
		}
		return names
	}
	for name, tc := range map[string]struct {
		given
		component string
		want      []string
		url       string
	}{
		"GateOff":         {given{set: []string{"callguard.gate.enabled=false"}}, "agent", []string{"realtime-probe"}, "ws://v-voice-agent-livekit.voice.svc:7880"},
		"RealtimeOff":     {given{set: []string{"agent.probes.realtime.mode=off"}}, "agent", []string{"call-gate"}, "ws://127.0.0.1:7880"},
		"Unguarded":       {given{set: []string{"callguard.enabled=false"}}, "agent", []string{"realtime-probe"}, "ws://v-voice-agent-livekit.voice.svc:7880"},
		"Worker":          {given{}, "worker", []string{}, "ws://v-voice-agent-livekit.voice.svc:7880"},
		"GuardedWorker":   {given{set: []string{"worker.guarded=true"}}, "worker", []string{"call-gate"}, "ws://127.0.0.1:7880"},
		"UnguardedWorker": {given{set: []string{"worker.guarded=true", "callguard.enabled=false"}}, "worker", []string{}, "ws://v-voice-agent-livekit.voice.svc:7880"},
		"ExternalLiveKit": {given{file: "cloud", set: []string{"callguard.gate.enabled=false", "callguard.witnesses=rooms"}}, "agent", []string{"realtime-probe"}, "wss://project.livekit.cloud"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := deployment(t, tc.must(t), tc.component)
			if diff := cmp.Diff(tc.want, names(d)); diff != "" {
				t.Errorf("sidecars (-want +got):\n%s", diff)
			}
			if got := env(container(t, d, tc.component))["LIVEKIT_URL"]; got != tc.url {
				t.Errorf("LIVEKIT_URL is %q, want %q", got, tc.url)
			}
			gate := slices.Contains(names(d), "call-gate")
			for _, c := range d.Spec.Template.Spec.InitContainers {
				// Without it the default would apply, where nothing answers, and the pod would stay ready whatever the key.
				if c.Name == "realtime-probe" && !gate && !slices.Contains(c.Args, "--calls-url=") {
					t.Errorf("realtime-probe has %v, and there is no gate to ask", c.Args)
				}
			}
			if got := d.Spec.Template.Annotations["callguard.dev/gate-port"]; (got != "") != gate {
				t.Errorf("annotation callguard.dev/gate-port is %q, and call-gate there: %t", got, gate)
			}
		})
	}
}

// TestRotation: agent and probe read the key from a file of a whole Secret. It is in the environment only if the values ask
// for it.
func TestRotation(t *testing.T) {
	t.Parallel()
	agent := deployment(t, given{set: []string{"openai.keyAsEnv=false"}}.must(t), "agent")
	for _, name := range []string{"agent", "realtime-probe"} {
		c := container(t, agent, name)
		if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.Name == "openai" && m.MountPath == "/etc/openai" && m.SubPath == "" && m.ReadOnly
		}) {
			t.Errorf("%s does not have the key's Secret in /etc/openai: %+v", name, c.VolumeMounts)
		}
		for _, e := range c.Env {
			if e.Name == "OPENAI_API_KEY" {
				t.Errorf("%s has the key in its environment", name)
			}
		}
	}
	if got := env(container(t, agent, "agent"))["OPENAI_API_KEY_FILE"]; got != "/etc/openai/openai" {
		t.Errorf("OPENAI_API_KEY_FILE is %q", got)
	}
	kept := container(t, deployment(t, given{}.must(t), "agent"), "agent")
	if !slices.ContainsFunc(kept.Env, func(e corev1.EnvVar) bool {
		return e.Name == "OPENAI_API_KEY" && e.ValueFrom != nil && e.ValueFrom.SecretKeyRef.Name == "voice-secrets" && e.ValueFrom.SecretKeyRef.Key == "openai"
	}) {
		t.Errorf("openai.keyAsEnv gives no OPENAI_API_KEY: %+v", kept.Env)
	}
}

// TestOpenAI: the probe asks the same API in the same way as the agent, whoever runs it.
func TestOpenAI(t *testing.T) {
	t.Parallel()
	const endpoint = "openai.baseUrl=https://res.openai.azure.com"
	type told map[string]string
	plain := told{
		"OPENAI_BASE_URL": "https://api.openai.com/v1", "AZURE_OPENAI_ENDPOINT": "", "AZURE_OPENAI_DEPLOYMENT": "", "AZURE_OPENAI_API_KEY": "",
		"OPENAI_API_VERSION": "", "OPENAI_ORG_ID": "", "OPENAI_PROJECT_ID": "", "NODE_EXTRA_CA_CERTS": "", "HTTPS_PROXY": "",
	}
	with := func(over told) told {
		all := maps.Clone(plain)
		maps.Copy(all, over)
		return all
	}
	for name, tc := range map[string]struct {
		reason string
		given
		probe []string // arguments that differ from the default
		agent told
	}{
		"Default": {
			reason: "OpenAI gets its own kind of requests, and nothing of Azure's is there.",
			probe:  []string{"--base-url=https://api.openai.com/v1"}, agent: plain,
		},
		"Written": {
			reason: "A URL is the same one however it is written.", given: given{json: []string{`openai.baseUrl=" WSS://api.openai.com//v1/\n"`}},
			probe: []string{"--base-url=https://api.openai.com/v1"}, agent: plain,
		},
		"Azure": {
			reason: "The endpoint, as the portal shows it, is all that the SDKs ask for.", given: given{set: []string{endpoint + "/", "openai.azure.enabled=true", "openai.azure.deployment=voice-1"}},
			probe: []string{"--base-url=https://res.openai.azure.com", "--auth-header=api-key", "--deployment=voice-1"},
			agent: with(told{"OPENAI_BASE_URL": "", "AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com", "AZURE_OPENAI_DEPLOYMENT": "voice-1", "AZURE_OPENAI_API_KEY": "voice-secrets/openai"}),
		},
		"AzureV1": {
			reason: "The SDKs add /openai themselves.", given: given{set: []string{endpoint + "/openai/v1/", "openai.azure.enabled=true"}},
			probe: []string{"--base-url=https://res.openai.azure.com/openai/v1", "--auth-header=api-key"},
			agent: with(told{"OPENAI_BASE_URL": "", "AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com", "AZURE_OPENAI_DEPLOYMENT": "gpt-realtime-2.1", "AZURE_OPENAI_API_KEY": "voice-secrets/openai"}),
		},
		"AzurePreview": {
			reason: "A version is asked for by both.", given: given{set: []string{endpoint, "openai.azure.enabled=true", "openai.azure.apiVersion=2025-04-01-preview", "openai.keyAsEnv=false"}},
			probe: []string{"--base-url=https://res.openai.azure.com", "--auth-header=api-key", "--api-version=2025-04-01-preview"},
			agent: with(told{"OPENAI_BASE_URL": "", "AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com", "AZURE_OPENAI_DEPLOYMENT": "gpt-realtime-2.1", "OPENAI_API_VERSION": "2025-04-01-preview"}),
		},
		"Whom": {
			reason: "Sessions are for an organization and a project.", given: given{set: []string{"openai.organization=org-1", "openai.project=proj_1"}},
			probe: []string{"--base-url=https://api.openai.com/v1", "--organization=org-1", "--project=proj_1"},
			agent: with(told{"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1"}),
		},
		"OldValues": {
			reason: "An upgrade with the previous values has none of these.", given: given{json: []string{"openai.azure=null", "openai.ca=null", "openai.proxy=null", "openai.organization=null", "openai.project=null", "callguard.gate.launchLimit=null"}},
			probe: []string{"--base-url=https://api.openai.com/v1"}, agent: plain,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := deployment(t, tc.must(t), "agent")
			var args []string
			for _, arg := range container(t, d, "realtime-probe").Args {
				flag, _, _ := strings.Cut(arg, "=")
				if slices.Contains([]string{"--base-url", "--auth-header", "--deployment", "--api-version", "--organization", "--project", "--ca-file"}, flag) {
					args = append(args, arg)
				}
			}
			if diff := cmp.Diff(tc.probe, args); diff != "" {
				t.Errorf("%s realtime-probe (-want +got):\n%s", tc.reason, diff)
			}
			got := told{}
			for name := range plain {
				got[name] = ""
			}
			for _, e := range container(t, d, "agent").Env {
				if _, asked := plain[e.Name]; !asked {
					continue
				}
				if got[e.Name] = e.Value; e.ValueFrom != nil {
					got[e.Name] = e.ValueFrom.SecretKeyRef.Name + "/" + e.ValueFrom.SecretKeyRef.Key
				}
			}
			if diff := cmp.Diff(tc.agent, got); diff != "" {
				t.Errorf("%s the agent (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestAutoscaling(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set      []string
		replicas *int32
		metric   autoscalingv2.MetricSourceType
	}{
		"Default":  {metric: autoscalingv2.ObjectMetricSourceType},
		"Pods":     {set: []string{"agent.autoscaling.metric=Pods"}, metric: autoscalingv2.PodsMetricSourceType},
		"External": {set: []string{"agent.autoscaling.external=true"}},
		"Both":     {set: []string{"agent.autoscaling.external=true", "agent.autoscaling.enabled=false"}},
		"Off":      {set: []string{"agent.autoscaling.enabled=false", "agent.replicas=7"}, replicas: new(int32(7))},
		"Zero":     {set: []string{"agent.autoscaling.enabled=false", "agent.replicas=0"}, replicas: new(int32(0))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := given{set: tc.set}.must(t)
			if diff := cmp.Diff(tc.replicas, deployment(t, r, "agent").Spec.Replicas); diff != "" {
				t.Errorf("replicas (-want +got):\n%s", diff)
			}
			scalers := autoscalers(t, r)
			if tc.metric == "" {
				if len(scalers) != 0 {
					t.Errorf("there is an autoscaler: %v", scalers)
				}
				return
			}
			hpa := scalers["v-voice-agent-agent"]
			if hpa == nil || len(hpa.Spec.Metrics) != 1 {
				t.Fatalf("want one autoscaler with one metric, got %+v", scalers)
			}
			m := hpa.Spec.Metrics[0]
			var target autoscalingv2.MetricTarget
			var metric string
			switch {
			case m.Object != nil:
				target, metric = m.Object.Target, m.Object.Metric.Name
				want := autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "v-voice-agent-agent"}
				if diff := cmp.Diff(want, m.Object.DescribedObject); diff != "" {
					t.Errorf("described object (-want +got):\n%s", diff)
				}
			case m.Pods != nil:
				target, metric = m.Pods.Target, m.Pods.Metric.Name
			}
			if m.Type != tc.metric || metric != "active_calls" || target.Type != autoscalingv2.AverageValueMetricType || target.AverageValue.String() != "5" {
				t.Errorf("the metric is %+v, want %s active_calls with AverageValue 5", m, tc.metric)
			}
			if hpa.Spec.Behavior == nil || *hpa.Spec.Behavior.ScaleDown.StabilizationWindowSeconds != 300 {
				t.Errorf("behavior is %+v", hpa.Spec.Behavior)
			}
		})
	}
}

// TestWaitingCalls: if the values ask for it, the autoscaler counts waiting calls, and the pods' annotations say which calls
// are theirs.
func TestWaitingCalls(t *testing.T) {
	t.Parallel()
	keys := []string{"callguard.dev/agent-name", "callguard.dev/waiting-rooms", "callguard.dev/dispatch-again"}
	said := func(r rendered) (said []string) {
		for _, key := range keys {
			said = append(said, deployment(t, r, "agent").Spec.Template.Annotations[key])
		}
		return said
	}
	if diff := cmp.Diff([]string{"", "", ""}, said(given{}.must(t))); diff != "" {
		t.Errorf("no value asks for it (-want +got):\n%s", diff)
	}
	r := given{set: []string{
		"agent.autoscaling.waitingCalls=true", "callguard.waiting.agentName=desk", "callguard.waiting.rooms=every", "callguard.waiting.dispatchAgain=true",
	}}.must(t)
	if diff := cmp.Diff([]string{"desk", "every", "true"}, said(r)); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	metrics := autoscalers(t, r)["v-voice-agent-agent"].Spec.Metrics
	if len(metrics) != 2 || metrics[1].Object == nil || metrics[1].Object.Metric.Name != "waiting_calls" ||
		metrics[1].Object.Target.Type != autoscalingv2.ValueMetricType || metrics[1].Object.Target.Value.String() != "500m" {
		t.Errorf("the autoscaler's metrics are %+v; want active_calls and waiting_calls with Value 500m", metrics)
	}
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		budget     string // minAvailable of the agent's PodDisruptionBudget
		annotation string
	}{
		"Guarded":           {given: given{}},
		"GuardedNumber":     {given: given{set: []string{"agent.minAvailable=3"}}, annotation: "3"},
		"GuardedZero":       {given: given{set: []string{"agent.minAvailable=0"}}, annotation: "0"},
		"GuardedPercent":    {given: given{set: []string{"agent.minAvailable=50%"}}, annotation: "50%"},
		"Unguarded":         {given: given{file: "unguarded"}, budget: "1"},
		"UnguardedNumber":   {given: given{file: "unguarded", set: []string{"agent.minAvailable=2"}}, budget: "2"},
		"UnguardedZero":     {given: given{file: "unguarded", set: []string{"agent.minAvailable=0"}}, budget: "0"},
		"UnguardedPercent":  {given: given{file: "unguarded", set: []string{"agent.minAvailable=50%"}}, budget: "50%"},
		"UnguardedFromFile": {given: given{file: "unguarded", json: []string{`agent.minAvailable=2`}}, budget: "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			got := ""
			if b := budgets(t, r)["v-voice-agent-agent"]; b != nil {
				got = b.Spec.MinAvailable.String()
				if b.Spec.MaxUnavailable != nil || *b.Spec.UnhealthyPodEvictionPolicy != "IfHealthyBudget" {
					t.Errorf("the budget is %+v", b.Spec)
				}
			}
			if got != tc.budget {
				t.Errorf("minAvailable of the budget is %q, want %q", got, tc.budget)
			}
			if got := deployment(t, r, "agent").Annotations["callguard.dev/min-available"]; got != tc.annotation {
				t.Errorf("annotation callguard.dev/min-available is %q, want %q", got, tc.annotation)
			}
		})
	}
}

func TestAddOnMayReadOneSecret(t *testing.T) {
	t.Parallel()
	r := given{set: []string{"callguard.namespace=guard", "callguard.serviceAccounts={one,two}"}}.must(t)
	bindings := all[rbacv1.RoleBinding](t, r, "RoleBinding")
	delete(bindings, "v-voice-agent-try-test") // of the test call, see TestTriedCalls
	if len(bindings) != 1 || len(roles(t, r)) != 2 {
		t.Fatalf("want one Role and one RoleBinding, got %d and %d", len(roles(t, r))-1, len(bindings))
	}
	want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "one", Namespace: "guard"}, {Kind: "ServiceAccount", Name: "two", Namespace: "guard"}}
	for _, b := range bindings {
		if diff := cmp.Diff(want, b.Subjects); diff != "" {
			t.Errorf("subjects (-want +got):\n%s", diff)
		}
		if roles(t, r)[b.RoleRef.Name] == nil {
			t.Errorf("the RoleBinding names Role %s, which there is not", b.RoleRef.Name)
		}
	}
	if unguarded := (given{file: "unguarded"}).must(t); len(roles(t, unguarded)) != 0 {
		t.Error("without the guard callguard may still read Secrets")
	}
}

// TestEnvironment: a user's variable replaces the chart's, and appears once.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	got := env(container(t, deployment(t, given{file: "full"}.must(t), "agent"), "agent"))
	for name, want := range map[string]string{
		"OPENAI_MODEL":         "gpt-realtime-2",
		"OPENAI_VOICE":         "voice_0123",
		"LOG_LEVEL":            "debug",
		"MCP_CRM_URL":          "http://v-voice-agent-mcp-crm.voice.svc:8000/mcp",
		"VERTICAL_HEALTHCARE":  "true",
		"VERTICAL_REAL_ESTATE": "eu",
		"ANNOTATIONS":          "/podinfo/annotations",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if _, there := got["MCP_OFF_URL"]; there {
		t.Error("the agent's environment has an MCP server that is turned off")
	}
}

func TestMCPServers(t *testing.T) {
	t.Parallel()
	r := given{file: "full"}.must(t)
	for _, name := range []string{"v-voice-agent-mcp-crm", "v-voice-agent-mcp-calendar"} {
		if deployments(t, r)[name] == nil || services(t, r)[name] == nil || budgets(t, r)[name] == nil {
			t.Errorf("MCP server %s has no Deployment, Service or PodDisruptionBudget", name)
		}
	}
	for _, o := range r.objects {
		if strings.Contains(o.GetName(), "mcp-off") {
			t.Errorf("%s is rendered, and turned off", id(o))
		}
	}
	crm := container(t, deployment(t, r, "mcp-crm"), "server")
	if crm.ReadinessProbe.HTTPGet == nil || crm.ReadinessProbe.TCPSocket != nil {
		t.Errorf("the given probe is mixed with the default one: %+v", crm.ReadinessProbe)
	}
	if calendar := container(t, deployment(t, r, "mcp-calendar"), "server"); calendar.ReadinessProbe.TCPSocket == nil {
		t.Errorf("the default probe is %+v, want tcpSocket", calendar.ReadinessProbe)
	}
	if got := budgets(t, r)["v-voice-agent-mcp-calendar"].Spec.MaxUnavailable.String(); got != "50%" {
		t.Errorf("maxUnavailable is %s, want 50%%", got)
	}
}

func TestWorkerImage(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("b", 64)
	for name, tc := range map[string]struct {
		set  []string
		want string
	}{
		"TheAgents":    {want: "registry.example.com/agent:1.0.0"},
		"OtherTag":     {set: []string{"worker.image.tag=2"}, want: ""},
		"OtherTagText": {set: []string{"worker.image.tag=v2"}, want: "registry.example.com/agent:v2"},
		"OtherDigest":  {set: []string{"worker.image.digest=" + digest}, want: "registry.example.com/agent@" + digest},
		"TagOverDigest": {
			set:  []string{"agent.image.digest=" + digest, "worker.image.tag=v2", "worker.image.repository=jobs"},
			want: "jobs:v2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := given{set: tc.set}.render()
			if tc.want == "" {
				if err == nil {
					t.Error("a number was taken for a tag")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := container(t, deployment(t, r, "worker"), "worker").Image; got != tc.want {
				t.Errorf("the image is %s, want %s", got, tc.want)
			}
		})
	}
}

func TestLiveKit(t *testing.T) {
	t.Parallel()
	r := given{}.must(t)
	d := deployment(t, r, "livekit")
	c := container(t, d, "livekit")
	if c.LivenessProbe.TCPSocket == nil || c.ReadinessProbe.HTTPGet.Path != "/" || *d.Spec.Template.Spec.TerminationGracePeriodSeconds != 18000 {
		t.Errorf("liveness %+v, readiness %+v, grace %d", c.LivenessProbe, c.ReadinessProbe, *d.Spec.Template.Spec.TerminationGracePeriodSeconds)
	}
	if s := services(t, r)["v-voice-agent-livekit"]; s == nil || s.Spec.Ports[0].Port != 7880 {
		t.Errorf("Service v-voice-agent-livekit is %+v", s)
	}

	host := given{file: "full"}.must(t)
	d = deployment(t, host, "livekit")
	if !d.Spec.Template.Spec.HostNetwork || d.Spec.Strategy.RollingUpdate.MaxSurge.String() != "0" || d.Spec.Strategy.RollingUpdate.MaxUnavailable.String() != "1" {
		t.Errorf("on the host's network nothing can surge; the strategy is %+v", d.Spec.Strategy.RollingUpdate)
	}
	if services(t, host)["v-voice-agent-livekit-rtc"] != nil {
		t.Error("media of a server on the host's network goes through a Service")
	}
	config := map[string]any{}
	if err := yaml.Unmarshal([]byte(all[corev1.ConfigMap](t, host, "ConfigMap")["v-voice-agent-livekit-config"].Data["config.yaml"]), &config); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"port":       7880.0,
		"prometheus": map[string]any{"port": 6789.0},
		"logging":    map[string]any{"level": "debug"},
		"redis":      map[string]any{"address": "redis.redis.svc:6379"},
		"rtc":        map[string]any{"tcp_port": 7881.0, "udp_port": 7882.0, "use_external_ip": true},
		"turn": map[string]any{
			"enabled": true, "domain": "turn.example.com", "tls_port": 5349.0, "udp_port": 3478.0, "external_tls": false,
			"cert_file": "/etc/livekit-turn/tls.crt", "key_file": "/etc/livekit-turn/tls.key",
		},
		"webhook": map[string]any{"api_key": "production", "urls": []any{"http://metrics-adapter.callguard-system.svc:8090/webhooks"}},
	}
	if diff := cmp.Diff(want, config); diff != "" {
		t.Errorf("LiveKit's settings (-want +got):\n%s", diff)
	}

	before := deployment(t, r, "livekit").Spec.Template.Annotations["checksum/config"]
	after := deployment(t, given{set: []string{"livekit.prometheusPort=6789"}}.must(t), "livekit").Spec.Template.Annotations["checksum/config"]
	if before == "" || before == after {
		t.Errorf("checksum/config is %q, and %q after a change of the settings", before, after)
	}

	cloud := given{file: "cloud"}.must(t)
	for name, d := range deployments(t, cloud) {
		if d.Labels["app.kubernetes.io/component"] == "livekit" {
			t.Errorf("%s runs although LiveKit is elsewhere", name)
		}
	}
}

// TestKeys: given keys go into a Secret that callguard, agents and the server read, and nowhere else; an existing Secret is
// left alone.
func TestKeys(t *testing.T) {
	t.Parallel()
	const key, secret = "devkey", "a-secret-of-at-least-32-characters"
	r := given{}.must(t)
	got := map[string]string{}
	for k, v := range all[corev1.Secret](t, r, "Secret")["v-voice-agent-livekit-keys"].Data {
		got[k] = string(v)
	}
	want := map[string]string{
		"url": "ws://v-voice-agent-livekit.voice.svc:7880", "api-key": key, "api-secret": secret,
		"keys.yaml": `{"devkey":"` + secret + `"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the Secret (-want +got):\n%s", diff)
	}
	for name, text := range r.files {
		if !strings.HasSuffix(name, "livekit-secret.yaml") && (strings.Contains(text, secret) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(secret)))) {
			t.Errorf("%s shows the API secret", name)
		}
	}

	cloud := given{file: "cloud"}.must(t)
	if secrets := all[corev1.Secret](t, cloud, "Secret"); len(secrets) != 0 {
		t.Errorf("with livekit.existingSecret a Secret is rendered: %v", secrets)
	}
	if got := deployment(t, cloud, "agent").Spec.Template.Annotations["callguard.dev/livekit-secret"]; got != "livekit" {
		t.Errorf("annotation callguard.dev/livekit-secret is %q, want the existing Secret", got)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		want, not string
	}{
		"Namespace": {given: given{}, want: "kubectl label namespace voice callguard.dev/enabled=true"},
		"Metric":    {given: given{}, want: "/namespaces/voice/deployments.apps/v-voice-agent-agent/active_calls"},
		"Unguarded": {given: given{file: "unguarded"}, want: "callguard.enabled is false", not: "kubectl label namespace"},
		"Retiring":  {given: given{set: []string{"openai.model=gpt-realtime"}}, want: "gpt-realtime is shut down on 2027-01-20; use gpt-realtime-2.1."},
		"Snapshot":  {given: given{set: []string{"openai.model=gpt-realtime-mini-2025-10-06"}}, want: "use gpt-realtime-2.1-mini."},
		"Preview":   {given: given{set: []string{"openai.model=gpt-4o-realtime-preview"}}, want: "is a preview that is being retired"},
		"Current":   {given: given{}, not: "WARNING"},
		"AzureKey":  {given: given{set: []string{"openai.baseUrl=https://res.openai.azure.com/openai/v1"}}, want: "openai.baseUrl is Azure's, which takes a key in the header api-key; set openai.azure.enabled=true"},
		"NotAzure":  {given: given{set: []string{"openai.baseUrl=https://gateway.westeurope.cloudapp.azure.com/v1"}}, not: "WARNING"},
		"Azure":     {given: given{set: []string{"openai.baseUrl=https://res.openai.azure.com", "openai.azure.enabled=true"}}, not: "WARNING"},
		"HostNet":   {given: given{file: "full"}, want: "pod security must allow that"},
		"Waiting":   {given: given{file: "full"}, want: "with helm --wait, use a --timeout of 18600s per node"},
		"OneOfOne":  {given: given{file: "unguarded", set: []string{"agent.replicas=1"}}, want: "no node with one of them can be drained"},
		"TwoOfOne":  {given: given{file: "unguarded"}, not: "can be drained"},
		"NoMetric":  {given: given{file: "unguarded", set: []string{"agent.autoscaling.enabled=true", "agent.replicas=2"}}, want: "Unless another adapter serves it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notes := tc.must(t).notes()
			if !strings.Contains(notes, tc.want) || tc.not != "" && strings.Contains(notes, tc.not) {
				t.Errorf("want %q and not %q in\n%s", tc.want, tc.not, notes)
			}
		})
	}
}

// TestWorkerTakesNoCalls: LiveKit sends an agent with a name only the jobs that request it.
func TestWorkerTakesNoCalls(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		worker string
	}{
		"Default": {given{}, "worker"},
		"Named":   {given{set: []string{"worker.agentName=summaries"}}, "summaries"},
		"Calls":   {given{set: []string{"worker.agentName=", "worker.guarded=true"}}, ""},
		"OwnEnv":  {given{set: []string{"worker.env.LIVEKIT_AGENT_NAME=mine"}}, "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			if got := env(container(t, deployment(t, r, "worker"), "worker"))["LIVEKIT_AGENT_NAME"]; got != tc.worker {
				t.Errorf("the worker is named %q, want %q", got, tc.worker)
			}
			if got := env(container(t, deployment(t, r, "agent"), "agent"))["LIVEKIT_AGENT_NAME"]; got != "" {
				t.Errorf("the agent is named %q, and would get no call", got)
			}
		})
	}
}

// TestKeysChange: programs that read keys once are restarted with keys that an upgrade
// changes, and with nothing else.
func TestKeysChange(t *testing.T) {
	t.Parallel()
	before := given{}.must(t)
	other := given{set: []string{"livekit.apiSecret=" + strings.Repeat("x", 40)}}.must(t)
	own := given{set: []string{"livekit.existingSecret=keys"}}.must(t)
	for _, component := range []string{"agent", "worker", "livekit"} {
		checksum := func(r rendered) string {
			return deployment(t, r, component).Spec.Template.Annotations["checksum/livekit-keys"]
		}
		if checksum(before) == "" || checksum(before) == checksum(other) {
			t.Errorf("%s is not restarted with another secret", component)
		}
		if got := checksum(own); got != "" {
			t.Errorf("%s has checksum %s of keys that the chart does not know", component, got)
		}
	}
}

// TestBudgetsOfUnguarded: pods of a guarded revision have only callguard's budget.
func TestBudgetsOfUnguarded(t *testing.T) {
	t.Parallel()
	r := given{set: []string{"callguard.enabled=false"}}.must(t)
	for _, component := range []string{"agent", "worker"} {
		pod := deployment(t, r, component).Spec.Template.Labels
		matched := 0
		for name, b := range budgets(t, r) {
			selects, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			if selects.Matches(labels.Set(pod)) {
				matched++
				guarded := maps.Clone(pod)
				guarded["callguard.dev/guarded"] = "true"
				if selects.Matches(labels.Set(guarded)) {
					t.Errorf("PodDisruptionBudget %s matches guarded pods of the %s", name, component)
				}
			}
		}
		if matched != 1 {
			t.Errorf("%d PodDisruptionBudgets match the %s, want one", matched, component)
		}
	}
}
