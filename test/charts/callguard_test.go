// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli/values"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

const addonFolder = "../../charts/callguard"

// addon is the input of helm for charts/callguard.
type addon struct {
	namespace string            // "callguard-system" if empty
	version   string            // of Kubernetes; "v1.36.0" if empty
	apis      common.VersionSet // of the cluster; if empty, those of helm template
	set, json []string
	chart     func(*chart.Chart)
}

func (a addon) render() (rendered, error) {
	c, err := loader.Load(addonFolder)
	if err != nil {
		return rendered{}, err
	}
	if a.chart != nil {
		a.chart(c)
	}
	vals, err := (&values.Options{Values: a.set, JSONValues: a.json}).MergeValues(nil)
	if err != nil {
		return rendered{}, err
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion.Version = "v1.36.0"
	if a.version != "" {
		capabilities.KubeVersion.Version = a.version
	}
	if a.apis != nil {
		capabilities.APIVersions = a.apis
	}
	if a.namespace == "" {
		a.namespace = "callguard-system"
	}
	all, err := util.ToRenderValues(c, vals, common.ReleaseOptions{Name: "callguard", Namespace: a.namespace, Revision: 1, IsInstall: true}, capabilities)
	if err != nil {
		return rendered{}, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return rendered{}, err
	}
	r := rendered{files: files}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		objects, err := decode(files[name])
		if err != nil {
			return rendered{}, fmt.Errorf("%s: %w\n%s", name, err, files[name])
		}
		r.objects = append(r.objects, objects...)
	}
	return r, nil
}

func (a addon) must(t *testing.T) rendered {
	t.Helper()
	r, err := a.render()
	if err != nil {
		t.Fatalf("%v %v does not render: %v", a.set, a.json, err)
	}
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for _, o := range r.objects {
		if !scheme.Scheme.Recognizes(o.GroupVersionKind()) {
			continue
		}
		if _, err := converter.ObjectToTyped(o); err != nil {
			t.Errorf("a server-side apply refuses %s: %v", id(o), err)
		}
	}
	return r
}

// pods returns every pod of the chart, including those of hooks.
func (r rendered) pods(t *testing.T) map[string]corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]corev1.PodTemplateSpec{}
	for name, d := range all[appsv1.Deployment](t, r, "Deployment") {
		found[name] = d.Spec.Template
	}
	for name, j := range all[batchv1.Job](t, r, "Job") {
		found[name] = j.Spec.Template
	}
	for name, p := range all[corev1.Pod](t, r, "Pod") {
		found[name] = corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}
	}
	if len(found) != 4 {
		t.Fatalf("there are the pods of %v; want two Deployments, a Job and a Pod", slices.Sorted(maps.Keys(found)))
	}
	return found
}

