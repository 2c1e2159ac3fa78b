// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/guard"
)

// TestMissingMounts holds what drain-guard and doctor read of a kubelet's Events to what a real kubelet says of a pod whose Secret,
// ConfigMap or key of one is missing.
func TestMissingMounts(t *testing.T) {
	const namespace = "mounts"
	kubectl(t, "create", "namespace", namespace)
	kubectl(t, "create", "secret", "generic", "voice", "-n", namespace, "--from-literal=url=wss://livekit.example.com")
	kubectl(t, "create", "configmap", "voice", "-n", namespace, "--from-literal=greeting=hello")
	pods := stage.client.CoreV1().Pods(namespace)
	key := []corev1.KeyToPath{{Key: "api-key", Path: "key"}}
	object := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	want := map[string]string{}
	for name, tc := range map[string]struct {
		volume corev1.VolumeSource
		want   string
	}{
		"secret":        {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "voice-keys"}}, `secret "voice-keys" not found`},
		"configmap":     {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: object("prompts")}}, `configmap "prompts" not found`},
		"secret-key":    {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "voice", Items: key}}, "references non-existent secret key: api-key"},
		"configmap-key": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: object("voice"), Items: key}}, "references non-existent config key: api-key"},
		"projected": {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: object("voice-keys")}},
		}}}, `secret "voice-keys" not found`},
	} {
		want[name] = "volume keys cannot be mounted: " + tc.want
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "agent", Image: agentImage + ":" + imageTag, VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: "/keys"}}}},
			Volumes:    []corev1.Volume{{Name: "keys", VolumeSource: tc.volume}},
		}}
		eventually(t, 30*time.Second, "the namespace's account is there, and pod "+name+" with it", func() error {
			_, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
			return err
		})
	}
	for name, lacks := range want {
		eventually(t, time.Minute, "the kubelet says what pod "+name+" lacks", func() error {
			pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			of := guard.FailedMounts()
			of["involvedObject.uid"] = string(pod.UID)
			list, err := stage.client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: of.String()})
			if err != nil {
				return err
			}
			said := ""
			for _, e := range list.Items {
				if guard.CannotMount(pod, e.Message) == lacks {
					return nil
				}
				said += "\n" + e.Message
			}
			return fmt.Errorf("want %q of:%s", lacks, said)
		})
	}
	kubectl(t, "delete", "namespace", namespace, "--timeout=60s")
}
