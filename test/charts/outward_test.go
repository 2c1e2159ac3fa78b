// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// programs are the containers of the agent's and the worker's pods that reach out of the cluster.
var programs = [][2]string{{"agent", "call-gate"}, {"agent", "realtime-probe"}, {"agent", "agent"}, {"worker", "worker"}}

// said returns the values of these variables of a container: text, or the Secret and key they are read from.
func said(c corev1.Container, names ...string) map[string]string {
	found := map[string]string{}
	for _, e := range c.Env {
		if !slices.Contains(names, e.Name) {
			continue
		}
		found[e.Name] = e.Value
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			found[e.Name] = e.ValueFrom.SecretKeyRef.Name + "/" + e.ValueFrom.SecretKeyRef.Key
		}
	}
	return found
}

// TestPrivateAuthorities: one value reaches every program that makes TLS connections, and mounts certificates but no key.
func TestPrivateAuthorities(t *testing.T) {
	t.Parallel()
	type envs = map[string]string
	for name, tc := range map[string]struct {
		given
		volume *corev1.Volume
		ours   envs // call-gate, realtime-probe
		theirs envs // agent, worker
	}{
		"None":      {ours: envs{}, theirs: envs{}},
		"OldValues": {given: given{json: []string{"ca=null", "proxy=null", "podDefaults=null", "openshift=null", "nameOverride=null"}}, ours: envs{}, theirs: envs{}},
		"Secret": {
			given: given{set: []string{"ca.secret=root", "ca.key=tls.crt"}},
			volume: &corev1.Volume{Name: "private-ca", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: "root", Items: []corev1.KeyToPath{{Key: "tls.crt", Path: "ca.crt"}},
			}}},
			ours:   envs{"SSL_CERT_DIR": "/etc/ssl/certs:/etc/private-ca"},
			theirs: envs{"NODE_EXTRA_CA_CERTS": "/etc/private-ca/ca.crt", "SSL_CERT_FILE": "/etc/private-ca/ca.crt", "SSL_CERT_DIR": "/etc/ssl/certs"},
		},
		"Bundle": {
			given: given{set: []string{"ca.configMap=bundle", "ca.whole=true"}},
			volume: &corev1.Volume{Name: "private-ca", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "bundle"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}}},
			ours:   envs{"SSL_CERT_DIR": "/etc/ssl/certs:/etc/private-ca"},
			theirs: envs{"NODE_EXTRA_CA_CERTS": "/etc/private-ca/ca.crt", "SSL_CERT_FILE": "/etc/private-ca/ca.crt", "SSL_CERT_DIR": "/etc/ssl/certs", "REQUESTS_CA_BUNDLE": "/etc/private-ca/ca.crt"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			for _, p := range programs {
				d := deployment(t, r, p[0])
				c := container(t, d, p[1])
				want := tc.theirs
				if p[1] == "call-gate" || p[1] == "realtime-probe" {
					want = tc.ours
				}
				if diff := cmp.Diff(want, said(c, "SSL_CERT_DIR", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")); diff != "" {
					t.Errorf("%s (-want +got):\n%s", p[1], diff)
				}
				var volume *corev1.Volume
				for _, v := range d.Spec.Template.Spec.Volumes {
					if v.Name == "private-ca" {
						volume = &v
					}
				}
				if diff := cmp.Diff(tc.volume, volume); diff != "" {
					t.Errorf("the volume in %s (-want +got):\n%s", p[0], diff)
				}
				mounted := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
					return m.Name == "private-ca" && m.MountPath == "/etc/private-ca" && m.ReadOnly
				})
				if mounted != (tc.volume != nil) {
					t.Errorf("%s has the certificates: %t", p[1], mounted)
				}
			}
		})
	}
}

// TestProxy: one value reaches every program, excludes the pod itself and the cluster, and leaves out the agents if asked to,
// because LiveKit Agents for Python would use the proxy on its way to call-gate.
func TestProxy(t *testing.T) {
	t.Parallel()
	const inside = "localhost,127.0.0.1,::1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST)"
	for name, tc := range map[string]struct {
		given
		proxy, none string
		agents      bool
	}{
		"None":          {},
		"Text":          {given: given{set: []string{"proxy.url=http://proxy:3128"}}, proxy: "http://proxy:3128", none: inside, agents: true},
		"NoProxy":       {given: given{set: []string{"proxy.url=http://proxy:3128", "proxy.noProxy=10.0.0.0/8\\,.example.com"}}, proxy: "http://proxy:3128", none: inside + ",10.0.0.0/8,.example.com", agents: true},
		"Secret":        {given: given{set: []string{"proxy.existingSecret=way-out", "proxy.existingSecretKey=url"}}, proxy: "way-out/url", none: inside, agents: true},
		"WithoutAgents": {given: given{set: []string{"proxy.url=http://proxy:3128", "proxy.agent=false"}}, proxy: "http://proxy:3128", none: inside},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			for _, p := range programs {
				want := map[string]string{}
				if own := p[1] == p[0]; tc.proxy != "" && (tc.agents || !own) {
					want = map[string]string{"HTTPS_PROXY": tc.proxy, "HTTP_PROXY": tc.proxy, "NO_PROXY": tc.none}
				}
				if diff := cmp.Diff(want, said(container(t, deployment(t, r, p[0]), p[1]), "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")); diff != "" {
					t.Errorf("%s (-want +got):\n%s", p[1], diff)
				}
			}
		})
	}
}

