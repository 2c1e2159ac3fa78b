// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const (
	// Calls are looked for among the agents often enough to see each, pods and usage less often.
	lookForCalls, lookAtPods, lookAtUsage = 500 * time.Millisecond, 2 * time.Second, 5 * time.Second
)

// watch looks at agents, pods and processes until ctx is done.
func (p *player) watch(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	every := func(distance time.Duration, look func(context.Context)) {
		all.Go(func() {
			tick := time.NewTicker(distance)
			defer tick.Stop()
			for {
				look(ctx)
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	every(lookForCalls, p.seeCalls)
	every(lookAtPods, p.seePods)
	every(lookAtReports, p.reportPods)
	if p.baseline == "" {
		every(lookAtUsage, p.seeUsage)
	}
	if p.baseline == AgonesLike {
		every(lookForSessions, p.lockSessions)
	}
}

// seeCalls notes who has which call.
func (p *player) seeCalls(context.Context) {
	agents := p.stage.Fleet.Agents()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range agents {
		for _, room := range a.Rooms {
			p.where[room] = place{a.Pod.Name, a.Node}
		}
	}
}

// seePods counts pods by state. What cannot be read is left out.
func (p *player) seePods(ctx context.Context) {
	list, err := p.stage.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	count, nodes := PodCount{At: p.now(), Cordoned: len(p.busy)}, map[string]bool{}
	for _, pod := range list.Items {
		if pod.Spec.NodeName != "" {
			nodes[pod.Spec.NodeName] = true
		}
		switch state := call.StateOf(pod.Labels, pod.Annotations); {
		case state == call.Aside:
			count.Aside++
		case state == call.Draining:
			count.Draining++
		case state == call.Released:
			count.Released++
		case ready(pod):
			count.Serving++
		default:
			count.NotReady++
		}
	}
	count.Nodes = len(nodes)
	p.pods = append(p.pods, count)
}

// seeUsage reads what adapter and guards take. One that is paused or dead says nothing, and is left out.
func (p *player) seeUsage(ctx context.Context) {
	for _, g := range p.guards.all() {
		metrics, err := g.Metrics(ctx)
		p.noteUsage(fmt.Sprintf("%s %d", lab.GuardName, g.Port), metrics, err)
	}
	if !p.adapter.TryLock() { // it is just replaced
		return
	}
	defer p.adapter.Unlock()
	metrics, err := p.stage.AdapterMetrics(ctx, p.stage.Adapter)
	p.noteUsage(fmt.Sprintf("%s %d", lab.AdapterName, p.stage.Adapter.Port), metrics, err)
}

func (p *player) noteUsage(process string, metrics lab.Metrics, err error) {
	memory, goroutines := metrics.Sum("process_resident_memory_bytes"), metrics.Sum("go_goroutines")
	if err != nil || memory == 0 || goroutines == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.usage = append(p.usage, Usage{At: p.now(), Process: process, Memory: memory, Goroutines: goroutines})
}
