// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

// matrix lists values with which everything that must always hold is checked.
func matrix() map[string]given {
	cases := map[string]given{
		"default":   {},
		"cloud":     {file: "cloud"},
		"full":      {file: "full"},
		"unguarded": {file: "unguarded"},
		"azure":     {file: "azure"},
		"operators": {file: "operators"},

		"LongRelease":       {release: strings.Repeat("r", 53), file: "full"},
		"DottedRelease":     {release: "team.voice"},
		"DigitRelease":      {release: "1st"},
		"ReleaseLikeChart":  {release: "voice-agent"},
		"FullnameOverride":  {set: []string{"fullnameOverride=phone"}},
		"OddMCPName":        {set: []string{"mcpServers.voice-agent-agent.image.repository=x", "mcpServers.voice-agent-agent.image.tag=a"}},
		"NoGate":            {set: []string{"callguard.gate.enabled=false"}},
		"NoRealtime":        {set: []string{"agent.probes.realtime.mode=off"}},
		"NoSidecars":        {set: []string{"callguard.gate.enabled=false", "agent.probes.realtime.mode=off"}},
		"Strict":            {set: []string{"agent.probes.realtime.mode=strict"}},
		"PodsMetric":        {set: []string{"agent.autoscaling.metric=Pods"}},
		"External":          {set: []string{"agent.autoscaling.external=true"}},
		"KEDA":              toZero("agent.autoscaling.waitingCalls=true"),
		"FixedReplicas":     {set: []string{"agent.autoscaling.enabled=false"}},
		"GuardedWorker":     {set: []string{"worker.guarded=true"}},
		"UnguardedWorker":   {file: "unguarded", set: []string{"worker.guarded=true"}},
		"HostNetwork":       {set: []string{"livekit.hostNetwork=true", "networkPolicy.enabled=true"}},
		"LoadBalancer":      {set: []string{"livekit.rtc.service.type=LoadBalancer", "livekit.rtc.service.annotations.a=b"}},
		"URLFromSecret":     {file: "cloud", set: []string{"livekit.url="}},
		"NullPodAnnotation": {set: []string{"agent.podAnnotations=null", "livekit.podAnnotations=null", "worker.podAnnotations=null"}},
		"NullBlocks":        {set: []string{"agent.resources=null", "agent.strategy=null", "agent.env=null", "agent.autoscaling.behavior=null", "verticals=null", "livekit.config=null", "commonLabels=null", "worker.podLabels=null"}},
		"NullProbe":         {json: []string{`agent.probes.readiness={"httpGet":null,"tcpSocket":{"port":"agent"}}`}},
		"LabelsOfOurs":      {set: []string{`commonLabels.app\.kubernetes\.io/component=other`, `agent.podLabels.app\.kubernetes\.io/instance=other`}},
		"NoAccounts":        {set: []string{"agent.serviceAccount.create=false", "worker.serviceAccount.create=false", "livekit.serviceAccount.create=false"}},
		"SpreadGiven":       {json: []string{`agent.topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]`}},
		"Global":            {set: []string{"global.anything=1"}},
		"Metrics":           {set: []string{"podMonitor.enabled=true", "livekit.prometheusPort=6789", "networkPolicy.enabled=true"}, json: []string{"networkPolicy.metricsFrom=" + monitoring}},
		"Outside": {set: []string{
			"livekit.ingress.enabled=true", "livekit.ingress.hosts={a.example.com}", "livekit.httpRoute.enabled=true", "livekit.httpRoute.parentRefs[0].name=public",
			"livekit.turn.enabled=true", "livekit.turn.domain=turn.example.com", "livekit.turn.existingSecret=turn", "networkPolicy.enabled=true",
		}},
		"DigestAndTag": {set: []string{"agent.image.digest=sha256:" + strings.Repeat("a", 64)}},
	}
	return cases
}

func TestInvariants(t *testing.T) {
	t.Parallel()
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for name, g := range matrix() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := g.must(t)
			checkObjects(t, converter, r)
			checkSelectors(t, r)
			checkPods(t, r)
			checkScaling(t, r)
			checkGuard(t, r)

			if diff := cmp.Diff(r.files, g.must(t).files); diff != "" {
				t.Errorf("a second render differs:\n%s", diff)
			}
		})
	}
}

// foreign are the kinds that other projects install.
func foreign() []string { return []string{"PodMonitor", "HTTPRoute", "ScaledObject"} }

