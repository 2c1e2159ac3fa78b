// SPDX-License-Identifier: Apache-2.0

// Package live plays the accidents of test/accidents on a real control plane, one after
// the other, in the middle of a drain: pods have calls over a real LiveKit, `kubectl
// drain` waits for them, and somebody else keeps trying to evict them. No call may end in
// any row.
package live

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/accidents"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

const (
	busy  = "accidents"
	quiet = accidents.QuietName
	// noticed limits how long it takes until somebody notices, healed until everything works
	// again.
	noticed, healed = 30 * time.Second, 60 * time.Second
	// evictEvery is how often each pod with a call is evicted, in addition to kubectl drain.
	evictEvery = 500 * time.Millisecond
)

func TestAccidents(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stage, err := lab.Open(ctx, lab.Options{
		Name: lab.InstanceName("accidents"), Nodes: 4, MaxJobs: 50, Progress: os.Stderr,
		Guard: true, GuardArgs: []string{"--settle=3s", "--lost-node-quiet=5s"}, NodeLeaseSeconds: 8,
	})
	trial.Must(t, err)
	t.Cleanup(func() { trial.Must(t, stage.Close(context.WithoutCancel(ctx))) })
	p := &play{t: t, stage: stage}
	p.set()
	var table strings.Builder
	for _, row := range accidents.Rows() {
		t.Run(row.Name(), func(t *testing.T) { fmt.Fprintln(&table, p.row(t, row)) })
		if up := p.up(); up != "" {
			t.Fatalf("after %q: %s", row.Name(), up)
		}
	}
	if n := p.passed.Load(); n > 0 {
		t.Errorf("%d evictions went through", n)
	}
	t.Logf("%d rows, %d calls, %d evictions refused:\n%s", len(accidents.Rows()), p.calls, p.refused.Load(), table.String())
}

// play is the drain during which all rows happen.
type play struct {
	t       *testing.T
	stage   *lab.Lab
	scene   accidents.Scene
	callers *fleet.Callers
	calls   int

	refused, passed atomic.Int64 // evictions
}

// set dials calls in both namespaces and begins the drain.
func (p *play) set() {
	t, ctx := p.t, p.t.Context()
	p.callers = p.stage.NewCallers()
	t.Cleanup(p.callers.Close)
	for ns, pods := range map[string]int32{busy: 4, quiet: 1} {
		trial.Must(t, p.stage.Namespace(ctx, ns))
		p.eventually("namespace "+ns+" is locked", func() error {
			_, err := p.stage.Client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "callguard", metav1.GetOptions{})
			return err
		})
		d := lab.Agent(ns, pods)
		d.Spec.Template.Annotations = map[string]string{fleet.AgentNameAnnotation: ns, fleet.MaxJobsAnnotation: "1"}
		_, err := p.stage.Client.AppsV1().Deployments(ns).Create(ctx, d, metav1.CreateOptions{})
		trial.Must(t, err)
	}
	p.owned()
	p.dial(busy, 4)
	p.dial(quiet, 2)

	list, err := p.stage.Client.CoreV1().Pods(busy).List(ctx, metav1.ListOptions{})
	trial.Must(t, err)
	node := list.Items[0].Spec.NodeName
	var talking []string
	for _, pod := range list.Items {
		if pod.Spec.NodeName == node {
			talking = append(talking, pod.Name)
		}
	}
	p.scene = accidents.Scene{Lab: p.stage, Guard: p.stage.Guard, Namespace: busy, Quiet: quiet, Talking: talking, Dir: t.TempDir()}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // a second or missing budget ends a drain, and people start it again
			_, _ = p.stage.Kubectl(ctx, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=5m") // why it ends does not matter
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	p.eventually("the pods of the node take no new call", func() error {
		for _, name := range talking {
			pod, err := p.stage.Client.CoreV1().Pods(busy).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if pod.Annotations[call.DrainingAnnotation] == "" {
				return fmt.Errorf("pod %s accepts calls", name)
			}
		}
		return nil
	})
	for _, pod := range talking {
		go p.evict(ctx, pod)
	}
}