// TestAddonPods: podDefaults apply to every pod as far as they make sense, and a component
// can override them.
func TestAddonPods(t *testing.T) {
	t.Parallel()
	pods := addon{json: []string{
		`podDefaults={"podLabels":{"team":"voice","app.kubernetes.io/name":"mine"},"podAnnotations":{"a":"b"},"priorityClassName":"infra","runtimeClassName":"gvisor",
			"nodeSelector":{"pool":"infra","arch":"arm64"},"affinity":{"nodeAffinity":{}},"tolerations":[{"operator":"Exists"}],"dnsPolicy":"Default","dnsConfig":{"nameservers":["10.0.0.2"]},
			"hostAliases":[{"ip":"10.0.0.3","hostnames":["livekit.example.com"]}],"revisionHistoryLimit":2,"strategy":{"type":"Recreate"},
			"extraVolumes":[{"name":"cache","emptyDir":{}}],"extraVolumeMounts":[{"name":"cache","mountPath":"/cache"}],"initContainers":[{"name":"wait","image":"wait"}],
			"extraContainers":[{"name":"beside","image":"beside"}],"extraEnvFrom":[{"secretRef":{"name":"more"}}],"podSecurityContext":{"fsGroup":7},"securityContext":{"runAsUser":8}}`,
		`metricsAdapter.nodeSelector={"pool":"metrics"}`, `metricsAdapter.tolerations=[]`, `metricsAdapter.priorityClassName=""`,
		`drainGuard.topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]`,
	}}.must(t).pods(t)
	for name, pod := range pods {
		_, hook := map[string]bool{"drain-guard-unlock": true, "metrics-adapter-check": true}[name]
		of := map[bool]string{true: "metricsAdapter", false: "drainGuard"}[strings.HasPrefix(name, "metrics-adapter")]
		if pod.Labels["team"] != "voice" || pod.Labels["app.kubernetes.io/name"] != name || pod.Annotations["a"] != "b" {
			t.Errorf("%s has labels %v and annotations %v", name, pod.Labels, pod.Annotations)
		}
		spec := pod.Spec
		wantNodes, wantClass, wantTolerations := map[string]string{"pool": "infra", "arch": "arm64"}, "infra", 1
		if of == "metricsAdapter" {
			wantNodes, wantClass, wantTolerations = map[string]string{"pool": "metrics", "arch": "arm64"}, "", 0
		}
		if diff := cmp.Diff(wantNodes, spec.NodeSelector); diff != "" || spec.PriorityClassName != wantClass || len(spec.Tolerations) != wantTolerations {
			t.Errorf("%s runs at %v, with class %q and tolerations %v", name, spec.NodeSelector, spec.PriorityClassName, spec.Tolerations)
		}
		if *spec.RuntimeClassName != "gvisor" || spec.DNSPolicy != corev1.DNSDefault || len(spec.DNSConfig.Nameservers) != 1 || len(spec.HostAliases) != 1 || spec.Affinity == nil {
			t.Errorf("%s lacks some of its runtime class, names and affinity: %+v", name, spec)
		}
		if *spec.SecurityContext.FSGroup != 7 || !*spec.SecurityContext.RunAsNonRoot || *spec.Containers[0].SecurityContext.RunAsUser != 8 || !*spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("security of %s: %+v, %+v", name, spec.SecurityContext, spec.Containers[0].SecurityContext)
		}
		if got := len(spec.Containers) + len(spec.InitContainers); got != map[bool]int{false: 3, true: 1}[hook] {
			t.Errorf("%s has %d containers", name, got)
		}
		if cache := slices.ContainsFunc(spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "cache" }); cache == hook {
			t.Errorf("%s has the added volume: %t", name, cache)
		}
		for _, m := range spec.Containers[0].VolumeMounts {
			if !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("%s mounts %s, which is no volume", name, m.Name)
			}
		}
	}
	if got := pods["drain-guard"].Spec.TopologySpreadConstraints; len(got) != 1 || got[0].TopologyKey != "zone" {
		t.Errorf("drain-guard is spread by %+v", got)
	}
	if got := pods["metrics-adapter"].Spec.TopologySpreadConstraints; len(got) != 1 || got[0].TopologyKey != "kubernetes.io/hostname" {
		t.Errorf("metrics-adapter is spread by %+v", got)
	}
}

// TestAddonEnvironment: given as a map or as Kubernetes' list, each name appears once, in an
// order that lets variables refer to others, and the user's replace the chart's.
func TestAddonEnvironment(t *testing.T) {
	t.Parallel()
	field := &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}
	for name, tc := range map[string]struct {
		addon
		want []corev1.EnvVar
	}{
		"Default": {want: []corev1.EnvVar{{Name: "POD_NAMESPACE", ValueFrom: field}, {Name: "GOMEMLIMIT", Value: "204MiB"}}},
		"Map": {
			addon{json: []string{`podDefaults.extraEnv={"N":1234567,"B":true,"F":1.5,"GOMEMLIMIT":"90MiB"}`, `drainGuard.extraEnv={"S":{"valueFrom":{"secretKeyRef":{"name":"x","key":"y"}}},"B":false}`}},
			[]corev1.EnvVar{
				{Name: "POD_NAMESPACE", ValueFrom: field}, {Name: "B", Value: "false"}, {Name: "F", Value: "1.5"}, {Name: "GOMEMLIMIT", Value: "90MiB"}, {Name: "N", Value: "1234567"},
				{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}, Key: "y"}}},
			},
		},
		"List": {
			addon{json: []string{`drainGuard.extraEnv=[{"name":"Z","value":80},{"name":"A","value":"$(Z)"},{"name":"P","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}]`}},
			[]corev1.EnvVar{
				{Name: "POD_NAMESPACE", ValueFrom: field}, {Name: "GOMEMLIMIT", Value: "204MiB"}, {Name: "Z", Value: "80"}, {Name: "A", Value: "$(Z)"},
				{Name: "P", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, tc.must(t).pods(t)["drain-guard"].Spec.Containers[0].Env); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestAddonConnections: every pod trusts the authorities and uses the proxy, and a hook does
// not wait for a Secret that may be deleted.
func TestAddonConnections(t *testing.T) {
	t.Parallel()
	never := "localhost,127.0.0.0/8,::1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST)"
	plain := addon{set: []string{"ca.secret=corporate", "ca.key=all.pem", "proxy.url=http://proxy.example.com:3128", "proxy.noProxy=10.0.0.0/8", "networkPolicy.enabled=true"}}.must(t)
	for name, pod := range plain.pods(t) {
		c := pod.Spec.Containers[0]
		for variable, want := range map[string]string{
			"SSL_CERT_DIR": "/etc/ssl/certs:/etc/callguard/ca", "HTTPS_PROXY": "http://proxy.example.com:3128", "HTTP_PROXY": "http://proxy.example.com:3128", "NO_PROXY": never + ",10.0.0.0/8",
		} {
			if got := env(c)[variable]; got != want {
				t.Errorf("%s of %s is %q, want %q", variable, name, got, want)
			}
		}
		i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "ca" })
		if i < 0 || pod.Spec.Volumes[i].Secret.SecretName != "corporate" || !cmp.Equal(pod.Spec.Volumes[i].Secret.Items, []corev1.KeyToPath{{Key: "all.pem", Path: "ca.crt"}}) {
			t.Errorf("%s has volumes %+v", name, pod.Spec.Volumes)
			continue
		}
		hook := name != "drain-guard" && name != "metrics-adapter"
		if optional := pod.Spec.Volumes[i].Secret.Optional; (optional != nil && *optional) != hook {
			t.Errorf("%s starts without the authorities: %t", name, !hook)
		}
		if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.Name == "ca" && m.MountPath == "/etc/callguard/ca" && m.ReadOnly
		}) {
			t.Errorf("%s mounts %+v", name, c.VolumeMounts)
		}
	}
	if text := plain.files["callguard/templates/networkpolicy.yaml"]; strings.Count(text, "port: 3128}") != 3 {
		t.Errorf("the proxy's port is not open:\n%s", text)
	}
	secret := addon{set: []string{"ca.configMap=bundle", "proxy.existingSecret=proxy"}}.must(t).pods(t)["metrics-adapter"].Spec
	if v := secret.Volumes[len(secret.Volumes)-1]; v.ConfigMap == nil || v.ConfigMap.Name != "bundle" {
		t.Errorf("the authorities of a ConfigMap are %+v", v)
	}
	if i := slices.IndexFunc(secret.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "HTTPS_PROXY" }); i < 0 || secret.Containers[0].Env[i].ValueFrom.SecretKeyRef.Key != "proxy" {
		t.Errorf("the proxy of a Secret is %+v", secret.Containers[0].Env)
	}
}