// TestKeysOfASecret: LiveKit's own names and those of this chart are understood without values, others if values name them;
// then the programs get only the named keys of the Secret.
func TestKeysOfASecret(t *testing.T) {
	t.Parallel()
	named := []string{"livekit.secretKeys.url=LIVEKIT_URL", "livekit.secretKeys.apiKey=LIVEKIT_API_KEY", "livekit.secretKeys.apiSecret=LIVEKIT_API_SECRET"}
	for name, tc := range map[string]struct {
		given
		keys       map[string]string
		optional   bool
		whole      bool
		annotation string
	}{
		"Unnamed": {
			given: given{file: "cloud", set: []string{"livekit.url="}}, optional: true, whole: true,
			keys: map[string]string{"LIVEKIT_URL": "livekit/url", "LIVEKIT_API_KEY": "livekit/api-key", "LIVEKIT_API_SECRET": "livekit/api-secret"},
		},
		"Named": {
			given:      given{file: "cloud", set: append([]string{"livekit.url="}, named...)},
			keys:       map[string]string{"LIVEKIT_URL": "livekit/LIVEKIT_URL", "LIVEKIT_API_KEY": "livekit/LIVEKIT_API_KEY", "LIVEKIT_API_SECRET": "livekit/LIVEKIT_API_SECRET"},
			annotation: "url=LIVEKIT_URL,api-key=LIVEKIT_API_KEY,api-secret=LIVEKIT_API_SECRET",
		},
		"URLByValue": {
			given:      given{file: "cloud", set: named[1:]},
			keys:       map[string]string{"LIVEKIT_URL": "wss://project.livekit.cloud", "LIVEKIT_API_KEY": "livekit/LIVEKIT_API_KEY", "LIVEKIT_API_SECRET": "livekit/LIVEKIT_API_SECRET"},
			annotation: "api-key=LIVEKIT_API_KEY,api-secret=LIVEKIT_API_SECRET",
		},
		"MadeByTheChart": {
			keys: map[string]string{
				"LIVEKIT_URL":     "ws://v-voice-agent-livekit.voice.svc:7880",
				"LIVEKIT_API_KEY": "v-voice-agent-livekit-keys/api-key", "LIVEKIT_API_SECRET": "v-voice-agent-livekit-keys/api-secret",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent := deployment(t, tc.must(t), "agent")
			if got := agent.Spec.Template.Annotations["callguard.dev/livekit-secret-keys"]; got != tc.annotation {
				t.Errorf("annotation callguard.dev/livekit-secret-keys is %q, want %q", got, tc.annotation)
			}
			for _, one := range []string{"call-gate", "agent"} {
				c := container(t, agent, one)
				want := map[string]string{}
				for k, v := range tc.keys {
					want[k] = v
				}
				if one == "agent" {
					want["LIVEKIT_PUBLIC_URL"], want["LIVEKIT_URL"] = want["LIVEKIT_URL"], "ws://127.0.0.1:7880"
				}
				if diff := cmp.Diff(want, said(c, "LIVEKIT_URL", "LIVEKIT_PUBLIC_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")); diff != "" {
					t.Errorf("%s (-want +got):\n%s", one, diff)
				}
				for _, e := range c.Env {
					if e.Name == "LIVEKIT_API_KEY" && (e.ValueFrom.SecretKeyRef.Optional != nil) != tc.optional {
						t.Errorf("%s of %s may be missing: %t", e.Name, one, !tc.optional)
					}
				}
				if whole := len(c.EnvFrom) == 1 && c.EnvFrom[0].SecretRef.Name == "livekit"; whole != tc.whole {
					t.Errorf("%s has the whole Secret in its environment: %t; want %t", one, whole, tc.whole)
				}
			}
		})
	}
}

// TestServerOfASecretWithoutFile: LiveKit's server reads the named key, and needs no keys.yaml; without names the NOTES say
// what it needs.
func TestServerOfASecretWithoutFile(t *testing.T) {
	t.Parallel()
	named := given{set: []string{"livekit.existingSecret=standard", "livekit.secretKeys.apiKey=LIVEKIT_API_KEY", "livekit.secretKeys.apiSecret=LIVEKIT_API_SECRET"}}.must(t)
	server := deployment(t, named, "livekit")
	c := container(t, server, "livekit")
	want := map[string]string{
		"LIVEKIT_API_KEY": "standard/LIVEKIT_API_KEY", "LIVEKIT_API_SECRET": "standard/LIVEKIT_API_SECRET",
		"LIVEKIT_KEYS": `"$(LIVEKIT_API_KEY)": "$(LIVEKIT_API_SECRET)"`,
	}
	if diff := cmp.Diff(want, said(c, "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET", "LIVEKIT_KEYS")); diff != "" {
		t.Errorf("the server's keys (-want +got):\n%s", diff)
	}
	if config := all[corev1.ConfigMap](t, named, "ConfigMap")["v-voice-agent-livekit-config"].Data["config.yaml"]; strings.Contains(config, "key_file") {
		t.Errorf("the server's configuration also has a file, which LiveKit would prefer:\n%s", config)
	}
	for _, v := range server.Spec.Template.Spec.Volumes {
		if v.Name == "keys" {
			t.Error("the server waits for keys.yaml, which is not in the Secret")
		}
	}

	unnamed := given{set: []string{"livekit.existingSecret=standard"}}.must(t)
	if c := container(t, deployment(t, unnamed, "livekit"), "livekit"); len(c.Env) > 0 {
		t.Errorf("the server has %v beside its file", c.Env)
	}
	const say = "LiveKit's server reads its keys from keys.yaml of Secret standard"
	if !strings.Contains(unnamed.notes(), say) || strings.Contains(named.notes(), say) {
		t.Errorf("want %q where no key is named, and there only:\n%s", say, unnamed.notes())
	}
}
