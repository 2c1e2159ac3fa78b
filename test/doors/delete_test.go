// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/test/trial"
)

// populate creates a pod in every state that the delete policy distinguishes.
func populate(t *testing.T, namespace string) {
	t.Helper()
	pending := agentPod("pending")
	pending.Spec.SchedulerName = "nobody"
	create(t, namespace, pending)
	serving(t, namespace, "serving", "unready", "crashing", "failed", "aside", "draining", "released", "terminating", "shortened", "leaving", "terminated")
	kubeletReports(t, namespace, "unready", unready)
	kubeletReports(t, namespace, "crashing", crashing)
	kubeletReports(t, namespace, "terminated", ended)
	kubeletReports(t, namespace, "failed", func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
	guardPatches(t, namespace, "aside", `{"metadata":{"labels":{"pod-template-hash":"x-aside"},"annotations":{"callguard.dev/hash":"x","callguard.dev/aside":"drain 2026-01-01T00:00:00Z"}}}`)
	for _, name := range []string{"draining", "released", "leaving"} {
		guardPatches(t, namespace, name, `{"metadata":{"annotations":{"callguard.dev/draining":"drain 2026-01-01T00:00:00Z"}}}`)
	}
	for _, name := range []string{"released", "leaving"} {
		guardPatches(t, namespace, name, `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`)
	}
	shorter := int64(300)
	for name, options := range map[string]metav1.DeleteOptions{"terminating": {}, "shortened": {GracePeriodSeconds: &shorter}, "leaving": {}} {
		trial.Must(t, stage.as(breakGlass()).CoreV1().Pods(namespace).Delete(t.Context(), name, options))
	}
}

func TestDelete(t *testing.T) {
	const (
		held  = "callguard-delete: pod %s may hold calls. Annotate it with callguard.dev/leave, or drain its node, and it goes after its last call"
		grace = "callguard-delete: pod %s keeps its grace period of %d seconds, in which its calls can end."
	)
	ns := enabled(t, "delete")
	populate(t, ns)
	cases := map[string]struct {
		reason string
		// held pods are refused to everybody who is not exempt, whatever the grace period.
		held bool
		// runs means that a container runs; then a grace period below least is refused to everybody but the exempt and
		// kubelets.
		runs  bool
		least int64
	}{
		"pending":     {reason: "No container has run, so nobody is on a call."},
		"serving":     {reason: "It may hold calls.", held: true, runs: true},
		"unready":     {reason: "A pod that is not ready may hold calls all the same.", held: true, runs: true},
		"crashing":    {reason: "A pod whose container waits to be started again holds none."},
		"failed":      {reason: "A node that shuts down reports so while its containers still run.", held: true, runs: true},
		"aside":       {reason: "Its calls go on.", held: true, runs: true},
		"draining":    {reason: "Its calls go on.", held: true, runs: true},
		"released":    {reason: "Its calls are over; what still ends has the grace period.", runs: true, least: 600},
		"terminating": {reason: "It is already being deleted, with its grace period.", runs: true, least: 600},
		"shortened":   {reason: "A grace period that somebody exempt has shortened stays short.", runs: true, least: 300},
		"leaving":     {reason: "It is already being deleted, with its grace period.", runs: true, least: 600},
		"terminated":  {reason: "Its containers have ended."},
	}
	seconds := func(n int64) *int64 { return &n }
	graces := map[string]*int64{"its own grace": nil, "grace 0": seconds(0), "grace 1": seconds(1), "grace -1": seconds(-1), "grace 299": seconds(299), "grace 600": seconds(600), "grace 700": seconds(700)}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, id := range everybody() {
				exempt := isOneOf(id, breakGlass(), namespaces(), podCollector())
				own := id
				if id.user == kubelet().user { // a kubelet may delete only the pods of its own node
					if node := get(t, ns, name).Spec.NodeName; node != "" {
						own.user = "system:node:" + node
					}
				}
				for given, g := range graces {
					want := allowed
					switch {
					case tc.held && !exempt:
						want = fmt.Sprintf(held, name)
					case tc.runs && g != nil && *g < tc.least && !exempt && id.name != kubelet().name:
						want = fmt.Sprintf(grace, name, tc.least)
					}
					cell := fmt.Sprintf("%s %s deletes pod %s with %s", tc.reason, id.name, name, given)
					if name == "pending" && id.name == kubelet().name {
						continue // it has no kubelet
					}
					err := stage.as(own).CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: dry(), GracePeriodSeconds: g})
					expect(t, cell, want, err)
					if id.name == kubelet().name || g != nil && *g != 0 {
						continue // kubelets delete no collections, and two grace periods are enough to see whether they matter
					}
					err = stage.as(own).CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{DryRun: dry(), GracePeriodSeconds: g}, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
					expect(t, cell+", as a collection", want, err)
				}
			}
		})
	}
}

func TestDeleteByTheCluster(t *testing.T) {
	ns := enabled(t, "delete-cluster")
	ctx := t.Context()
	pods := serving(t, ns, "stays", "goes", "runs-on")

	guardPatches(t, ns, "goes", `{"metadata":{"labels":{"callguard.dev/released":"operator"}}}`)
	trial.Must(t, stage.as(guard()).CoreV1().Pods(ns).Delete(ctx, "goes", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pods[1].UID))}))
	kubeletReports(t, ns, "goes", ended)
	trial.Must(t, eventually(ctx, "the kubelet's last delete goes through", gone(t, ns, "goes")))

	// A node that evicts everybody: the taint eviction controller tries, and is refused.
	node := pods[0].Spec.NodeName
	taint(t, node, corev1.Taint{Key: "test", Effect: corev1.TaintEffectNoExecute})
	t.Cleanup(func() { taint(t, node) })
	trial.Must(t, eventually(ctx, "the taint eviction controller has tried", func() (bool, error) {
		for _, c := range get(t, ns, "stays").Status.Conditions {
			if c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByTaintManager" {
				return true, nil
			}
		}
		return false, nil
	}))
	if get(t, ns, "stays").DeletionTimestamp != nil {
		t.Error("the taint eviction controller deleted a pod that may hold calls")
	}
}

func gone(t *testing.T, namespace, name string) func() (bool, error) {
	return func() (bool, error) {
		list, err := stage.admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		return err == nil && len(list.Items) == 0, err
	}
}