// TestAddonHostNetwork: everything that names a port names the same one, and none of the
// kubelet's.
func TestAddonHostNetwork(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set             []string
		host            bool
		secure, webhook int32
		dns             corev1.DNSPolicy
		level           string
	}{
		"Default":   {secure: 10250, webhook: 8090, level: "restricted"},
		"OwnPorts":  {set: []string{"metricsAdapter.securePort=6443", "metricsAdapter.webhookPort=9000"}, secure: 6443, webhook: 9000, level: "restricted"},
		"Host":      {set: []string{"metricsAdapter.hostNetwork=true"}, host: true, secure: 10270, webhook: 8090, dns: corev1.DNSClusterFirstWithHostNet, level: "privileged"},
		"HostPorts": {set: []string{"metricsAdapter.hostNetwork=true", "metricsAdapter.securePort=4443", "metricsAdapter.webhookPort=4444", "metricsAdapter.dnsPolicy=Default"}, host: true, secure: 4443, webhook: 4444, dns: corev1.DNSDefault, level: "privileged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := addon{set: append(tc.set, "networkPolicy.enabled=true", "namespace.create=true")}.must(t)
			d := all[appsv1.Deployment](t, r, "Deployment")["metrics-adapter"]
			spec := d.Spec.Template.Spec
			if spec.HostNetwork != tc.host || spec.DNSPolicy != tc.dns {
				t.Errorf("host's network %t, dnsPolicy %q", spec.HostNetwork, spec.DNSPolicy)
			}
			if surge := d.Spec.Strategy.RollingUpdate; tc.host && (surge == nil || surge.MaxSurge.String() != "0" || surge.MaxUnavailable.String() != "1") {
				t.Errorf("on the host's network a new pod would wait for the old one's port: %+v", d.Spec.Strategy)
			}
			ports := map[string]int32{}
			for _, p := range spec.Containers[0].Ports {
				ports[p.Name] = p.ContainerPort
			}
			if diff := cmp.Diff(map[string]int32{"https": tc.secure, "webhooks": tc.webhook}, ports); diff != "" {
				t.Errorf("ports (-want +got)\n%s", diff)
			}
			args := strings.Join(spec.Containers[0].Args, " ")
			for flag, other := range map[string]bool{
				fmt.Sprintf("--secure-port=%d", tc.secure):            tc.secure != 10250,
				fmt.Sprintf("--webhook-bind-address=:%d", tc.webhook): tc.webhook != 8090,
			} {
				if strings.Contains(args, flag) != other {
					t.Errorf("the arguments %s have %s: %t", args, flag, !other)
				}
			}
			if peers := fmt.Sprintf(".svc:%d", tc.webhook); !strings.Contains(args, peers) {
				t.Errorf("webhooks are passed on to another port than %d: %s", tc.webhook, args)
			}
			for _, service := range services(t, r) {
				for _, p := range service.Spec.Ports {
					if p.TargetPort.StrVal != p.Name || ports[p.Name] == 0 {
						t.Errorf("Service %s leads to %s", service.Name, p.TargetPort.String())
					}
				}
			}
			policy := policies(t, r)["metrics-adapter"]
			if got := []int{policy.Spec.Ingress[0].Ports[0].Port.IntValue(), policy.Spec.Ingress[1].Ports[0].Port.IntValue()}; got[0] != int(tc.secure) || got[1] != int(tc.webhook) {
				t.Errorf("the NetworkPolicy opens %v", got)
			}
			if got := all[corev1.Namespace](t, r, "Namespace")["callguard-system"].Labels["pod-security.kubernetes.io/enforce"]; got != tc.level {
				t.Errorf("the namespace enforces %q, want %q", got, tc.level)
			}
			if r.pods(t)["metrics-adapter-check"].Spec.HostNetwork {
				t.Error("the pod of helm test is on the host's network")
			}
		})
	}
}

