// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/test/trial"
)

const (
	livekitMetrics = 6789
	// shortGrace is the grace period that the drain requests for LiveKit. Calls last longer.
	shortGrace = 15 * time.Second
)

// TestLiveKitsNodeIsDrained has two LiveKit servers that share a Redis, and drains the node of one while it has rooms,
// with a grace period shorter than any call. The server keeps its own: its calls go on until they are hung up, new ones go
// to the other server, and then it is gone.
func TestLiveKitsNodeIsDrained(t *testing.T) {
	installAddon(t)
	p := &phones{key: "API" + randomName("key")[:8], secret: randomName("secret"), up: map[string]*phone{}}
	t.Cleanup(func() { p.describeDropped(t) })
	asWritten(t, "**A whole voice agent**", map[string]string{
		"IMAGE": callguardImage, "AGENT": agentImage, "TAG": imageTag, "KEY": p.key, "SECRET": p.secret,
	}, fmt.Sprintf(` -f small.yaml --set livekit.replicas=2,livekit.prometheusPort=%d,livekit.redis.address=%s \
		--set 'livekit.nodeSelector=null,agent.nodeSelector.kubernetes\.io/hostname=node-2'`, livekitMetrics, redis(t)))
	servers := map[string]corev1.Pod{}
	for _, pod := range pods(t, voiceNamespace, livekitSelector) {
		servers[pod.Spec.NodeName] = pod
	}
	leaves, stays := servers["node-1"], servers["node-2"]
	if leaves.Name == "" || stays.Name == "" {
		t.Fatalf("LiveKit servers are on %d nodes; want one on each of two", len(servers))
	}
	p.url = "ws://" + stays.Status.PodIP + ":7880"

	const most = 8
	for i := 0; i < 4 || rooms(t, leaves) == 0; i++ {
		if i == most {
			t.Fatalf("of %d calls none is on %s", most, leaves.Name)
		}
		p.dial(t, fmt.Sprintf("before-%d", i))
	}
	before := p.going()
	t.Logf("%d calls: %d on the server that leaves, %d on the other", len(before), rooms(t, leaves), rooms(t, stays))

	drained := make(chan error, 1)
	go func() {
		_, err := command(t.Context(), stage.kubectl, "drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5m",
			"--grace-period="+strconv.Itoa(int(shortGrace.Seconds())))
		drained <- err
	}()
	eventually(t, time.Minute, "the server is told to end", func() error {
		pod, err := stage.client.CoreV1().Pods(voiceNamespace).Get(t.Context(), leaves.Name, metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case pod.DeletionTimestamp == nil:
			return errors.New("nobody has evicted it")
		case *pod.DeletionGracePeriodSeconds != *leaves.Spec.TerminationGracePeriodSeconds:
			t.Errorf("its grace is %d s; want its own, %d", *pod.DeletionGracePeriodSeconds, *leaves.Spec.TerminationGracePeriodSeconds)
		}
		return nil
	})
	told := time.Now()
	on := rooms(t, leaves)
	for i := range 2 {
		p.dial(t, fmt.Sprintf("after-%d", i))
	}
	if now := rooms(t, leaves); now > on {
		t.Errorf("new calls went to the server that leaves: it has %d rooms, and had %d", now, on)
	}
	eventually(t, time.Minute, "calls have outlived the drain's grace period", func() error {
		if time.Since(told) < 2*shortGrace {
			return errors.New("not yet")
		}
		return nil
	})
	p.noneDropped(t)
	if rooms(t, leaves) == 0 {
		t.Error("the server has no rooms any more")
	}
	select {
	case err := <-drained:
		t.Errorf("the drain has ended under calls: %v", err)
	default:
	}

	p.hangUp(before...)
	select {
	case err := <-drained:
		trial.Must(t, err)
	case <-time.After(2 * time.Minute):
		describe(t)
		t.Fatal("the drain does not end after the calls")
	}
	p.noneDropped(t)
	p.hangUp(p.going()...)
	kubectl(t, "uncordon", "node-1")
	helm(t, "uninstall", voice, "-n", voiceNamespace, "--wait", "--timeout", "3m")
	helm(t, "uninstall", addon, "-n", addonNamespace, "--wait", "--timeout", "3m")
	kubectl(t, "delete", "namespace", voiceNamespace, addonNamespace, "--timeout=120s")
}

// rooms returns how many rooms a LiveKit server reports.
func rooms(t *testing.T, server corev1.Pod) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/metrics", server.Status.PodIP, livekitMetrics), nil)
	trial.Must(t, err)
	answer, err := http.DefaultClient.Do(ask)
	trial.Must(t, err)
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); strings.HasPrefix(lines.Text(), "livekit_room_total{") {
			n, err := strconv.ParseFloat(words[len(words)-1], 64)
			trial.Must(t, err)
			return int(n)
		}
	}
	t.Fatalf("LiveKit server %s does not say how many rooms it has: %v", server.Name, lines.Err())
	return 0
}

// redis starts a Redis that pods reach like kube-apiserver, and returns its address.
func redis(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0"))
	trial.Must(t, err)
	address := free.Addr().String()
	trial.Must(t, free.Close())
	host, port, err := net.SplitHostPort(address)
	trial.Must(t, err)
	server := exec.Command("redis-server", "--bind", host, "--port", port, "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	server.Stdout, server.Stderr = io.Discard, io.Discard
	if err := server.Start(); err != nil {
		t.Fatalf("cannot start Redis: %v; run: apt-get install --no-install-recommends redis-server", err)
	}
	t.Cleanup(func() { _ = errors.Join(server.Process.Kill(), server.Wait()) })
	eventually(t, 10*time.Second, "Redis listens", func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return address
}
