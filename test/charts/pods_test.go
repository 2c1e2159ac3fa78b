// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestOneConceptOfPods: each field means the same for every component, given for all pods or for one, which overrides all.
func TestOneConceptOfPods(t *testing.T) {
	t.Parallel()
	type workload = appsv1.Deployment
	pod := func(d *workload) *corev1.PodSpec { return &d.Spec.Template.Spec }
	main := func(d *workload) corev1.Container { return d.Spec.Template.Spec.Containers[0] }
	for field, tc := range map[string]struct {
		all, one string // values, in JSON
		got      func(*workload) string
		wantAll  string
		wantOne  string // for the component: maps are merged, lists are replaced
		guarded  bool   // not for guarded pods
	}{
		"podLabels": {
			`{"a":"all","b":"all"}`, `{"b":"one"}`,
			func(d *workload) string { return d.Spec.Template.Labels["a"] + d.Spec.Template.Labels["b"] }, "allall", "allone", true,
		},
		"podAnnotations": {
			`{"a":"all","b":"all"}`, `{"b":"one"}`,
			func(d *workload) string {
				return d.Spec.Template.Annotations["a"] + d.Spec.Template.Annotations["b"]
			}, "allall", "allone", true,
		},
		"extraEnv": {
			`[{"name":"A","value":1},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]`, `{"B":true}`,
			func(d *workload) string { return env(main(d))["A"] + env(main(d))["B"] }, "1", "1true", true,
		},
		"extraEnvFrom": {
			`[{"secretRef":{"name":"all"}}]`, `[{"secretRef":{"name":"one"}}]`,
			func(d *workload) string { return main(d).EnvFrom[len(main(d).EnvFrom)-1].SecretRef.Name }, "all", "one", true,
		},
		"extraVolumes": {
			`[{"name":"all","emptyDir":{}}]`, `[{"name":"one","emptyDir":{}}]`,
			func(d *workload) string { return pod(d).Volumes[len(pod(d).Volumes)-1].Name }, "all", "one", true,
		},
		"extraVolumeMounts": {
			`[{"name":"tmp","mountPath":"/all"}]`, `[{"name":"tmp","mountPath":"/one"}]`,
			func(d *workload) string { return main(d).VolumeMounts[len(main(d).VolumeMounts)-1].MountPath }, "/all", "/one", true,
		},
		"initContainers": {
			`[{"name":"all","image":"x:1"}]`, `[{"name":"one","image":"x:1"}]`,
			func(d *workload) string { return pod(d).InitContainers[0].Name }, "all", "one", true,
		},
		"extraContainers": {
			`[{"name":"all","image":"x:1"}]`, `[{"name":"one","image":"x:1"}]`,
			func(d *workload) string { return pod(d).Containers[1].Name }, "all", "one", false,
		},
		"podSecurityContext": {
			`{"runAsGroup":1,"supplementalGroups":[7]}`, `{"runAsGroup":2}`,
			func(d *workload) string {
				s := pod(d).SecurityContext
				raw, _ := json.Marshal([]any{s.RunAsGroup, s.SupplementalGroups, s.RunAsNonRoot})
				return string(raw)
			}, `[1,[7],true]`, `[2,[7],true]`, true,
		},
		"securityContext": {
			`{"readOnlyRootFilesystem":false,"runAsGroup":3}`, `{"runAsGroup":4}`,
			func(d *workload) string {
				s := main(d).SecurityContext
				raw, _ := json.Marshal([]any{s.ReadOnlyRootFilesystem, s.RunAsGroup, s.AllowPrivilegeEscalation})
				return string(raw)
			}, `[false,3,false]`, `[false,4,false]`, true,
		},
		"runtimeClassName": {`"all"`, `"one"`, func(d *workload) string { return *pod(d).RuntimeClassName }, "all", "one", true},
		"nodeSelector": {
			`{"a":"all","b":"all"}`, `{"b":"one"}`,
			func(d *workload) string { return pod(d).NodeSelector["a"] + pod(d).NodeSelector["b"] }, "allall", "allone", true,
		},
		"affinity": {
			`{"nodeAffinity":{},"podAffinity":{}}`, `{"podAntiAffinity":{}}`,
			func(d *workload) string { raw, _ := json.Marshal(pod(d).Affinity); return string(raw) },
			`{"nodeAffinity":{},"podAffinity":{}}`, `{"nodeAffinity":{},"podAffinity":{},"podAntiAffinity":{}}`, true,
		},
		"tolerations": {
			`[{"key":"all","operator":"Exists"}]`, `[]`,
			func(d *workload) string {
				if len(pod(d).Tolerations) == 0 {
					return "none"
				}
				return pod(d).Tolerations[0].Key
			}, "all", "none", true,
		},
		"topologySpreadConstraints": {
			`[{"maxSkew":1,"topologyKey":"all","whenUnsatisfiable":"DoNotSchedule"}]`, `[{"maxSkew":1,"topologyKey":"one","whenUnsatisfiable":"DoNotSchedule"}]`,
			func(d *workload) string { return pod(d).TopologySpreadConstraints[0].TopologyKey }, "all", "one", true,
		},
		"dnsPolicy": {`"Default"`, `"None"`, func(d *workload) string { return string(pod(d).DNSPolicy) }, "Default", "None", true},
		"dnsConfig": {
			`{"nameservers":["10.0.0.1"]}`, `{"nameservers":["10.0.0.2"]}`,
			func(d *workload) string { return strings.Join(pod(d).DNSConfig.Nameservers, ",") }, "10.0.0.1", "10.0.0.2", true,
		},
		"hostAliases": {
			`[{"ip":"10.0.0.1","hostnames":["all"]}]`, `[{"ip":"10.0.0.1","hostnames":["one"]}]`,
			func(d *workload) string { return pod(d).HostAliases[0].Hostnames[0] }, "all", "one", true,
		},
		"serviceAccount": {
			`{"create":false,"name":"all","automount":true}`, `{"name":"one"}`,
			func(d *workload) string {
				if !*pod(d).AutomountServiceAccountToken {
					return "no token"
				}
				return pod(d).ServiceAccountName
			}, "all", "one", true,
		},
		"revisionHistoryLimit": {`3`, `0`, func(d *workload) string { raw, _ := json.Marshal(d.Spec.RevisionHistoryLimit); return string(raw) }, "3", "0", true},
	} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			base := []string{"mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a", "mcpServers.crm.enabled=true"}
			if !tc.guarded {
				base = append(base, "callguard.enabled=false")
			}
			forAll := given{set: base, json: []string{"podDefaults." + field + "=" + tc.all}}
			forOne := forAll
			forOne.json = append(slices.Clone(forAll.json), "agent."+field+"="+tc.one, "mcpServers.crm."+field+"="+tc.one)
			all, one := forAll.must(t), forOne.must(t)
			for component, own := range map[string]bool{"agent": true, "worker": false, "livekit": false, "mcp-crm": true} {
				if got := tc.got(deployment(t, all, component)); got != tc.wantAll {
					t.Errorf("podDefaults.%s gives %s %s, want %s", field, component, got, tc.wantAll)
				}
				want := tc.wantAll
				if own {
					want = tc.wantOne
				}
				if got := tc.got(deployment(t, one, component)); got != want {
					t.Errorf("with %s of agent and crm, too, %s has %s, want %s", field, component, got, want)
				}
			}
		})
	}
}