// TestAddonHasNoUser: OpenShift assigns users to each namespace and refuses a number.
func TestAddonHasNoUser(t *testing.T) {
	t.Parallel()
	for name, pod := range (addon{}).must(t).pods(t) {
		s := pod.Spec.SecurityContext
		if s.RunAsUser != nil || s.RunAsGroup != nil || s.FSGroup != nil || len(s.SupplementalGroups) > 0 || !*s.RunAsNonRoot {
			t.Errorf("%s: %+v", name, s)
		}
		for _, c := range pod.Spec.Containers {
			if c.SecurityContext.RunAsUser != nil || c.SecurityContext.RunAsGroup != nil {
				t.Errorf("%s/%s: %+v", name, c.Name, c.SecurityContext)
			}
		}
	}
	dockerfile, err := os.ReadFile("../../Dockerfile")
	if err != nil || !strings.Contains(string(dockerfile), "\nUSER 65532:65532") {
		t.Errorf("the image's USER is no number, so runAsNonRoot cannot be checked: %v", err)
	}
	if got := (addon{set: []string{"podDefaults.podSecurityContext.runAsUser=7"}}).must(t).pods(t)["drain-guard"].Spec.SecurityContext.RunAsUser; got == nil || *got != 7 {
		t.Errorf("a user of one's own is %v, want 7", got)
	}
}

// TestAddonQuota: GKE requires one, and the Job after an uninstall runs when it is deleted.
func TestAddonQuota(t *testing.T) {
	t.Parallel()
	const gke = "v1.36.1-gke.1201000"
	critical := []string{"system-cluster-critical"}
	for name, tc := range map[string]struct {
		addon
		want []string
	}{
		"Elsewhere":  {addon: addon{}},
		"GKE":        {addon: addon{version: gke}, want: critical},
		"KubeSystem": {addon: addon{version: gke, namespace: "kube-system"}},
		"OtherClass": {addon: addon{version: gke, set: []string{"podDefaults.priorityClassName=infra"}}},
		"OneOfTwo":   {addon: addon{version: gke, set: []string{"drainGuard.priorityClassName=infra"}}, want: critical},
		"Both":       {addon: addon{version: gke, set: []string{"drainGuard.priorityClassName=system-node-critical"}}, want: []string{"system-node-critical", "system-cluster-critical"}},
		"Off":        {addon: addon{version: gke, set: []string{"resourceQuota.create=false"}}},
		"On":         {addon: addon{set: []string{"resourceQuota.create=true"}}, want: critical},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			var got []string
			for _, quota := range all[corev1.ResourceQuota](t, r, "ResourceQuota") {
				got = quota.Spec.ScopeSelector.MatchExpressions[0].Values
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("priority classes (-want +got)\n%s", diff)
			}
			pods := r.pods(t)
			if class := pods["drain-guard-unlock"].Spec.PriorityClassName; slices.Contains(got, class) || len(got) == 0 && class != pods["drain-guard"].Spec.PriorityClassName {
				t.Errorf("the step after an uninstall has priority class %q, when the quota for %v is gone", class, got)
			}
		})
	}
}