// checkObjects applies every object as the API server would, and checks names.
func checkObjects(t *testing.T, converter managedfields.TypeConverter, r rendered) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range r.objects {
		id := o.GetKind() + " " + o.GetName()
		if _, err := converter.ObjectToTyped(o); err != nil && !slices.Contains(foreign(), o.GetKind()) {
			t.Errorf("a server-side apply refuses %s: %v", id, err)
		}
		if seen[id] {
			t.Errorf("%s is rendered twice", id)
		}
		seen[id] = true
		if o.GetNamespace() != namespace {
			t.Errorf("%s is in namespace %q, want the release's, %q", id, o.GetNamespace(), namespace)
		}
		if wrong := validation.IsDNS1035Label(o.GetName()); len(wrong) > 0 {
			t.Errorf("the name of %s: %v", id, wrong)
		}
		for key, value := range o.GetLabels() {
			if wrong := validation.IsValidLabelValue(value); len(wrong) > 0 {
				t.Errorf("label %s=%s of %s: %v", key, value, id, wrong)
			}
		}
	}
}

// selector is a selector and its object.
type selector struct {
	id     string
	labels map[string]string
}

func selectors(t *testing.T, r rendered) []selector {
	t.Helper()
	var found []selector
	add := func(kind, name string, s *metav1.LabelSelector) {
		// Guarded pods have callguard's budget, and must not have another.
		unguarded := metav1.LabelSelectorRequirement{Key: "callguard.dev/guarded", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"true"}}
		for _, e := range s.MatchExpressions {
			if kind != "PodDisruptionBudget" || !cmp.Equal(e, unguarded) {
				t.Errorf("%s %s selects by expression %+v", kind, name, e)
			}
		}
		found = append(found, selector{kind + " " + name, s.MatchLabels})
	}
	for name, d := range deployments(t, r) {
		add("Deployment", name, d.Spec.Selector)
		for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
			if c.LabelSelector != nil {
				add("topology spread of", name, c.LabelSelector)
			}
		}
	}
	for name, b := range budgets(t, r) {
		add("PodDisruptionBudget", name, b.Spec.Selector)
	}
	for name, s := range services(t, r) {
		found = append(found, selector{"Service " + name, s.Spec.Selector})
	}
	for name, p := range policies(t, r) {
		add("NetworkPolicy", name, &p.Spec.PodSelector)
	}
	return found
}

// checkSelectors: they consist of name, instance and component, nothing that changes, and
// match exactly one workload each.
func checkSelectors(t *testing.T, r rendered) {
	t.Helper()
	want := []string{"app.kubernetes.io/component", "app.kubernetes.io/instance", "app.kubernetes.io/name"}
	for _, s := range selectors(t, r) {
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(s.labels))); diff != "" {
			t.Errorf("labels by which %s selects (-want +got):\n%s", s.id, diff)
		}
		var matches []string
		for name, d := range deployments(t, r) {
			if labels.SelectorFromSet(s.labels).Matches(labels.Set(d.Spec.Template.Labels)) {
				matches = append(matches, name)
			}
		}
		if len(matches) != 1 {
			t.Errorf("%s selects the pods of %v, want exactly one workload's", s.id, matches)
		}
	}
}