// TestStrategy: the chart's strategy of a component is merged over podDefaults, and Recreate has no settings of a rolling
// update.
func TestStrategy(t *testing.T) {
	t.Parallel()
	r := given{set: []string{
		"mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a",
		"podDefaults.strategy.type=RollingUpdate", "podDefaults.strategy.rollingUpdate.maxUnavailable=2", "worker.strategy.type=Recreate",
	}}.must(t)
	got := map[string]string{}
	for _, component := range []string{"agent", "livekit", "mcp-crm", "worker"} {
		s := deployment(t, r, component).Spec.Strategy
		got[component] = string(s.Type)
		if s.RollingUpdate != nil {
			got[component] += " " + s.RollingUpdate.MaxUnavailable.String()
		}
	}
	want := map[string]string{"agent": "RollingUpdate 0", "livekit": "RollingUpdate 0", "mcp-crm": "RollingUpdate 2", "worker": "Recreate"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("strategies (-want +got):\n%s", diff)
	}
}

// TestFormerNames: env, envFrom, volumes and volumeMounts mean the same as extraEnv and so on, and can be combined with them.
func TestFormerNames(t *testing.T) {
	t.Parallel()
	r := given{json: []string{
		`agent.env={"A":"1","B":"1"}`, `agent.extraEnv=[{"name":"B","value":"2"},{"name":"LOG_ROTATE","value":1234567}]`,
		`agent.envFrom=[{"configMapRef":{"name":"one"}}]`, `agent.extraEnvFrom=[{"configMapRef":{"name":"two"}}]`,
		`agent.volumes=[{"name":"one","emptyDir":{}}]`, `agent.extraVolumes=[{"name":"two","emptyDir":{}}]`,
		`agent.volumeMounts=[{"name":"one","mountPath":"/one"}]`, `agent.extraVolumeMounts=[{"name":"two","mountPath":"/two"}]`,
	}}.must(t)
	agent := deployment(t, r, "agent")
	c := container(t, agent, "agent")
	got := env(c)
	if diff := cmp.Diff([]string{"1", "2", "1234567"}, []string{got["A"], got["B"], got["LOG_ROTATE"]}); diff != "" {
		t.Errorf("A, B and LOG_ROTATE (-want +got):\n%s", diff)
	}
	var names []string
	for _, e := range c.EnvFrom {
		names = append(names, e.ConfigMapRef.Name)
	}
	for _, v := range agent.Spec.Template.Spec.Volumes[len(agent.Spec.Template.Spec.Volumes)-2:] {
		names = append(names, v.Name)
	}
	for _, m := range c.VolumeMounts[len(c.VolumeMounts)-2:] {
		names = append(names, m.MountPath)
	}
	if diff := cmp.Diff([]string{"one", "two", "one", "two", "/one", "/two"}, names); diff != "" {
		t.Errorf("envFrom, volumes, mounts (-want +got):\n%s", diff)
	}
}

