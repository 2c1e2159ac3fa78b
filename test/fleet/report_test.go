// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodeReportsAgain has a node back after a while without its kubelet, and then without power.
func TestNodeReportsAgain(t *testing.T) {
	pod := runningPod(nil)
	f, client, _ := start(t, pod)
	read := func() *corev1.Pod {
		t.Helper()
		p, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	report := func() {
		t.Helper()
		if err := f.Report(t.Context(), read()); err != nil {
			t.Fatal(err)
		}
	}
	isReady := func() bool {
		for _, c := range read().Status.Conditions {
			if c.Type == corev1.PodReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	unheard := read()
	unheard.Status.Conditions = ready(corev1.ConditionFalse, time.Now())
	if _, err := client.CoreV1().Pods(pod.Namespace).UpdateStatus(t.Context(), unheard, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	report()
	if !isReady() || read().Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("an agent that ran on is ready %t, after %d restarts; want it ready, after none", isReady(), read().Status.ContainerStatuses[0].RestartCount)
	}

	if n := f.KillNode(pod.Spec.NodeName); n != 1 {
		t.Fatalf("%d agents of the node were killed; want 1", n)
	}
	eventually(t, "the agent has ended", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return !f.alive[pod.UID] })
	report()
	eventually(t, "another agent runs in the pod", func() bool { return len(f.Agents()) == 1 })
	if got := read().Status.ContainerStatuses[0].RestartCount; got != 1 {
		t.Errorf("the container was started again %d times; want once", got)
	}
}

// TestGateIsBackWithItsNode has the gate of a node that had no power start with its agent, and with its journal.
func TestGateIsBackWithItsNode(t *testing.T) {
	gates := &paperGates{}
	pod := gatedPod(t)
	f, client, _ := startWith(t, pod, func(c *Config) {
		c.LiveKit = func(*corev1.Pod) (Project, bool) {
			return Project{URL: "ws://127.0.0.1:1", APIKey: "key", APISecret: "secret"}, true
		}
		c.Gate, c.Volumes = gates.start, t.TempDir()
	})
	kept := filepath.Join(gates.flag("journal"), "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.KillNode(pod.Spec.NodeName)
	eventually(t, "the agent has ended", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return !f.alive[pod.UID] })
	p, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Report(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gate and agent run again", func() bool { return gates.started() == 2 && len(f.Agents()) == 1 })
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the journal is gone with the power: %v", err)
	}
}