// checkPods: images, environment, ports, volumes and security of every container.
func checkPods(t *testing.T, r rendered) {
	t.Helper()
	image := regexp.MustCompile(`^[^@ ]+(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})$`)
	accounts := all[corev1.ServiceAccount](t, r, "ServiceAccount")
	for name, d := range deployments(t, r) {
		pod := d.Spec.Template.Spec
		if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s mounts a token it has no use for", name)
		}
		if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
			t.Errorf("%s has its environment filled with the addresses of Services", name)
		}
		if accounts[pod.ServiceAccountName] == nil && pod.ServiceAccountName != "default" {
			t.Errorf("%s runs as %s, which is not rendered", name, pod.ServiceAccountName)
		}
		if pod.SecurityContext == nil || pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot ||
			pod.SecurityContext.SeccompProfile == nil || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("the pod of %s is not restricted: %+v", name, pod.SecurityContext)
		}
		volumes := map[string]bool{}
		for _, v := range pod.Volumes {
			if volumes[v.Name] {
				t.Errorf("%s has two volumes %s", name, v.Name)
			}
			volumes[v.Name] = true
		}
		ports := map[int32]string{}
		for _, c := range containers(d) {
			id := name + "/" + c.Name
			if !image.MatchString(c.Image) {
				t.Errorf("the image of %s is %q, want a tag or a digest", id, c.Image)
			}
			s := c.SecurityContext
			if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
				s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
				s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s is not restricted: %+v", id, s)
			}
			seen := map[string]bool{}
			names := []string{}
			for _, e := range c.Env {
				if seen[e.Name] {
					t.Errorf("%s has %s twice", id, e.Name)
				}
				seen[e.Name] = true
				last := "" // variables that refer to others come after them
				if strings.Contains(e.Value, "$(") {
					last = "~"
				}
				names = append(names, last+e.Name)
			}
			if !slices.IsSorted(names) {
				t.Errorf("the environment of %s is not sorted: %v", id, names)
			}
			for _, m := range c.VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("%s mounts %s, which is no volume", id, m.Name)
				}
				if m.SubPath != "" {
					t.Errorf("%s mounts %s by subPath, where a rotated Secret never arrives", id, m.Name)
				}
			}
			named := map[string]bool{}
			for _, p := range c.Ports {
				if other, taken := ports[p.ContainerPort]; taken && p.Protocol != corev1.ProtocolUDP {
					t.Errorf("%s and %s both listen on %d", id, other, p.ContainerPort)
				}
				ports[p.ContainerPort] = id
				named[p.Name] = true
			}
			for _, p := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
				if p == nil {
					continue
				}
				handlers := 0
				if p.HTTPGet != nil {
					handlers++
					if p.HTTPGet.Port.Type == intstr.String && !named[p.HTTPGet.Port.StrVal] {
						t.Errorf("%s is probed on port %s, which it does not have", id, p.HTTPGet.Port.StrVal)
					}
				}
				if p.TCPSocket != nil {
					handlers++
					if p.TCPSocket.Port.Type == intstr.String && !named[p.TCPSocket.Port.StrVal] {
						t.Errorf("%s is probed on port %s, which it does not have", id, p.TCPSocket.Port.StrVal)
					}
				}
				if handlers != 1 {
					t.Errorf("a probe of %s has %d handlers, want one", id, handlers)
				}
			}
		}
	}
}

// checkScaling: only one owner sets the number of replicas.
func checkScaling(t *testing.T, r rendered) {
	t.Helper()
	for name, a := range autoscalers(t, r) {
		d := deployments(t, r)[a.Spec.ScaleTargetRef.Name]
		if d == nil {
			t.Errorf("autoscaler %s scales Deployment %s, which there is not", name, a.Spec.ScaleTargetRef.Name)
			continue
		}
		if d.Spec.Replicas != nil {
			t.Errorf("Deployment %s renders replicas beside its autoscaler: every upgrade would fail or set them back", d.Name)
		}
		for _, m := range a.Spec.Metrics {
			if m.Object != nil && m.Object.DescribedObject.Name != d.Name {
				t.Errorf("autoscaler %s asks about %s, want %s", name, m.Object.DescribedObject.Name, d.Name)
			}
		}
	}
}

func guarded(d *appsv1.Deployment) bool {
	return d.Spec.Template.Labels["callguard.dev/guarded"] == "true"
}

// checkGuard: a guarded pod has what callguard needs, and an unguarded one has none of
// it.
func checkGuard(t *testing.T, r rendered) {
	t.Helper()
	for name, d := range deployments(t, r) {
		pod := d.Spec.Template.Spec
		if d.Spec.Template.Labels["callguard.dev/guarded"] == "" {
			for key := range d.Spec.Template.Annotations {
				if strings.HasPrefix(key, "callguard.dev/") {
					t.Errorf("%s is not guarded and has annotation %s", name, key)
				}
			}
			continue
		}
		if len(pod.Containers) != 1 {
			t.Errorf("%s has %d regular containers, want one: a Pending pod is evicted past every budget", name, len(pod.Containers))
		}
		for _, c := range pod.InitContainers {
			if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
				t.Errorf("%s of %s is no native sidecar", c.Name, name)
			}
		}
		if pod.PriorityClassName != "callguard-calls" {
			t.Errorf("%s has priority class %q, want callguard-calls", name, pod.PriorityClassName)
		}
		if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			t.Errorf("%s is recreated: its pods cannot be set aside", name)
		}
		for budget, b := range budgets(t, r) {
			if labels.SelectorFromSet(b.Spec.Selector.MatchLabels).Matches(labels.Set(d.Spec.Template.Labels)) {
				t.Errorf("PodDisruptionBudget %s is a second one over guarded pods of %s: evictions would answer 500", budget, name)
			}
		}
		secret := d.Spec.Template.Annotations["callguard.dev/livekit-secret"]
		granted := false
		for _, role := range roles(t, r) {
			want := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secret}, Verbs: []string{"get"}}}
			granted = granted || cmp.Equal(want, role.Rules)
		}
		if secret == "" || !granted {
			t.Errorf("%s names LiveKit Secret %q, and no Role lets callguard get that and nothing else", name, secret)
		}
		if int(*pod.TerminationGracePeriodSeconds) <= 3600 {
			t.Errorf("%s has a grace of %d s, not above its drain timeout", name, *pod.TerminationGracePeriodSeconds)
		}
		if port := d.Spec.Template.Annotations["callguard.dev/gate-port"]; port != "" {
			gate := container(t, d, "call-gate")
			if !slices.Contains(gate.Args, "--status-address=:"+port) {
				t.Errorf("annotation callguard.dev/gate-port of %s is %s; call-gate has %v", name, port, gate.Args)
			}
		}
	}
}

