// SPDX-License-Identifier: Apache-2.0

// Package drain tests that nothing in Kubernetes ends a call: a real control
// plane with the admission policies, drain-guard as a process with the rights of its
// own service account, kubectl as operators use it, and real calls over a real
// LiveKit. Only nodes are simulated, and the agents' processes are played by
// test/fleet over LiveKit's real worker protocol.
//
// Every test is a story with a namespace, nodes and callers of its own. Tests that
// need the guard, LiveKit or kube-apiserver for themselves run first, one after
// the other; then all others run in parallel, because they mostly wait.
package drain

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/lab"
)

// What all stories share.
var (
	stage *lab.Lab
	keys  *kedaKeys
	nodes = newPool()
	// dialling limits how many callers of all stories join their rooms at once.
	dialling = make(chan struct{}, 6)
	// lines numbers the stories, which name their rooms by telephone numbers.
	lines atomic.Int64
)

// apart is how far clocks differ. LiveKit, agents and kubectl have this machine's clock. Adapter and guard are ahead of it,
// and kube-apiserver is ahead of them. kube-controller-manager and kube-scheduler are behind it, nodes with their gates are
// further behind, and every second guard is behind all others.
var apart = flag.Duration("clocks", 0, "set the clocks of the stage's programs so far apart, the other way round where negative")

// nodeCount limits how many stories run at the same time.
var nodeCount = flag.Int("nodes", 24, "how many nodes the stage has")

// memory is how much memory adapter and guard may each use, in MiB, as a container's limit.
var memory = flag.Int64("memory", 0, "confine the memory of adapter and guard to so many MiB, which needs root")

// guardArgs are the guard's flags unless a story tests others. A short settle window is enough for agents that obey the
// draining annotation, and the autoscaler of these tests drains nodes soon after it marks them.
func guardArgs() []string {
	return []string{"--settle=3s", "--lost-node-quiet=5s", "--candidate-delay=5s", "--owners=" + rollouts().name() + "," + cloneSets().name()}
}

// earlier is the path of something that an earlier checkout built, such as "call-gate" or "manifests"; empty if
// CALLGUARD_OLD names no such folder. hack/test-upgrade.sh creates one.
func earlier(name string) string {
	dir := os.Getenv("CALLGUARD_OLD")
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // stories wait, whatever the number of processors
		fmt.Fprintf(os.Stderr, "cannot tell stories side by side: %v\n", err)
		return 1
	}
	nodes.give(nodeNames(*nodeCount))
	folder, err := os.MkdirTemp("", "callguard-drain-")
	if err == nil {
		defer func() { _ = os.RemoveAll(folder) }()
		keys, err = newKEDAKeys(folder)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot make KEDA's certificate: %v\n", err)
		return 1
	}
	stage, err = lab.Open(ctx, lab.Options{
		Name: lab.InstanceName("drain"), Nodes: *nodeCount, LiveKits: 2, MaxJobs: 50, Progress: os.Stderr,
		Clocks: local.Clocks{APIServer: 2 * *apart, Controllers: -*apart, Nodes: -2 * *apart}, Clock: *apart,
		AdapterArgs: keys.flags(), Guard: true, GuardArgs: guardArgs(), OldGate: earlier("call-gate"),
		MemoryLimit: *memory << 20,
		// A node without heartbeats counts as lost after 20 s instead of 50 s.
		NodeLeaseSeconds: 8, ControllerManagerArgs: []string{"--node-monitor-grace-period=20s", "--node-monitor-period=1s"},
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot set the stage: %v\n", err)
		return 1
	}
	code := m.Run()
	if leaks, read, err := stage.Leaks(ctx); err != nil || len(leaks) > 0 || read == 0 {
		fmt.Fprintf(os.Stderr, "of %d texts that callguard said, these tell what is not for everybody: %v\n%s\n", read, err, strings.Join(leaks, "\n"))
		code = 1
	}
	if err := stage.Close(context.WithoutCancel(ctx)); err != nil {
		fmt.Fprintf(os.Stderr, "cannot clear the stage: %v\n", err)
		return 1
	}
	return code
}
