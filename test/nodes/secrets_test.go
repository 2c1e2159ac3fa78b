// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
)

// bothNamings lets agents find the story's LiveKit by a Secret with this chart's names, and, in privateAuthority, by one as
// in LiveKit's documentation, without values that name the keys: GET / of an agent succeeds, and --wait returns, only when it
// has registered through its gate with URL, key and secret. The releases are removed before any call.
func bothNamings(t *testing.T, p *phones) {
	t.Helper()
	const namespace, release = "secrets", "dashed"
	kubectl(t, "create", "namespace", namespace)
	kubectl(t, "label", "namespace", namespace, call.EnabledLabel+"=true")
	kubectl(t, "create", "secret", "generic", "voice-secrets", "-n", namespace, "--from-literal=openai=sk-of-nobody")
	kubectl(t, "create", "secret", "generic", "livekit", "-n", namespace, "--from-literal=url=ws://"+livekitName+"."+voiceNamespace+".svc:7880",
		"--from-literal=api-key="+p.key, "--from-literal=api-secret="+p.secret)
	helm(t, append([]string{
		"install", release, "charts/voice-agent", "-n", namespace, "--set", "livekit.existingSecret=livekit", "--set", "agent.probes.realtime.mode=off",
	}, oneAgent()...)...)
	leave(t, namespace, release)
}

// oneAgent are the values of a release without its own LiveKit, and with one agent.
func oneAgent() []string {
	return []string{
		"--set", "livekit.enabled=false", "--set", "worker.enabled=false", "--set", "agent.autoscaling.enabled=false", "--set", "agent.replicas=1",
		"--set", "agent.resources.requests.cpu=50m", "--set", "agent.resources.requests.memory=128Mi",
		"--set", "callguard.image.repository=" + callguardImage, "--set-string", "callguard.image.tag=" + imageTag,
		"--set", "agent.image.repository=" + agentImage, "--set-string", "agent.image.tag=" + imageTag, "--wait", "--timeout", "5m",
	}
}

// leave uninstalls the only release of a namespace, and deletes that when its agents are gone.
func leave(t *testing.T, namespace, release string) {
	t.Helper()
	helm(t, "uninstall", release, "-n", namespace, "--wait", "--timeout", "5m")
	eventually(t, 2*time.Minute, "the agents of other releases are gone", func() error {
		list, err := stage.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 { // including those that are ending
			err = fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
	kubectl(t, "delete", "namespace", namespace, "--timeout=60s")
}
