// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/test/lab"
)

// keep tidies the stage, leaves it to whoever wants to look around, and returns when they press Enter or Ctrl-C. Both
// are a regular end.
func keep(ctx context.Context, w *watch, s *screen, stdin *os.File, progress *pulse) error {
	quiet := progress.start()
	err := tidy(ctx, w, progress)
	quiet()
	if err != nil {
		return interruptedOr(ctx, err)
	}
	text, err := w.howTo(ctx, term.IsTerminal(int(stdin.Fd())))
	if err != nil {
		return err
	}
	s.print(text)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if term.IsTerminal(int(stdin.Fd())) {
		go func() { // it ends with the program
			if _, err := stdin.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				stop()
			}
		}()
	}
	if err := w.stage.Callers.Play(ctx, afterwards()); ctx.Err() == nil {
		return err
	}
	return nil
}

// tidy removes the compared variants, and uncordons the nodes.
func tidy(ctx context.Context, w *watch, progress io.Writer) error {
	_, _ = fmt.Fprintln(progress, "taking away what was compared, and opening the nodes again")
	for _, one := range theSides() {
		if err := w.stage.DeleteNamespace(ctx, one.namespace); err != nil {
			return err
		}
		open := []byte(`{"spec":{"unschedulable":null}}`)
		if _, err := w.stage.Client.CoreV1().Nodes().Patch(ctx, one.node, types.MergePatchType, open, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot uncordon %s: %w", one.node, err)
		}
	}
	// As doctor wants it, which is possible now that callguard is installed: a rollout, for which callguard releases the
	// agent of the first act.
	better := fmt.Appendf(nil, `{"spec":{"template":{"spec":{"priorityClassName":%q,"terminationGracePeriodSeconds":%d}}}}`, priorityClass, hourOfGrace)
	if _, err := w.stage.Client.AppsV1().Deployments(namespace).Patch(ctx, lab.AgentName, types.StrategicMergePatchType, better, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("cannot change the agents of namespace %s: %w", namespace, err)
	}
	_, _ = fmt.Fprintln(progress, "rolling the agents out once more: a priority, and an hour of grace")
	return lab.Eventually(ctx, settleWithin, "the new agent is ready for calls, and the old one is gone", func() (bool, error) {
		pods, err := w.stage.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil || len(pods.Items) != 1 || pods.Items[0].Spec.PriorityClassName != priorityClass {
			return false, err
		}
		agents := w.stage.Fleet.Agents()
		return len(agents) == 1 && agents[0].Registered, nil
	})
}

// howTo says how to look around on a stage that is kept.
func (w *watch) howTo(ctx context.Context, terminal bool) (string, error) {
	kubeconfig, err := w.stage.Cluster.AdminKubeconfig()
	if err != nil {
		return "", err
	}
	kubectl, err := w.stage.Cluster.Kubectl()
	if err != nil {
		return "", err
	}
	plugin, err := w.stage.Plugin(ctx)
	if err != nil {
		return "", err
	}
	pods, err := w.stage.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) == 0 {
		return "", fmt.Errorf("there is no agent to look at in namespace %s: %w", namespace, err)
	}
	shell := filepath.Join(w.stage.Cluster.Dir(), "shell")
	settings := fmt.Sprintf("export KUBECONFIG=%q\nexport PATH=%q:\"$PATH\"\n", kubeconfig, filepath.Dir(plugin)+":"+filepath.Dir(kubectl))
	if err := os.WriteFile(shell, []byte(settings), 0o600); err != nil {
		return "", fmt.Errorf("cannot write what a shell needs: %w", err)
	}
	end := "Ctrl-C"
	if terminal {
		end = "Enter"
	}
	return strings.NewReplacer("SHELL_FILE", shell, "NODE", pods.Items[0].Spec.NodeName, "END", end).Replace(kept), nil
}

const kept = `The stage is yours: a cluster with callguard, and seven callers in namespace
voice. This program plays the agents and the callers, so leave it running.
END ends it all. In another shell:

  . SHELL_FILE

  kubectl calls -n voice             # who is in a call, pod by pod
  kubectl calls doctor               # are calls protected and counted
  kubectl calls try -n voice --livekit-secret try --expect=join   # one more
  kubectl calls plan NODE          # what a drain would wait for
  kubectl calls drain NODE         # drain it, and see what it waits for
  kubectl uncordon NODE
  kubectl get hpa -n voice -w

`