// TestAddonMemory: the program knows its limit.
func TestAddonMemory(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]string{
		`"256Mi"`: "204MiB", `"128Mi"`: "102MiB", `"1Gi"`: "819MiB", `"1.5Gi"`: "1228MiB", `"1Ti"`: "838860MiB", `"262144Ki"`: "204MiB",
		`"100M"`: "76MiB", `"1G"`: "762MiB", `"1T"`: "762939MiB", `"300000k"`: "228MiB", `"268435456"`: "204MiB", `268435456`: "204MiB", `"1000"`: "800B", `null`: "", `"1e9"`: "", `"128974848000m"`: "", `"1Pi"`: "",
	} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			for _, component := range []string{"drainGuard", "metricsAdapter"} {
				name := map[string]string{"drainGuard": "drain-guard", "metricsAdapter": "metrics-adapter"}[component]
				got := env(addon{json: []string{component + ".resources.limits.memory=" + limit}}.must(t).pods(t)[name].Spec.Containers[0])["GOMEMLIMIT"]
				if got != want {
					t.Errorf("GOMEMLIMIT of %s is %q, want %q", component, got, want)
				}
			}
		})
	}
}

func TestAddonImages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set  []string
		want string
	}{
		"Default":        {want: "callguard:dev"},
		"Global":         {set: []string{"global.imageRegistry=mirror.example.com/"}, want: "mirror.example.com/callguard:dev"},
		"Own":            {set: []string{"global.imageRegistry=mirror.example.com", "image.registry=own.example.com"}, want: "own.example.com/callguard:dev"},
		"OwnInItsName":   {set: []string{"global.imageRegistry=mirror.example.com", "image.repository=own.example.com/callguard"}, want: "own.example.com/callguard:dev"},
		"OwnPort":        {set: []string{"global.imageRegistry=mirror.example.com", "image.repository=registry:5000/callguard"}, want: "registry:5000/callguard:dev"},
		"Folder":         {set: []string{"global.imageRegistry=mirror.example.com", "image.repository=callguard/callguard"}, want: "mirror.example.com/callguard/callguard:dev"},
		"GlobalAndTag":   {set: []string{"global.imageRegistry=m", "image.tag=v1"}, want: "m/callguard:v1"},
		"LocalhostIsOne": {set: []string{"global.imageRegistry=m", "image.repository=localhost/callguard"}, want: "localhost/callguard:dev"},
	} {
		for pod, spec := range (addon{set: tc.set}).must(t).pods(t) {
			if got := spec.Spec.Containers[0].Image; got != tc.want {
				t.Errorf("%s: %s runs %s, want %s", name, pod, got, tc.want)
			}
		}
	}
	want := []corev1.LocalObjectReference{{Name: "everywhere"}, {Name: "a"}, {Name: "b"}}
	for pod, spec := range (addon{json: []string{`global.imagePullSecrets=["everywhere"]`, `imagePullSecrets=["a",{"name":"b"},{"name":"a"}]`}}).must(t).pods(t) {
		if diff := cmp.Diff(want, spec.Spec.ImagePullSecrets); diff != "" {
			t.Errorf("pull secrets of %s (-want +got)\n%s", pod, diff)
		}
	}
}

// TestAddonLiveKitKeys: the programs get names only if the user set some.
func TestAddonLiveKitKeys(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set  []string
		want []string
	}{
		"Default": {want: []string{"--livekit-secret-dir=/etc/livekit"}},
		"Some":    {set: []string{"livekit.secretKeys.apiSecret=pass"}, want: []string{"--livekit-secret-dir=/etc/livekit", "--livekit-secret-keys=api-secret=pass"}},
		"All": {
			set:  []string{"livekit.secretKeys.url=host", "livekit.secretKeys.apiKey=id", "livekit.secretKeys.apiSecret=pass"},
			want: []string{"--livekit-secret-dir=/etc/livekit", "--livekit-secret-keys=api-key=id,api-secret=pass,url=host"},
		},
		"None": {set: []string{"livekit.secretName=", "livekit.secretKeys.url=host"}},
	} {
		pods := addon{set: tc.set}.must(t).pods(t)
		for _, program := range []string{"drain-guard", "metrics-adapter"} {
			var got []string
			for _, arg := range pods[program].Spec.Containers[0].Args {
				if strings.HasPrefix(arg, "--livekit") {
					got = append(got, arg)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: %s (-want +got)\n%s", name, program, diff)
			}
		}
	}
}

