// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bothNamings has agents find the story's LiveKit by a Secret as LiveKit's documentation makes it, and by one with this chart's
// names, without being told which: GET / of an agent is well, and --wait returns, only when it has registered through its
// gate with URL, key and secret. They are gone before anybody calls.
func bothNamings(t *testing.T, p *phones) {
	t.Helper()
	const namespace = "secrets"
	kubectl(t, "create", "namespace", namespace)
	kubectl(t, "label", "namespace", namespace, "callguard.dev/enabled=true")
	kubectl(t, "create", "secret", "generic", "voice-secrets", "-n", namespace, "--from-literal=openai=sk-of-nobody")
	url := "ws://" + livekitName + "." + voiceNamespace + ".svc:7880"
	for name, keys := range map[string][3]string{
		"standard": {"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"},
		"dashed":   {"url", "api-key", "api-secret"},
	} {
		kubectl(t, "create", "secret", "generic", name, "-n", namespace,
			"--from-literal="+keys[0]+"="+url, "--from-literal="+keys[1]+"="+p.key, "--from-literal="+keys[2]+"="+p.secret)
		helm(t, "install", name, "charts/voice-agent", "-n", namespace,
			"--set", "livekit.enabled=false", "--set", "livekit.existingSecret="+name, "--set", "worker.enabled=false",
			"--set", "agent.autoscaling.enabled=false", "--set", "agent.replicas=1", "--set", "agent.probes.realtime.mode=off",
			"--set", "agent.resources.requests.cpu=50m", "--set", "agent.resources.requests.memory=128Mi",
			"--set", "callguard.image.repository="+callguardImage, "--set-string", "callguard.image.tag="+imageTag,
			"--set", "agent.image.repository="+agentImage, "--set-string", "agent.image.tag="+imageTag, "--wait", "--timeout", "5m")
		helm(t, "uninstall", name, "-n", namespace, "--wait", "--timeout", "5m")
	}
	eventually(t, 2*time.Minute, "the agents of other releases are gone", func() error {
		list, err := stage.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 { // those that are ending, too
			err = fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
	kubectl(t, "delete", "namespace", namespace, "--timeout=60s")
}
