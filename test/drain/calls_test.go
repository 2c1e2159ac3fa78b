// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// plugin is a run of kubectl calls.
type plugin struct {
	*command

	interrupt context.CancelFunc
	said      *output
	code      int
}

// output is what a command prints, on both streams, readable while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startCalls runs kubectl calls in the background.
func (s *story) startCalls(args ...string) *plugin {
	s.t.Helper()
	ctx, interrupt := context.WithCancel(s.t.Context())
	p := &plugin{command: &command{what: "kubectl calls " + strings.Join(args, " "), done: make(chan struct{})}, interrupt: interrupt, said: &output{}}
	cmd, err := stage.AdminCalls(ctx, args...)
	s.must(err)
	cmd.Stdout, cmd.Stderr = p.said, p.said
	s.must(cmd.Start())
	go func() {
		err := cmd.Wait()
		p.ended, p.code, p.out = time.Now(), cmd.ProcessState.ExitCode(), p.said.String()
		if p.code != 0 {
			p.err = fmt.Errorf("%s: %w: %s", p.what, err, p.out)
		}
		close(p.done)
	}()
	s.t.Cleanup(func() { <-p.done }) // the story's context ends it
	return p
}

// calls runs kubectl calls, and returns its output and its exit code.
func calls(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd, err := stage.AdminCalls(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return runCalls(t, cmd)
}

func runCalls(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v cannot be run: %v", cmd.Args, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// says fails the test if a text does not match all of the patterns.
func says(t *testing.T, what, text string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s does not say %q:\n%s", what, pattern, text)
		}
	}
}

// shown is a condition that shows what was printed while it does not hold.
func shown(holds bool, text string) (bool, error) {
	if holds {
		return true, nil
	}
	return false, errors.New(text)
}

