// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/test/lab"
)

const (
	prepareWithin = time.Minute
	shrinkAfter   = 15 * time.Second
)

// prepare makes the Deployment of agents and its autoscaler, and waits until
// both are ready for calls.
func (w *watch) prepare(ctx context.Context) error {
	if err := w.stage.Namespace(ctx, namespace); err != nil {
		return err
	}
	if _, err := w.stage.Client.AppsV1().Deployments(namespace).Create(ctx, lab.Agent(namespace, 1), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make the Deployment of agents: %w", err)
	}
	err := lab.Eventually(ctx, prepareWithin, "the first agent is registered with LiveKit", func() (bool, error) {
		agents := w.stage.Fleet.Agents()
		return len(agents) == 1 && agents[0].Registered, nil
	})
	if err != nil {
		return interruptedOr(ctx, err)
	}
	err = lab.Eventually(ctx, prepareWithin, "the first agent is known to be idle", func() (bool, error) {
		r := w.active()
		if r.Why != "" {
			return false, errors.New(r.Why)
		}
		return r.N == 0, nil
	})
	if err != nil {
		return interruptedOr(ctx, err)
	}
	hpa := lab.Autoscaler(namespace, mostReplicas, lab.ObjectForm(), shrinkAfter)
	if _, err := w.stage.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(ctx, hpa, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make the autoscaler: %w", err)
	}
	return interruptedOr(ctx, lab.Eventually(ctx, prepareWithin, "the autoscaler is active", func() (bool, error) {
		s, err := w.look(ctx, 0)
		if err != nil {
			return false, err
		}
		return s.Scaling.Active == "True", nil
	}))
}

// interruptedOr returns the error, or that somebody did not want to wait.
func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// howTo says how to look around on a stage that is kept.
func (w *watch) howTo() (string, error) {
	kubeconfig, err := w.stage.Cluster.AdminKubeconfig()
	if err != nil {
		return "", err
	}
	kubectl, err := w.stage.Cluster.Kubectl()
	if err != nil {
		return "", err
	}
	return strings.NewReplacer("=FILE", "="+kubeconfig, "=KUBECTL", "="+kubectl).Replace(kept), nil
}

const kept = `The cluster, the metrics-adapter and the agents go on, with a few calls up. Leave this
program running, for it plays the agents and the callers; Ctrl-C ends it all. In another shell:

  export KUBECONFIG=FILE
  alias kubectl=KUBECTL
  kubectl get hpa -n voice -w
  kubectl get pods -n voice -o wide
  kubectl get --raw "/apis/custom.metrics.k8s.io/v1beta2/namespaces/voice/deployments.apps/agent/active_calls"
  kubectl get --raw "/apis/custom.metrics.k8s.io/v1beta2/namespaces/voice/pods/*/active_calls"

`