// TestReferencesStandLast: Kubernetes replaces $(NAME) only if NAME is defined before it.
func TestReferencesStandLast(t *testing.T) {
	t.Parallel()
	c := container(t, deployment(t, given{json: []string{`agent.env=[{"name":"ZONE","value":"eu"},{"name":"BUCKET","value":"calls-$(ZONE)"}]`}}.must(t), "agent"), "agent")
	if last := c.Env[len(c.Env)-1]; last.Name != "BUCKET" || last.Value != "calls-$(ZONE)" {
		t.Errorf("the last variable is %+v, want BUCKET, which refers to ZONE", last)
	}
}

// TestSidecarsTakeMore: environment, arguments, mounts, security and resources of call-gate and realtime-probe can be added.
func TestSidecarsTakeMore(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"call-gate": "callguard.gate", "realtime-probe": "agent.probes.realtime"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := container(t, deployment(t, given{json: []string{
				path + `.extraEnv=[{"name":"GODEBUG","value":"netdns=go"}]`, path + `.extraArgs=["--log-level=debug"]`,
				path + `.extraVolumeMounts=[{"name":"tmp","mountPath":"/tmp"}]`, path + `.securityContext={"runAsUser":7}`, path + `.resources={"limits":{"memory":"1Gi"}}`,
			}}.must(t), "agent"), name)
			if got := env(c)["GODEBUG"]; got != "netdns=go" {
				t.Errorf("GODEBUG is %q", got)
			}
			if got := c.Args[len(c.Args)-1]; got != "--log-level=debug" {
				t.Errorf("the last argument is %q", got)
			}
			if got := c.VolumeMounts[len(c.VolumeMounts)-1].MountPath; got != "/tmp" {
				t.Errorf("the last mount is %q", got)
			}
			if s := c.SecurityContext; s.RunAsUser == nil || *s.RunAsUser != 7 || !*s.ReadOnlyRootFilesystem {
				t.Errorf("the security context is %+v, want user 7 over the rest", s)
			}
			if got := c.Resources.Limits.Memory().String(); got != "1Gi" {
				t.Errorf("the memory limit is %s", got)
			}
		})
	}
}

