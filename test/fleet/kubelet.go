// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kubernetes' defaults of a probe.
const (
	probePeriod   = 10
	probeFailures = 3
)

// kubelet runs the readiness probes of one pod's containers and writes the results: for each container, and for the pod.
type kubelet struct {
	fleet *Fleet
	pod   *corev1.Pod
	stop  func()
	done  sync.WaitGroup

	mu     sync.Mutex // held while a status is written
	paused bool       // the agent's container does not run
	told   string     // the last status written
}

// probe is one container and its probe.
type probe struct {
	container string
	sidecar   bool // an init container that runs on
	url       string
	period    time.Duration
	failures  int

	ready bool
	wrong int // failures in a row
	next  time.Time
}

func (f *Fleet) newKubelet(ctx context.Context, pod *corev1.Pod) *kubelet {
	ctx, cancel := context.WithCancel(ctx)
	k := &kubelet{fleet: f, pod: pod}
	k.stop = func() { cancel(); k.done.Wait() }
	probes := probesOf(pod)
	k.done.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			k.look(ctx, probes)
		}
	})
	return k
}

// probesOf returns the readiness probes of a pod. A container without one is ready while it runs.
func probesOf(pod *corev1.Pod) []*probe {
	var list []*probe
	add := func(c corev1.Container, sidecar bool) {
		p := &probe{container: c.Name, sidecar: sidecar, period: probePeriod * time.Second, failures: probeFailures}
		if r := c.ReadinessProbe; r != nil && r.HTTPGet != nil {
			p.url = "http://" + net.JoinHostPort(pod.Status.PodIP, r.HTTPGet.Port.String()) + r.HTTPGet.Path
			if r.PeriodSeconds > 0 {
				p.period = time.Duration(r.PeriodSeconds) * time.Second
			}
			if r.FailureThreshold > 0 {
				p.failures = int(r.FailureThreshold)
			}
		}
		list = append(list, p)
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c, true)
		}
	}
	for _, c := range pod.Spec.Containers {
		add(c, false)
	}
	return list
}

// look runs the probes that are due, and writes changes.
func (k *kubelet) look(ctx context.Context, probes []*probe) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.paused {
		for _, p := range probes {
			if !p.sidecar {
				p.ready, p.wrong, p.next = false, 0, time.Time{}
			}
		}
		return
	}
	gate := k.fleet.sidecarOf(k.pod.UID)
	all, now, text := true, time.Now(), ""
	var restarts int32
	for _, p := range probes {
		switch {
		case p.sidecar && gate != nil && !gate.runs():
			p.ready, p.wrong, p.next = false, 0, time.Time{}
		case p.url == "":
			p.ready = true
		case !now.Before(p.next):
			p.next = now.Add(p.period)
			url := p.url
			if p.sidecar && gate != nil {
				url = gate.direct(url)
			}
			code, err := ask(ctx, url)
			// A gate of an earlier version has no such page, and its pod would not have this probe.
			if err == nil && (code >= 200 && code < 400 || p.sidecar && code == http.StatusNotFound) {
				p.ready, p.wrong = true, 0
			} else if p.wrong++; p.wrong >= p.failures {
				p.ready = false
			}
		}
		all = all && p.ready
		text += fmt.Sprint(p.container, p.ready, " ")
	}
	if gate != nil {
		gate.mu.Lock()
		restarts = gate.restarts
		gate.mu.Unlock()
	}
	text += fmt.Sprint(restarts)
	if text == k.told || ctx.Err() != nil {
		return
	}
	if err := k.fleet.writeStatus(ctx, k.pod, k.status(probes, all, restarts, now)); err != nil {
		k.fleet.cfg.Log.Warn("Readiness of a pod is not written", "err", err)
		return
	}
	k.told = text
}

// status is the readiness of the pod and its containers, and nothing else.
func (k *kubelet) status(probes []*probe, all bool, restarts int32, now time.Time) corev1.PodStatus {
	value := corev1.ConditionFalse
	if all {
		value = corev1.ConditionTrue
	}
	status := corev1.PodStatus{Conditions: ready(value, now)}
	for _, p := range probes {
		was := k.pod.Status.ContainerStatuses
		if p.sidecar {
			was = k.pod.Status.InitContainerStatuses
		}
		for _, s := range was {
			if s.Name != p.container {
				continue
			}
			started := true
			s.Ready, s.Started = p.ready, &started
			if p.sidecar {
				s.RestartCount = restarts
				status.InitContainerStatuses = append(status.InitContainerStatuses, s)
			} else {
				status.ContainerStatuses = append(status.ContainerStatuses, s)
			}
		}
	}
	return status
}

// pause stops all writes until resume, because the agent's container has ended.
func (k *kubelet) pause() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.paused = true
}

// resume continues with a restarted container, according to the pod's current status.
func (k *kubelet) resume(pod *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pod, k.paused, k.told = pod, false, ""
}