// describeGuard creates the Deployment from which the guard's settings are read. The guard itself runs outside the cluster,
// so it has no pod.
func describeGuard(t *testing.T) {
	t.Helper()
	none, labels := int32(0), map[string]string{"app.kubernetes.io/name": lab.GuardName}
	_, err := stage.Client.AppsV1().Deployments(lab.GuardNamespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: lab.GuardName},
		Spec: appsv1.DeploymentSpec{
			Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: lab.GuardName, Image: "callguard:dev", Args: guardArgs()}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// TestCallsDoctor: doctor finds everything in order, then a missing policy, then everything in order.
func TestCallsDoctor(t *testing.T) {
	describeGuard(t)
	s := tell(t, 1)
	s.deploy(1)
	well := func() (string, bool) {
		out, _, code := calls(t, "doctor")
		return out, code == 2 // a warning, because the agents' grace period is short
	}
	var out string
	s.eventually(inTime, "doctor finds all well", func() (bool, error) {
		var is bool
		out, is = well()
		return shown(is, out)
	})
	t.Logf("kubectl calls doctor:\n%s", out)
	says(t, "doctor", out, `OK +doors +.*refuses to delete a locked pod`, `OK +drain-guard .* leads`, `OK +namespaces`, `OK +opt-in`, `OK +other-budgets`,
		`OK +metrics-api`, `OK +calls +known of all running guarded pods`, `WARN +pods .*shorter grace`)

	const door = "callguard-delete"
	restored := false
	t.Cleanup(func() {
		if restored {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(stage.InstallGuard(ctx), stage.Guard.WaitReady(ctx)); err != nil {
			t.Error(err)
		}
	})
	s.does("delete", "validatingadmissionpolicybinding", door)
	out, _, code := calls(t, "doctor")
	t.Logf("without a policy:\n%s", out)
	if code != 1 {
		t.Errorf("doctor exits with %d without a policy; want 1", code)
	}
	says(t, "doctor", out, `FAIL +doors +ValidatingAdmissionPolicyBinding callguard-delete is missing; apply the chart again`)
	_, refused, code := calls(t, "drain", s.nodes[0])
	if code != 1 {
		t.Errorf("a drain without a policy exits with %d; want 1", code)
	}
	says(t, "drain", refused, `was not touched`, `callguard-delete is missing`)
	s.must(errors.Join(stage.InstallGuard(t.Context()), stage.Guard.WaitReady(t.Context())))
	restored = true
	if out, is := well(); !is {
		t.Errorf("the policy is back, and doctor prints:\n%s", out)
	}
}

// TestCalls follows an operator through a drain: which pods have calls, why a pod stays, Ctrl-C, and again until the last
// caller has hung up.
func TestCalls(t *testing.T) {
	t.Parallel()
	describeGuard(t)
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	node := s.nodes[0]
	leavers := s.pods(on(node))
	if len(leavers) < 2 {
		t.Fatalf("%s has pods %v; want two or more", node, leavers)
	}
	idle, busy := leavers[0], leavers[1:]
	s.hangUpOn(idle)
	var out string
	row := func(pod, state string, n int) string { return fmt.Sprintf(`%s +%s +%s +%d `, pod, node, state, n) }
	s.eventually(inTime, "the list shows the calls", func() (bool, error) {
		var errOut string
		out, errOut, _ = calls(t, "--node", node)
		ok := regexp.MustCompile(row(idle, "serving", 0)).MatchString(out)
		for _, pod := range busy {
			ok = ok && regexp.MustCompile(row(pod, "serving", 1)).MatchString(out)
		}
		return shown(ok, out+errOut)
	})
	t.Logf("kubectl calls --node %s:\n%s", node, out)
	out, errOut, code := calls(t, "drain", node, "--dry-run")
	t.Logf("kubectl calls drain --dry-run:\n%s", out)
	if code != 0 {
		t.Errorf("a dry run exits with %d: %s", code, errOut)
	}
	says(t, "a dry run", out, busy[0]+` would be evicted: serving, 1 call`, `would be cordoned and drained \(dry run\)`)

	first := s.startCalls("drain", node)
	s.eventually(inTime, "the idle pod is gone, and the others take no new call", func() (bool, error) {
		left := s.pods(on(node))
		return shown(!slices.Contains(left, idle) && len(s.pods(in(call.Draining))) == len(busy), first.said.String())
	})
	s.waits(first.command)
	s.eventually(soon, "why says that it holds calls", func() (bool, error) {
		out, errOut, _ = calls(t, "why", "pod/"+busy[0], "-n", s.ns)
		return shown(strings.Contains(out, "Hold by rule calls: it holds calls") && strings.Contains(out, "Held "), out+errOut)
	})
	t.Logf("kubectl calls why:\n%s", out)
	says(t, "why", out, `State: +draining, and should go \(drain\) for`, `Calls: +1, `, `Waits for: +its callers to hang up`, `Held .*stays \(drain\): it holds calls`)
	text, _, _ := calls(t, "-n", s.ns, "-o", "json")
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Items) != 4+len(busy) {
		t.Errorf("-o json gives %d pods, %v; want %d:\n%s", len(list.Items), err, 4+len(busy), text)
	}

	first.interrupt()
	s.eventually(soon, "Ctrl-C ends the drain", func() (bool, error) { return first.over(), nil })
	t.Logf("interrupted:\n%s", first.out)
	if first.code != 2 {
		t.Errorf("an interrupted drain exits with %d; want 2", first.code)
	}
	says(t, "an interrupted drain", first.out, `interrupted: node `+node+` stays cordoned; `, busy[0]+`: draining since .*1 call: it holds calls`, `To go on: kubectl calls drain `+node, `kubectl uncordon `+node)
	if !s.talking() {
		t.Errorf("calls ended with Ctrl-C: %+v", s.callers.Report())
	}

	second := s.startCalls("drain", node, "--timeout=5m")
	s.eventually(soon, "the drain goes on", func() (bool, error) {
		return shown(strings.Contains(second.said.String(), busy[0]+": draining"), second.said.String())
	})
	s.hangUpOn(busy...)
	last := time.Now()
	s.ends(second.command, inTime)
	t.Logf("drained %.1f s after the last call:\n%s", second.ended.Sub(last).Seconds(), second.out)
	says(t, "the drain", second.out, `already cordoned`, busy[0]+`: gone`, `node/`+node+` drained: `)
	if left := s.pods(on(node)); len(left) > 0 {
		t.Errorf("the drain has ended, and %v are left on %s", left, node)
	}
	s.noneDropped()
	s.bounds(8, 4)
}

// TestCallsEnd plans a drain, and ends the only pod of its node by break-glass: within the pod's own grace period, so that
// its caller can hang up, and with an Event that says who did it and why.
func TestCallsEnd(t *testing.T) {
	t.Parallel()
	describeGuard(t)
	s := tell(t, 2)
	s.watch.unlocked()
	s.deploy(2)
	s.fill()
	node := s.nodes[0]
	here := s.pods(on(node))
	if len(here) != 1 {
		t.Fatalf("%s has pods %v; want one", node, here)
	}
	var out string
	s.eventually(inTime, "the plan knows the call", func() (bool, error) {
		said, errOut, code := calls(t, "plan", node)
		out = said
		return shown(code == 0 && strings.Contains(said, "the end of 1 call; "), said+errOut)
	})
	t.Logf("kubectl calls plan %s:\n%s", node, out)
	says(t, "the plan", out, `node `+node+`: 1 pod, with 1 call\. It ends when the last call is over`)

	end := []string{"end", here[0], "-n", s.ns, "--reason", "ticket 4711", "--yes"}
	_, errOut, code := calls(t, append(end, "--as=ana", "--as-group=system:masters")...)
	if code != 1 {
		t.Errorf("whoever is no member ends a pod: %d", code)
	}
	says(t, "end", errOut, `you are not a member of group `+lab.BreakGlassGroup, `nothing was changed`)
	s.there(here...)
	out, errOut, code = calls(t, append(end, "--as=ana", "--as-group="+lab.BreakGlassGroup, "--as-group=system:masters")...)
	t.Logf("kubectl calls end:\n%s", out)
	if code != 0 {
		t.Fatalf("a member of the group ends no pod: %d: %s", code, errOut)
	}
	says(t, "end", out, `it holds 1 call\. What calls it holds end with it`, `pod/`+here[0]+` ends`)
	s.told(s.ns, "Pod", here[0], "EndedByHand", "was ended by ana; it holds 1 call: ticket 4711")
	s.hangUpOn(here...)
	s.gone(inTime, here...)
	s.noneDropped()
}

// TestCallsRefuses: drains that would hang or lose a call are refused. The node stays as it is.
func TestCallsRefuses(t *testing.T) {
	t.Parallel()
	refuses := func(s *story, patterns ...string) {
		t.Helper()
		_, errOut, code := calls(t, "drain", s.nodes[0])
		if code != 1 {
			t.Errorf("the drain exits with %d; want 1", code)
		}
		says(t, "the drain", errOut, append(patterns, `is not drained, and was not touched`)...)
		node, err := stage.Client.CoreV1().Nodes().Get(t.Context(), s.nodes[0], metav1.GetOptions{})
		s.must(err)
		if node.Spec.Unschedulable {
			t.Error("the node is cordoned")
		}
	}
	s := tell(t, 1)
	s.deploy(1)
	_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "second"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}}},
	}, metav1.CreateOptions{})
	s.must(err)
	refuses(s, `PodDisruptionBudget `+s.ns+`/second matches guarded pods`, `500`)

	// Users without rights are told which right is missing, and see no zero.
	for _, args := range [][]string{{"-n", s.ns}, {"why", s.pods(all)[0], "-n", s.ns}, {"drain", s.nodes[0]}} {
		cmd, err := stage.Calls(t.Context(), "nobody", []string{"nobodies"}, args...)
		s.must(err)
		out, errOut, code := runCalls(t, cmd)
		if code != 1 || out != "" {
			t.Errorf("without rights %v prints %q and exits with %d; want 1", args, out, code)
		}
		says(t, "without rights it", errOut, `User "nobody" cannot (list|get) resource`)
	}
}

// TestCallsRefusesNotEnabled: guarded pods where their label has no effect.
func TestCallsRefusesNotEnabled(t *testing.T) {
	t.Parallel()
	s := tellPlain(t, 1)
	s.deploy(1)
	out, _, _ := calls(t, "-n", s.ns)
	says(t, "the list", out, `not enabled +\? `)
	_, errOut, code := calls(t, "drain", s.nodes[0])
	if code != 1 {
		t.Errorf("the drain exits with %d; want 1", code)
	}
	says(t, "the drain", errOut, `was not touched`, `namespace `+s.ns+` is not enabled`, `kubectl label namespace `+s.ns+` callguard.dev/enabled=true`)
}