// TestHarness: what an API server refuses is refused here, too. Otherwise the checks
// above could pass without checking anything.
func TestHarness(t *testing.T) {
	t.Parallel()
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for name, tc := range map[string]struct{ pod, want string }{
		"DuplicateEnv": {
			pod:  "{containers: [{name: a, env: [{name: A, value: x}, {name: A, value: y}]}]}",
			want: `duplicate entries for key [name="A"]`,
		},
		"UnknownField": {
			pod:  "{replicaz: 3, containers: []}",
			want: "field not declared in schema",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects, err := decode("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: " + tc.pod)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := converter.ObjectToTyped(objects[0]); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// TestTwoReleases: two releases in one namespace share no name, and nothing of one
// selects pods of the other.
func TestTwoReleases(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("r", 52)
	odd := []string{"mcpServers.voice-agent-agent.image.repository=x", "mcpServers.voice-agent-agent.image.tag=a", "networkPolicy.enabled=true"}
	for name, pair := range map[string][2]given{
		"Plain":           {{release: "a", file: "full"}, {release: "b", file: "full"}},
		"ChartInRelease":  {{release: "voice", file: "full"}, {release: "voice-voice-agent", file: "full"}},
		"ReleaseIsChart":  {{release: "voice-agent"}, {release: "voice-agent-voice-agent"}},
		"LongAndAlike":    {{release: long + "a", file: "full"}, {release: long + "b", file: "full"}},
		"DotAndHyphen":    {{release: "a.b"}, {release: "a-b"}},
		"DigitAndPrefix":  {{release: "1a"}, {release: "r1a"}},
		"MCPLikeARelease": {{release: "a", set: odd}, {release: "a-voice-agent-mcp", set: odd}},
		"Unguarded":       {{release: "voice", file: "unguarded"}, {release: "voice-voice-agent", file: "unguarded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := pair[0].must(t), pair[1].must(t)
			names := map[string]bool{}
			for _, o := range one.objects {
				names[id(o)] = true
			}
			for _, o := range two.objects {
				if names[id(o)] {
					t.Errorf("both releases render %s", id(o))
				}
			}
			for _, way := range [][2]rendered{{one, two}, {two, one}} {
				for _, s := range selectors(t, way[0]) {
					for other, d := range deployments(t, way[1]) {
						if labels.SelectorFromSet(s.labels).Matches(labels.Set(d.Spec.Template.Labels)) {
							t.Errorf("%s selects pods of the other release's %s", s.id, other)
						}
					}
				}
			}
		})
	}
}

func id(o *unstructured.Unstructured) string { return o.GetKind() + " " + o.GetName() }

// TestSelectorsNeverChange: they are immutable, and no upgrade may touch them.
func TestSelectorsNeverChange(t *testing.T) {
	t.Parallel()
	before := deployments(t, given{}.must(t))
	changed := given{set: []string{
		"agent.image.tag=other", "commonLabels.a=b", "callguard.enabled=false", "livekit.hostNetwork=true", "worker.guarded=true",
		"agent.podLabels.c=d", "openai.model=gpt-realtime-2",
	}, chart: version}
	after := deployments(t, changed.must(t))
	for name, d := range before {
		if after[name] == nil {
			t.Errorf("Deployment %s changes its name", name)
			continue
		}
		if diff := cmp.Diff(d.Spec.Selector, after[name].Spec.Selector); diff != "" {
			t.Errorf("the selector of %s changes (-before +after):\n%s", name, diff)
		}
	}
}

// TestNewChartRestartsNobody: a new version of the chart alone changes no pod template.
func TestNewChartRestartsNobody(t *testing.T) {
	t.Parallel()
	before, after := deployments(t, given{file: "full"}.must(t)), deployments(t, given{file: "full", chart: version}.must(t))
	for name, d := range before {
		if diff := cmp.Diff(d.Spec.Template, after[name].Spec.Template); diff != "" {
			t.Errorf("the pods of %s change (-before +after):\n%s", name, diff)
		}
	}
}
