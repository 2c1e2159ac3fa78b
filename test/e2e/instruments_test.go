// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// TestDroppedCallsAreCounted tests how other tests detect dropped calls: it ends calls in
// the ways that Kubernetes can, and reads the cause.
func TestDroppedCallsAreCounted(t *testing.T) {
	cases := map[string]struct {
		grace int64
		cause fleet.Cause
	}{
		"grace-is-over": {3, fleet.CauseGrace},
		"forced":        {0, fleet.CauseForced},
	}
	for _, name := range sorted(cases) {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "dropped-"+name)
			play(t, ns, 1, lab.ObjectForm(), time.Minute)
			calls := dial(t, ns, 2)
			calls[0].HangUp()
			pods, err := stage.ReadyPods(t.Context(), ns, 1)
			trial.Must(t, err)
			grace := cases[name].grace
			trial.Must(t, stage.Client.CoreV1().Pods(ns).Delete(t.Context(), pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}))
			select {
			case <-calls[1].Done():
			case <-time.After(30 * time.Second):
				t.Fatal("the call outlived its pod")
			}
			if loss, dropped := calls[1].Dropped(); !dropped || loss.Cause != cases[name].cause || loss.Pod.Name != pods[0].Name {
				t.Errorf("the call in progress: dropped %t, %+v; want cause %q in pod %s", dropped, loss, cases[name].cause, pods[0].Name)
			}
			if _, dropped := calls[0].Dropped(); dropped {
				t.Error("a call whose caller hung up before counts as dropped")
			}
		})
	}
}

// TestClusterIsReplaced runs a second instance next to the stage, breaks it, and requests
// it again.
func TestClusterIsReplaced(t *testing.T) {
	t.Parallel()
	var progress bytes.Buffer
	config := local.Config{Name: "e2e-second", Nodes: 1, Progress: &progress}
	cluster, err := local.Up(t.Context(), config)
	trial.Must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := cluster.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	before := pids(t, cluster)
	again, err := local.Up(t.Context(), config)
	trial.Must(t, err)
	if got := pids(t, again); got[local.APIServer] != before[local.APIServer] {
		t.Error("a healthy instance was replaced")
	}
	trial.Must(t, cluster.Kill(t.Context(), local.Scheduler))
	cluster, err = local.Up(t.Context(), config)
	trial.Must(t, err)
	if got := pids(t, cluster); got[local.APIServer] == before[local.APIServer] {
		t.Error("a half-dead instance was inherited")
	}
	if !strings.Contains(progress.String(), local.Scheduler) {
		t.Errorf("the output does not say what was dead:\n%s", progress.String())
	}
}

// pids returns the processes of an instance, all of which must be healthy.
func pids(t *testing.T, cluster *local.Cluster) map[string]int {
	t.Helper()
	components, err := cluster.Status(t.Context())
	trial.Must(t, err)
	found := map[string]int{}
	for _, c := range components {
		if !c.Healthy {
			t.Errorf("%s is sick: %s", c.Name, c.Why)
		}
		found[c.Name] = c.PID
	}
	return found
}