// owned creates a pod whose owner is an object of a CustomResourceDefinition.
func (p *play) owned() {
	t, ctx := p.t, p.t.Context()
	path := t.TempDir() + "/fleet.yaml"
	write := func(text string) {
		trial.Must(t, os.WriteFile(path, []byte(text), 0o600))
		p.eventually("it is made", func() error { //nolint:contextcheck // it uses the test's context
			_, err := p.stage.Kubectl(ctx, "apply", "-f", path)
			return err
		})
	}
	write(`{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "` + accidents.OwnerKind + `"}, "spec": {
		"group": "example.com", "scope": "Namespaced", "names": {"plural": "fleets", "singular": "fleet", "kind": "Fleet"},
		"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}`)
	write(`{"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": {"name": "` + accidents.OwnerName + `", "namespace": "` + quiet + `"}}`)
	uid, err := p.stage.Kubectl(ctx, "get", "fleet", accidents.OwnerName, "-n", quiet, "-o", "jsonpath={.metadata.uid}")
	trial.Must(t, err)
	yes := true
	template := lab.Template()
	template.Labels["app"] = "fleet"
	_, err = p.stage.Client.CoreV1().Pods(quiet).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "of-a-fleet", Labels: template.Labels, Annotations: map[string]string{fleet.AgentNameAnnotation: quiet, fleet.MaxJobsAnnotation: "1"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Fleet", Name: accidents.OwnerName, UID: types.UID(uid), Controller: &yes}},
		},
		Spec: template.Spec,
	}, metav1.CreateOptions{})
	trial.Must(t, err)
}

// dial makes n calls to the agents of a namespace, one per agent.
func (p *play) dial(ns string, n int) {
	p.eventually(fmt.Sprintf("%d agents of %s can take calls", n, ns), func() error {
		able := 0
		for _, a := range p.stage.Fleet.Agents() {
			if a.Pod.Namespace == ns && a.Registered {
				able++
			}
		}
		if able != n {
			return fmt.Errorf("%d can", able)
		}
		return nil
	})
	for i := range n {
		p.eventually("somebody answers", func() error {
			_, err := p.callers.Dial(p.t.Context(), fmt.Sprintf("%s-%d-%d", ns, i, time.Now().UnixNano()), fleet.DialOptions{AgentName: ns})
			return err
		})
		p.calls++
	}
}

// evict requests the eviction of a pod again and again until ctx ends.
func (p *play) evict(ctx context.Context, pod string) {
	for ctx.Err() == nil {
		err := p.stage.Client.PolicyV1().Evictions(busy).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: busy, Name: pod}})
		switch {
		case err == nil:
			p.passed.Add(1)
		case ctx.Err() == nil:
			p.refused.Add(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(evictEvery):
		}
	}
}

// up returns which calls are not up; empty if all are.
func (p *play) up() string {
	r := p.callers.Report()
	if r.Up == p.calls && len(r.Dropped) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d calls are up; lost: %+v", r.Up, p.calls, r.Dropped)
}

// row plays a row, and returns what was measured.
func (p *play) row(t *testing.T, row accidents.Row) string {
	t.Helper()
	s := &p.scene
	s.Context, s.Began = t.Context(), time.Now()
	err := row.Do(s)
	if row.Refused != "" {
		if err == nil || !strings.Contains(err.Error(), "'"+row.Refused) {
			t.Fatalf("want a refusal by %s, got: %v", row.Refused, err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	line := row.Name() + ": "
	if row.Refused != "" {
		line += "refused; "
	}
	if row.Noticed != nil {
		after, err := within(t, s.Began, noticed, func() error { return row.Noticed(s) })
		if err != nil {
			t.Errorf("nobody noticed: %v", err)
		}
		line += "noticed after " + after + "; "
	} else if row.Mend != nil {
		tried := p.refused.Load() + p.passed.Load()
		trial.Must(t, lab.Eventually(t.Context(), noticed, "somebody tries to evict meanwhile", func() (bool, error) {
			return p.refused.Load()+p.passed.Load() > tried, nil
		}))
	}
	if lost := p.up(); lost != "" {
		t.Errorf("before it was restored: %s", lost)
	}
	mending := s.Began
	if row.Mend != nil {
		mending = time.Now()
		if err := row.Mend(s); err != nil {
			t.Errorf("it cannot be restored: %v", err)
		}
	}
	after, err := within(t, mending, healed, func() error { return row.Healed(s) })
	if err != nil {
		t.Fatalf("it is not healed: %v", err)
	}
	if lost := p.up(); lost != "" {
		t.Errorf("after it was restored: %s", lost)
	}
	return line + "healed after " + after
}

// within waits until a condition holds, and returns how long that took.
func within(t *testing.T, since time.Time, limit time.Duration, is func() error) (string, error) {
	t.Helper()
	err := lab.Eventually(t.Context(), time.Until(since.Add(limit)), "as the row says", func() (bool, error) {
		err := is()
		return err == nil, err
	})
	return time.Since(since).Round(100 * time.Millisecond).String(), err
}

func (p *play) eventually(what string, is func() error) {
	p.t.Helper()
	trial.Must(p.t, lab.Eventually(p.t.Context(), 2*time.Minute, what, func() (bool, error) {
		err := is()
		return err == nil, err
	}))
}