// TestAddonLabels: every object has the release's labels, selectors and pods do not change
// with a version, and users cannot override the chart's labels.
func TestAddonLabels(t *testing.T) {
	t.Parallel()
	optIns := []string{"networkPolicy.enabled=true", "serviceMonitor.enabled=true", "prometheusRule.enabled=true", "grafanaDashboard.enabled=true", "namespace.create=true", "tls.mode=certManager", "resourceQuota.create=true"}
	before := addon{set: optIns}.must(t)
	after := addon{set: append(optIns, "commonLabels.team=voice", "commonLabels.app\\.kubernetes\\.io/instance=mine", "commonAnnotations.owner=voice"), chart: version}.must(t)
	if len(before.objects) < 60 || len(before.objects) != len(after.objects) {
		t.Fatalf("%d and %d objects", len(before.objects), len(after.objects))
	}
	for _, o := range after.objects {
		l := o.GetLabels()
		if l["app.kubernetes.io/instance"] != "callguard" || l["app.kubernetes.io/managed-by"] != "Helm" || l["helm.sh/chart"] != "callguard-9.9.9" || l["app.kubernetes.io/part-of"] != "callguard" {
			t.Errorf("%s has labels %v", id(o), l)
		}
		if l["team"] != "voice" || o.GetAnnotations()["owner"] != "voice" {
			t.Errorf("%s lacks what every object has: %v, %v", id(o), l, o.GetAnnotations())
		}
	}
	for name, d := range deployments(t, after) {
		was := deployments(t, before)[name]
		if diff := cmp.Diff(was.Spec.Selector, d.Spec.Selector); diff != "" {
			t.Errorf("the selector of %s changes:\n%s", name, diff)
		}
	}
	newer := addon{set: optIns, chart: func(c *chart.Chart) { c.Metadata.Version = "9.9.9" }}.must(t)
	for name, d := range deployments(t, newer) {
		if diff := cmp.Diff(deployments(t, before)[name].Spec.Template, d.Spec.Template); diff != "" {
			t.Errorf("a new version of the chart alone restarts %s:\n%s", name, diff)
		}
	}
}

// TestAddonAccounts: whatever their names, the same accounts run the pods, have the rights
// and are exempt from the policies.
func TestAddonAccounts(t *testing.T) {
	t.Parallel()
	r := addon{set: []string{
		"drainGuard.serviceAccount.name=watcher", "metricsAdapter.serviceAccount.name=counter", "metricsAdapter.serviceAccount.create=false",
		"podDefaults.serviceAccount.automount=false", "drainGuard.serviceAccount.annotations.role=reader",
	}}.must(t)
	accounts := all[corev1.ServiceAccount](t, r, "ServiceAccount")
	if guard := accounts["watcher"]; guard == nil || accounts["counter"] != nil || guard.Annotations["role"] != "reader" || *guard.AutomountServiceAccountToken {
		t.Errorf("the accounts are %v", accounts)
	}
	pods := r.pods(t)
	if pods["drain-guard"].Spec.ServiceAccountName != "watcher" || pods["metrics-adapter"].Spec.ServiceAccountName != "counter" || *pods["metrics-adapter"].Spec.AutomountServiceAccountToken {
		t.Errorf("they run as %s and %s", pods["drain-guard"].Spec.ServiceAccountName, pods["metrics-adapter"].Spec.ServiceAccountName)
	}
	if !slices.Contains(pods["drain-guard"].Spec.Containers[0].Args, "--service-account=watcher") {
		t.Errorf("the guard does not know its account: %v", pods["drain-guard"].Spec.Containers[0].Args)
	}
	for name, b := range all[rbacv1.ClusterRoleBinding](t, r, "ClusterRoleBinding") {
		for _, s := range b.Subjects {
			if s.Name == "drain-guard" || s.Name == "metrics-adapter" {
				t.Errorf("ClusterRoleBinding %s is for %s, which no pod runs as", name, s.Name)
			}
		}
	}
	if doors := r.files["callguard/templates/doors/tamper-pods.yaml"]; !strings.Contains(doors, "system:serviceaccount:callguard-system:watcher'") {
		t.Error("the policies exempt another account")
	}
}

