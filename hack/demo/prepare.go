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
	trySecret     = "try" // the name of a Secret with a LiveKit key for kubectl calls try
)

// prepare makes the Deployment of agents and its autoscaler, and waits until
// both are ready for calls.
func (w *watch) prepare(ctx context.Context) error {
	if err := w.stage.Namespace(ctx, namespace); err != nil {
		return err
	}
	for _, one := range theSides() {
		if err := one.labelNodes(ctx, w.stage); err != nil {
			return err
		}
	}
	d := lab.Agent(namespace, 1)
	// No drain of another side has to wait for the agent that is left from the first act.
	d.Spec.Template.Spec.NodeSelector = map[string]string{sideLabel: theSides()[0].namespace}
	if _, err := w.stage.Client.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
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

// tryOnce makes a call to the first agent as an operator does, and returns what kubectl calls try says of it. The call leaves no
// trace: its last step waits until it is not counted any more.
func (w *watch) tryOnce(ctx context.Context) (string, error) {
	if err := w.stage.Secret(ctx, namespace, trySecret, w.stage.LiveKits[0]); err != nil {
		return "", err
	}
	args := []string{"try", "-n", namespace, "--livekit-secret", trySecret, "--expect=join"}
	try, err := w.stage.AdminCalls(ctx, args...)
	if err != nil {
		return "", err
	}
	said, err := try.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl calls %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return fmt.Sprintf("$ kubectl calls %s\n%s\n", strings.Join(args, " "), said), nil
}

// interruptedOr returns the error, or that somebody did not want to wait.
func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
