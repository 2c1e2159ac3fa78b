// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	// A node that is not heard for lostAfter is lost, and pods tolerate that for a moment only. Kubernetes' defaults are 50 s and 300 s.
	lostAfter                         = 20 * time.Second
	nodeLeaseSeconds, tolerateSeconds = 8, 5
	// nodeReadyWithin is how long a node may take that comes back, and lookAtReports how often kubelets report.
	nodeReadyWithin, lookAtReports = 2 * time.Minute, 5 * time.Second
)

// nodeArgs has kube-controller-manager find a lost node soon.
func nodeArgs() []string {
	return []string{"--node-monitor-grace-period=" + lostAfter.String(), "--node-monitor-period=1s"}
}

// impatient are the tolerations of pods that leave a lost node soon.
func impatient() []corev1.Toleration {
	seconds := int64(tolerateSeconds)
	var list []corev1.Toleration
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		list = append(list, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	return list
}

// loseNode cuts the power of a node, and its kubelet with it, or only ends its kubelet. Both come back after the step's time.
func (p *player) loseNode(ctx context.Context, s Step) (string, error) {
	nodes := p.take(s.Node, 1)
	if len(nodes) == 0 {
		return "", passedOver("too few nodes are open")
	}
	node, said := nodes[0], ""
	if s.Kind == LoseNode {
		var err error
		if said, err = p.cutPower(ctx, node); err != nil {
			return "", errors.Join(err, p.open(ctx, node))
		}
	}
	p.setAway(node, true)
	always := context.WithoutCancel(ctx)
	err := p.stage.Cluster.Kill(always, node)
	p.pause(ctx, s.For)
	err = errors.Join(err, heard(always, func() error { return p.stage.Cluster.Start(always, node) }))
	if err == nil {
		err = lab.Eventually(always, nodeReadyWithin, node+" is ready again", func() (bool, error) {
			n, err := p.stage.Client.CoreV1().Nodes().Get(always, node, metav1.GetOptions{})
			return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}), err
		})
	}
	p.setAway(node, false)
	return node + said, errors.Join(err, p.open(ctx, node))
}

// cutPower kills all of a node's agents, whose calls are lost with it, while nobody waits for an agent.
func (p *player) cutPower(ctx context.Context, node string) (string, error) {
	for _, w := range Workloads() {
		p.next[w].Lock()
		defer p.next[w].Unlock()
	}
	err := lab.Eventually(ctx, answerWithin, "nobody waits", func() (bool, error) {
		return !slices.ContainsFunc(Workloads(), func(w string) bool { return len(p.waitingRooms(w)) > 0 }), nil
	})
	if err != nil {
		return "", passedOver("a caller waits for an agent")
	}
	p.did(Deed{Outcome: LostWithNode, Cause: string(fleet.CauseNode), Node: node})
	return fmt.Sprintf(", with %s", many(p.stage.Fleet.KillNode(node), "agent")), nil
}

func (p *player) setAway(node string, away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away[node] = away
}

// reportPods does what kubelets do that are heard: of pods that are not ready although their agents run, it says that they are.
// Controllers say so of the pods of a node that was not heard.
func (p *player) reportPods(ctx context.Context) {
	list, err := p.stage.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
	if err != nil {
		return // kube-apiserver is away, and asked again
	}
	for _, pod := range list.Items {
		p.mu.Lock()
		away := p.away[pod.Spec.NodeName]
		p.mu.Unlock()
		if pod.Spec.NodeName == "" || away || pod.Status.Phase != corev1.PodRunning {
			continue
		}
		if err := p.stage.Fleet.Report(ctx, &pod); err != nil && ctx.Err() == nil {
			p.fail("pod %s/%s is not reported: %v", pod.Namespace, pod.Name, err)
		}
	}
}