// TestUsers: LiveKit's starters have a user name, which is no proof for Kubernetes that it is not root; on OpenShift nothing
// may have a number; and if a value removes it, the image's own user applies.
func TestUsers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		want map[string]string // by component: user and group of the pod, then those of containers with their own
	}{
		"Default":   {given{}, map[string]string{"agent": "10001 ", "worker": "10001 ", "livekit": "65532 65532", "mcp-crm": "10001 "}},
		"Null":      {given{set: []string{"agent.podSecurityContext.runAsUser=null"}}, map[string]string{"agent": " ", "worker": "10001 ", "livekit": "65532 65532"}},
		"NullOfAll": {given{set: []string{"podDefaults.podSecurityContext.runAsUser=null"}}, map[string]string{"agent": " ", "worker": " ", "livekit": "65532 65532"}},
		"Own":       {given{set: []string{"agent.podSecurityContext.runAsUser=1000"}}, map[string]string{"agent": "1000 ", "worker": "10001 ", "livekit": "65532 65532"}},
		"OpenShift": {given{set: []string{"openshift=true", "agent.securityContext.runAsUser=1000", "callguard.gate.securityContext.runAsGroup=1"}}, map[string]string{"agent": " ", "worker": " ", "livekit": " "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.set = append(tc.set, "mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a")
			r := tc.must(t)
			number := func(n *int64) string {
				raw, _ := json.Marshal(n)
				return strings.TrimPrefix(string(raw), "null")
			}
			got := map[string]string{}
			for component := range tc.want {
				d := deployment(t, r, component)
				s := d.Spec.Template.Spec.SecurityContext
				got[component] = number(s.RunAsUser) + " " + number(s.FSGroup)
				for _, c := range containers(d) {
					if c.SecurityContext.RunAsUser != nil || c.SecurityContext.RunAsGroup != nil {
						got[component] += " " + c.Name
					}
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("users and groups (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWritableCache: uv starts LiveKit's agent for Python and needs a cache; the chart does not change HOME, below which the
// image keeps downloaded models.
func TestWritableCache(t *testing.T) {
	t.Parallel()
	for _, component := range []string{"agent", "worker"} {
		c := container(t, deployment(t, given{}.must(t), component), component)
		if got := env(c)["UV_CACHE_DIR"]; !strings.HasPrefix(got, "/tmp/") || !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/tmp" && !m.ReadOnly }) {
			t.Errorf("UV_CACHE_DIR of %s is %q, want a folder in /tmp, which may be written", component, got)
		}
		for _, name := range []string{"HOME", "XDG_CACHE_HOME", "HF_HOME"} {
			if _, there := env(c)[name]; there {
				t.Errorf("%s of %s is not the image's", name, component)
			}
		}
	}
}

// TestImagesOfAMirror: an umbrella chart's registry and pull secrets work as in other charts.
func TestImagesOfAMirror(t *testing.T) {
	t.Parallel()
	r := given{
		set:  []string{"global.imageRegistry=mirror.example.com", "worker.image.registry=own.example.com", "worker.image.repository=jobs", "agent.image.repository=team/agent", "agent.image.tag=v1"},
		json: []string{`global.imagePullSecrets=[{"name":"a"},"b"]`, `imagePullSecrets=["c",{"name":"a"}]`},
	}.must(t)
	want := map[string]string{
		"agent/agent": "mirror.example.com/team/agent:v1", "agent/call-gate": "mirror.example.com/callguard:dev",
		"worker/worker": "own.example.com/jobs:v1", "livekit/livekit": "mirror.example.com/livekit/livekit-server:v1.13.5",
	}
	got := map[string]string{}
	for at := range want {
		component, name, _ := strings.Cut(at, "/")
		got[at] = container(t, deployment(t, r, component), name).Image
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	// An image that names its registry in its repository keeps it.
	if got := container(t, deployment(t, given{set: []string{"global.imageRegistry=mirror.example.com"}}.must(t), "agent"), "agent").Image; got != "registry.example.com/agent:1.0.0" {
		t.Errorf("the agent's image is %s, want that of its own registry", got)
	}
	secrets := []corev1.LocalObjectReference{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	for name, d := range deployments(t, r) {
		if diff := cmp.Diff(secrets, d.Spec.Template.Spec.ImagePullSecrets); diff != "" {
			t.Errorf("pull secrets of %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestNodePorts: callers are told the port that LiveKit listens on, so nodes must open the same port.
func TestNodePorts(t *testing.T) {
	t.Parallel()
	r := given{file: "azure"}.must(t)
	want := []corev1.ServicePort{
		{Name: "rtc-tcp", Port: 30881, NodePort: 30881},
		{Name: "rtc-udp", Port: 30882, NodePort: 30882, Protocol: corev1.ProtocolUDP},
	}
	got := slices.Clone(services(t, r)["v-voice-agent-livekit-rtc"].Spec.Ports)
	for i := range got {
		got[i].TargetPort = want[0].TargetPort
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports of the Service for media (-want +got):\n%s", diff)
	}
	config := map[string]any{}
	if err := yaml.Unmarshal([]byte(all[corev1.ConfigMap](t, r, "ConfigMap")["v-voice-agent-livekit-config"].Data["config.yaml"]), &config); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"tcp_port": 30881.0, "udp_port": 30882.0, "use_external_ip": false}, config["rtc"]); diff != "" {
		t.Errorf("LiveKit's ports (-want +got):\n%s", diff)
	}
	for _, kind := range []string{"ClusterIP", "LoadBalancer"} {
		for _, p := range services(t, given{set: []string{"livekit.rtc.service.type=" + kind}}.must(t))["v-voice-agent-livekit-rtc"].Spec.Ports {
			if p.NodePort != 0 {
				t.Errorf("a Service of type %s fixes port %d of the nodes", kind, p.NodePort)
			}
		}
	}
}

// TestProgressDeadline: a rollout that waits for what an old pod holds makes progress when that pod is gone.
func TestProgressDeadline(t *testing.T) {
	t.Parallel()
	for name, d := range deployments(t, given{file: "full"}.must(t)) {
		grace := *d.Spec.Template.Spec.TerminationGracePeriodSeconds
		if d.Spec.ProgressDeadlineSeconds == nil || int64(*d.Spec.ProgressDeadlineSeconds) != grace+600 {
			t.Errorf("progressDeadlineSeconds of %s is %v, want its grace, %d, and ten minutes", name, d.Spec.ProgressDeadlineSeconds, grace)
		}
	}
}

// TestNameOverride: it is in every name and in no selector, which cannot change.
func TestNameOverride(t *testing.T) {
	t.Parallel()
	before, after := given{file: "full"}.must(t), given{file: "full", set: []string{"nameOverride=phone"}}.must(t)
	selectorsOf := func(r rendered) map[string]map[string]string {
		found := map[string]map[string]string{}
		for _, d := range deployments(t, r) {
			found[d.Labels["app.kubernetes.io/component"]] = d.Spec.Selector.MatchLabels
		}
		return found
	}
	if diff := cmp.Diff(selectorsOf(before), selectorsOf(after)); diff != "" {
		t.Errorf("selectors (-before +after):\n%s", diff)
	}
	for _, o := range after.objects {
		if !strings.HasPrefix(o.GetName(), "v-phone-") {
			t.Errorf("%s is not called v-phone-…", id(o))
		}
	}
}

// TestSentinels: servers find each other's rooms through Redis, found by Sentinels, by values or by LiveKit's own settings.
func TestSentinels(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	known := object{"sentinel_master_name": "main", "sentinel_addresses": []any{"a:26379", "b:26379"}}
	for name, tc := range map[string]struct {
		given
		want object
	}{
		"Settings":  {given{json: []string{`livekit.config={"redis":{"sentinel_master_name":"main","sentinel_addresses":["a:26379","b:26379"]}}`}}, known},
		"Values":    {given{json: []string{`livekit.redis.sentinel={"masterName":"main","addresses":["a:26379","b:26379"],"existingSecret":"sentinels"}`, `livekit.redis.existingSecret="redis"`}}, known},
		"LaidOver":  {given{json: []string{`livekit.redis.sentinel={"masterName":"main","addresses":["a:26379"]}`, `livekit.config={"redis":{"db":3}}`}}, object{"sentinel_master_name": "main", "sentinel_addresses": []any{"a:26379"}, "db": 3.0}},
		"OldValues": {given{json: []string{`livekit.redis={"address":"redis:6379","sentinel":null}`}}, object{"address": "redis:6379"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.set = []string{"livekit.replicas=2"}
			r := tc.must(t)
			var config struct{ Redis object }
			if err := yaml.Unmarshal([]byte(all[corev1.ConfigMap](t, r, "ConfigMap")["v-voice-agent-livekit-config"].Data["config.yaml"]), &config); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, config.Redis); diff != "" {
				t.Errorf("LiveKit's settings (-want +got):\n%s", diff)
			}
			passwords := said(container(t, deployment(t, r, "livekit"), "livekit"), "REDIS_PASSWORD", "LIVEKIT_REDIS_SENTINEL_PASSWORD")
			want := map[string]string{}
			if name == "Values" {
				want = map[string]string{"REDIS_PASSWORD": "redis/password", "LIVEKIT_REDIS_SENTINEL_PASSWORD": "sentinels/sentinel-password"}
			}
			if diff := cmp.Diff(want, passwords); diff != "" {
				t.Errorf("passwords (-want +got):\n%s", diff)
			}
			if strings.Contains(r.notes(), "With livekit.redis, servers share") {
				t.Error("the notes tell of a server that is alone")
			}
		})
	}
}

// TestLiveKitAutoscaler: it adds servers, and removes none by itself, because it does not know their rooms. Nobody else owns
// their number.
func TestLiveKitAutoscaler(t *testing.T) {
	t.Parallel()
	on := []string{"livekit.autoscaling.enabled=true", "livekit.redis.address=redis:6379", "livekit.autoscaling.maxReplicas=5"}
	r := given{set: on}.must(t)
	scaler := autoscalers(t, r)["v-voice-agent-livekit"]
	if scaler == nil {
		t.Fatalf("there are the autoscalers %v", slices.Collect(maps.Keys(autoscalers(t, r))))
	}
	disabled, utilization := autoscalingv2.DisabledPolicySelect, int32(60)
	want := autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "v-voice-agent-livekit"},
		MinReplicas:    new(int32(2)), MaxReplicas: 5,
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization},
		}}},
		Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{SelectPolicy: &disabled}},
	}
	if diff := cmp.Diff(want, scaler.Spec); diff != "" {
		t.Errorf("the autoscaler (-want +got):\n%s", diff)
	}
	if got := deployment(t, r, "livekit").Spec.Replicas; got != nil {
		t.Errorf("the Deployment says %d replicas beside its autoscaler", *got)
	}
	for name, off := range map[string]given{"Default": {}, "OldValues": {json: []string{"livekit.autoscaling=null"}}, "Elsewhere": {file: "cloud", set: []string{"livekit.autoscaling.enabled=true"}}} {
		if autoscalers(t, off.must(t))["v-voice-agent-livekit"] != nil {
			t.Errorf("%s: there is an autoscaler of LiveKit", name)
		}
	}
}

// TestToldNames: the schema lets through every name that people bring from elsewhere, and the chart refuses it in one sentence
// with its own name; the schema lets through no other name.
func TestToldNames(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(folder, "templates", "_check.tpl"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), `{{- define "voice-agent.told" -}}`)
	table, _, _ = strings.Cut(table, "{{- end }}")
	var rows []struct{ From, To, Why string }
	if err := yaml.Unmarshal([]byte(table), &rows); err != nil || len(rows) < 20 {
		t.Fatalf("%d rows in the table: %v", len(rows), err)
	}
	page, err := os.ReadFile("../../docs/from-the-article.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"podDefaults.serviceAccount.automountServiceAccountToken": true} // see TestRefused/Token
	for _, row := range rows {
		known[row.From] = true
		if path := strings.Split(row.From, "."); len(path) == 3 {
			known[strings.Join(path[:2], ".")] = true
		}
		for _, value := range []string{"7", "true", `"x"`, `{"key":"x"}`, `["x"]`} {
			_, err := given{json: []string{row.From + "=" + value}}.render()
			to := strings.TrimSuffix(row.To, ".")
			if err == nil || !strings.Contains(err.Error(), row.From) || !strings.Contains(err.Error(), to) || !strings.Contains(err.Error(), " of this chart; use ") || strings.Contains(err.Error(), "at '/") {
				t.Errorf("%s=%s: got %v\nwant one sentence that names %s", row.From, value, err, to)
			}
		}
		if !strings.Contains(string(page), strings.TrimSuffix(row.To, ".")) {
			t.Errorf("docs/from-the-article.md does not name %s", row.To)
		}
	}
	raw, err := os.ReadFile(filepath.Join(folder, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, raw json.RawMessage)
	walk = func(path string, raw json.RawMessage) {
		var o struct {
			Type        any
			Ref         string `json:"$ref"`
			Description string
			Properties  map[string]json.RawMessage
		}
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		name := strings.TrimPrefix(path, ".")
		if o.Type == nil && o.Ref == "" && strings.Contains(o.Description, "Not a value of this chart") && !known[name] {
			t.Errorf("the schema lets %s through, and no row of the table is about it", name)
		}
		for _, key := range slices.Sorted(maps.Keys(o.Properties)) {
			walk(path+"."+key, o.Properties[key])
		}
	}
	walk("", raw)
}

// TestTheArticlesCommand: it is refused before anything is sent, with the exact values to write, and these work.
func TestTheArticlesCommand(t *testing.T) {
	t.Parallel()
	bare := func(sets ...string) error {
		vals := map[string]any{}
		for _, set := range sets {
			path, value, _ := strings.Cut(set, "=")
			at := vals
			keys := strings.Split(path, ".")
			for _, key := range keys[:len(keys)-1] {
				below, ok := at[key].(map[string]any)
				if !ok {
					below = map[string]any{}
					at[key] = below
				}
				at = below
			}
			at[keys[len(keys)-1]] = value
		}
		_, err := renderOf(t, vals)
		return err
	}
	err := bare("image.tag=abc1234", "openai.model=gpt-realtime", "openai.voice=marin")
	if err == nil || !strings.Contains(err.Error(), "image.tag is not a value of this chart; use agent.image.tag") {
		t.Fatalf("the article's command: %v\nwant a sentence that image.tag is not a value of this chart; use agent.image.tag", err)
	}
	if lines := strings.Count(err.Error(), "\n"); lines > 3 {
		t.Errorf("the refusal has %d lines, want two or three:\n%v", lines, err)
	}
	err = bare("agent.image.repository=registry.example.com/agent", "agent.image.tag=abc1234", "openai.model=gpt-realtime", "openai.voice=marin", "livekit.apiKey=devkey", "livekit.apiSecret=a-secret-of-at-least-32-characters")
	if err != nil {
		t.Errorf("the named values do not work: %v", err)
	}
	given{file: "article"}.must(t)
}
