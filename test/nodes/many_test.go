// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// manyCalls is the number of callers in the step of that name; none without the flag, because two processors need minutes
// for them.
var manyCalls = flag.Int("many-calls", 0, "have so many callers while agents are rolled out and drained and gates killed") //nolint:gochecknoglobals // a flag of the test

const (
	atOnce  = 4
	talkFor = 3 * time.Second
)

// callMany starts callers who talk and hang up, a few at a time, while the agents are rolled out, their node is drained and
// their gates are killed, over and over.
func callMany(t *testing.T, p *phones) {
	var (
		work     sync.WaitGroup
		mu       sync.Mutex
		took     []time.Duration
		failures []error
	)
	next := make(chan int)
	for range atOnce {
		work.Go(func() {
			for i := range next {
				name, began := fmt.Sprintf("many-%03d", i), time.Now()
				err := p.try(name)
				mu.Lock()
				if err != nil {
					failures = append(failures, err)
				} else {
					took = append(took, time.Since(began))
				}
				mu.Unlock()
				if err == nil {
					time.Sleep(talkFor) // a conversation takes time
					p.hangUp(name)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range *manyCalls {
			next <- i
		}
		close(next)
		work.Wait()
	}()
	over := func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	}
	rollouts, drains, kills := 0, 0, 0
	for !over() {
		kubectl(t, "rollout", "restart", "deployment/"+agentName, "-n", voiceNamespace)
		kubectl(t, "rollout", "status", "deployment/"+agentName, "-n", voiceNamespace, "--timeout=15m")
		rollouts++
		kills += killGate(t)
		if over() {
			break
		}
		kubectl(t, "drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=15m")
		kubectl(t, "uncordon", "node-2")
		drains++
		kills += killGate(t)
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(took)
	if len(failures) > 0 || len(took) != *manyCalls {
		describe(t)
		t.Fatalf("%d of %d calls were answered; want all: %v", len(took), *manyCalls, errors.Join(failures...))
	}
	p.noneDropped(t)
	t.Logf("%d calls in %d rollouts, %d drains and %d gate kills: all answered, half within %s, the last after %s; none dropped",
		len(took), rollouts, drains, kills, took[len(took)/2].Round(10*time.Millisecond), took[len(took)-1].Round(10*time.Millisecond))
}

// killGate kills the call-gate of an agent's pod that accepts calls, as the kernel does when it is short of memory. It
// finds it by the pod's UID, in the name of its control group.
func killGate(t *testing.T) int {
	t.Helper()
	for _, pod := range pods(t, voiceNamespace, agentSelector) {
		if pod.Annotations[call.DrainingAnnotation] != "" {
			continue
		}
		programs, err := filepath.Glob("/proc/[0-9]*/cmdline")
		trial.Must(t, err)
		for _, program := range programs {
			line, err := os.ReadFile(program)
			group, gerr := os.ReadFile(filepath.Join(filepath.Dir(program), "cgroup"))
			if err != nil || gerr != nil || !strings.HasPrefix(string(line), "/call-gate\x00") || !strings.Contains(string(group), string(pod.UID)) {
				continue // it may have ended
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(program)))
			trial.Must(t, err)
			trial.Must(t, syscall.Kill(pid, syscall.SIGKILL))
			return 1
		}
	}
	return 0
}