// TestAddonOwners lets drain-guard read further owners, and nothing else.
func TestAddonOwners(t *testing.T) {
	t.Parallel()
	rules := func(a addon) []rbacv1.PolicyRule {
		return all[rbacv1.ClusterRole](t, a.must(t), "ClusterRole")["callguard:drain-guard"].Rules
	}
	named := addon{set: []string{"drainGuard.owners={rollouts.argoproj.io,clonesets.apps.kruise.io}"}}
	before := rules(addon{})
	added := slices.DeleteFunc(rules(named), func(r rbacv1.PolicyRule) bool {
		return slices.ContainsFunc(before, func(was rbacv1.PolicyRule) bool { return cmp.Equal(was, r) })
	})
	verbs := []string{"get", "list", "watch"}
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{"argoproj.io"}, Resources: []string{"rollouts"}, Verbs: verbs},
		{APIGroups: []string{"apps.kruise.io"}, Resources: []string{"clonesets"}, Verbs: verbs},
	}
	if diff := cmp.Diff(want, added); diff != "" {
		t.Error(diff)
	}
	if args := named.must(t).pods(t)["drain-guard"].Spec.Containers[0].Args; !slices.Contains(args, "--owners=rollouts.argoproj.io,clonesets.apps.kruise.io") {
		t.Errorf("the guard does not know of them: %v", args)
	}
	for _, name := range []string{"rollouts", "*.argoproj.io", "deployments.apps"} {
		if _, err := (addon{set: []string{"drainGuard.owners={" + name + "}"}}).render(); err == nil {
			t.Errorf("owners %q are rendered", name)
		}
	}
}

// TestAddonAgentDrainTimeout has the guard and the policy that warns of short graces agree on what is short.
func TestAddonAgentDrainTimeout(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		set        []string
		arg        bool
		least, use string
	}{
		{least: ">= 3600\"", use: "terminationGracePeriodSeconds: 4020'"},
		{set: []string{"drainGuard.agentDrainTimeoutSeconds=600"}, arg: true, least: ">= 600\"", use: "terminationGracePeriodSeconds: 1020'"},
	} {
		r := addon{set: tc.set}.must(t)
		if args := r.pods(t)["drain-guard"].Spec.Containers[0].Args; slices.Contains(args, "--agent-drain-timeout=600s") != tc.arg {
			t.Errorf("with %v the guard has %v", tc.set, args)
		}
		advice := r.files["callguard/templates/doors/workload-advice.yaml"]
		for _, want := range []string{tc.least, tc.use} {
			if !strings.Contains(advice, want) {
				t.Errorf("with %v the policy has no %q", tc.set, want)
			}
		}
	}
}

// TestAddonOldValues: an upgrade with --reuse-values brings the values of the last
// release, and none of the new ones.
func TestAddonOldValues(t *testing.T) {
	t.Parallel()
	old := func(c *chart.Chart) {
		for _, key := range []string{"commonLabels", "commonAnnotations", "ca", "proxy", "podDefaults", "resourceQuota", "ipFamilyPolicy", "ipFamilies", "extraObjects"} {
			delete(c.Values, key)
		}
		of := func(key string) map[string]any {
			values, ok := c.Values[key].(map[string]any)
			if !ok {
				t.Fatalf("values.yaml has no %s", key)
			}
			return values
		}
		delete(of("image"), "registry")
		for _, key := range []string{"extraIngress", "extraEgress"} {
			delete(of("networkPolicy"), key)
		}
		for _, key := range []string{"relabelings", "metricRelabelings"} {
			delete(of("serviceMonitor"), key)
		}
		delete(of("livekit"), "secretKeys")
		delete(of("drainGuard"), "agentDrainTimeoutSeconds")
		for _, key := range []string{"hostNetwork", "securePort", "webhookPort"} {
			delete(of("metricsAdapter"), key)
		}
		for _, component := range []string{"drainGuard", "metricsAdapter"} {
			maps.Copy(of(component), map[string]any{"priorityClassName": "system-cluster-critical", "nodeSelector": map[string]any{}, "tolerations": []any{}, "affinity": map[string]any{}})
		}
	}
	set := []string{"networkPolicy.enabled=true", "serviceMonitor.enabled=true"}
	if diff := cmp.Diff((addon{set: set}).must(t).files, (addon{set: set, chart: old}).must(t).files); diff != "" {
		t.Errorf("the values of the last release render otherwise (-new values +old ones)\n%s", diff)
	}
}

func TestAddonRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		addon
		want string
	}{
		"FewRequests":     {addon{set: []string{"livekit.requestsPerMinute=39"}}, "minimum: got 39, want 40"},
		"KubeletsPort":    {addon{set: []string{"metricsAdapter.hostNetwork=true", "metricsAdapter.securePort=10250"}}, "metricsAdapter.securePort is 10250, and on the host network the kubelet uses that port; use another, such as 10270"},
		"KubeletsWebhook": {addon{set: []string{"metricsAdapter.hostNetwork=true", "metricsAdapter.webhookPort=10250"}}, "metricsAdapter.webhookPort is 10250"},
		"RootsPort":       {addon{set: []string{"metricsAdapter.hostNetwork=true", "metricsAdapter.securePort=443"}}, "metricsAdapter.securePort is 443, a port that only root may use on the host network; use 1024 or more"},
		"OnePort":         {addon{set: []string{"metricsAdapter.webhookPort=10250"}}, "metricsAdapter.securePort and metricsAdapter.webhookPort are both 10250"},
		"Memory":          {addon{set: []string{"metricsAdapter.resources.limits.memory=256MB"}}, `metricsAdapter.resources.limits.memory is "256MB", which is not a quantity; use one such as 256Mi`},
		"TwoAuthorities":  {addon{set: []string{"ca.secret=a", "ca.configMap=b"}}, "ca.secret is a and ca.configMap is b; use one of them"},
		"ProxyPassword":   {addon{set: []string{"proxy.url=http://me:hush@proxy:3128"}}, "proxy.url holds a password; put the URL into a Secret, and name that in proxy.existingSecret"},
		"TwoProxies":      {addon{set: []string{"proxy.url=http://proxy:3128", "proxy.existingSecret=x"}}, "proxy.url is http://proxy:3128 and proxy.existingSecret is x"},
		"ProxyURL":        {addon{set: []string{"proxy.url=proxy:3128"}}, "at '/proxy/url'"},
		"SharedAccount":   {addon{set: []string{"podDefaults.serviceAccount.name=all"}}, "podDefaults.serviceAccount.name is all, and each component has an account of its own"},
		"OneAccount":      {addon{set: []string{"metricsAdapter.serviceAccount.name=drain-guard"}}, "drain-guard and metrics-adapter both run as drain-guard"},
		"Quota":           {addon{set: []string{"resourceQuota.create=maybe"}}, "at '/resourceQuota/create'"},
		"Typo":            {addon{set: []string{"drainGuard.tolerationz=x"}}, "'tolerationz'"},
		"DeepTypo":        {addon{set: []string{"metricsAdapter.serviceAccount.nam=x"}}, "'nam'"},
		"Env":             {addon{json: []string{`drainGuard.extraEnv={"A":{"value":"x"}}`}}, "/drainGuard/extraEnv/A"},
		"EnvList":         {addon{json: []string{`podDefaults.extraEnv=[{"nam":"x"}]`}}, "/podDefaults/extraEnv/0"},
		"PullSecret":      {addon{json: []string{`imagePullSecrets=[{"nme":"x"}]`}}, "/imagePullSecrets/0"},
		"KeyName":         {addon{set: []string{"livekit.secretKeys.url=a/b"}}, "/livekit/secretKeys/url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tc.render()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v\nwant an error with %s", err, tc.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error repeats a password: %v", err)
			}
		})
	}
}

// TestUmbrella: a chart can have both as dependencies, with their values below their names,
// and callguard may read the Secret of its agent.
func TestUmbrella(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	text := "apiVersion: v2\nname: telephony\nversion: 1.0.0\ndependencies:\n"
	for name, from := range map[string]string{"callguard": addonFolder, "voice-agent": folder} {
		if err := os.CopyFS(filepath.Join(parent, "charts", name), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("- {name: %s, version: 0.1.0, repository: \"file://../%[1]s\"}\n", name)
	}
	if err := os.Mkdir(filepath.Join(parent, "templates"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(parent, "templates", "NOTES.txt"), "Installed.\n")
	write(t, filepath.Join(parent, "Chart.yaml"), text)
	write(t, filepath.Join(parent, "values.yaml"), `global: {imageRegistry: registry.example.com}
voice-agent:
  agent: {image: {repository: agent, tag: a}}
  livekit: {apiKey: key, apiSecret: a-secret-of-at-least-32-characters}
  callguard: {namespace: voice}
`)
	lint := action.NewLint()
	lint.Strict, lint.Namespace = true, namespace
	for _, m := range lint.Run([]string{parent}, nil).Messages {
		if m.Severity > support.InfoSev {
			t.Errorf("%v", m)
		}
	}
	c, err := loader.Load(parent)
	if err != nil {
		t.Fatal(err)
	}
	r, err := renderChart(c, "tel", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range r.objects {
		if key := id(o) + o.GetNamespace(); seen[key] {
			t.Errorf("%s is rendered twice", id(o))
		} else {
			seen[key] = true
		}
	}
	accounts := all[corev1.ServiceAccount](t, r, "ServiceAccount")
	found := 0
	for _, b := range all[rbacv1.RoleBinding](t, r, "RoleBinding") {
		if b.Labels["app.kubernetes.io/name"] != "voice-agent" || b.Labels["app.kubernetes.io/component"] == "try" {
			continue
		}
		for _, s := range b.Subjects {
			if found++; s.Namespace != namespace || accounts[s.Name] == nil {
				t.Errorf("the agent's Secret may be read by %s/%s, which does not exist here", s.Namespace, s.Name)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d accounts of callguard may read the agent's Secret, want two", found)
	}
}
