// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/trycall"
	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write testdata anew") //nolint:gochecknoglobals // a flag of the test

// longNode is a node's name as a cloud gives it.
const longNode = "ip-10-0-113-27.eu-central-1.compute.internal"

// newWideStage has names as long as in real clusters: a pod that holds calls, one whose calls are unknown, one that keeps
// serving and one that is not guarded, on a cordoned node.
func newWideStage(t *testing.T) *stage {
	t.Helper()
	on := func(p *corev1.Pod) { p.Spec.NodeName = longNode }
	node, other := newNode(true), newNode(false)
	node.Name = longNode
	other.Status.Allocatable = corev1.ResourceList{}
	const hash = "voice-agent-77594dd9bf-"
	s := newStage(t, append(workload(3), node, other, newNamespace(voice, true), newBudget(voice), newGuardDeployment(),
		newPod(hash+"lp467", draining, on), newPod(hash+"dxx24", draining, on), newPod(hash+"8jlbt", on),
		newPod("registry-0", unguarded, on, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "registry", UID: "registry", Controller: new(bool)}}
		}))...)
	s.calls = map[string]int64{hash + "lp467": 2, hash + "8jlbt": 0}
	s.ends = map[string]int64{"0.5": 600, "0.9": 2400}
	return s
}

// TestWidths: testdata has the output of each command on a terminal of 80 and of 200 columns, and no line is wider.
func TestWidths(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	const pod = "voice-agent-77594dd9bf-lp467"
	list := func(t *testing.T, s *stage, c *common, output string) error {
		t.Helper()
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		return (&listOptions{common: c, output: output}).list(cmd, s.cluster, "")
	}
	explain := func(name string) func(*testing.T, *stage, *common) error {
		return func(t *testing.T, s *stage, c *common) error {
			return whyAny(t.Context(), s.cluster, c.Out, voice, name, "")
		}
	}
	for name, run := range map[string]func(*testing.T, *stage, *common) error{
		"list":         func(t *testing.T, s *stage, c *common) error { return list(t, s, c, "") },
		"list-wide":    func(t *testing.T, s *stage, c *common) error { return list(t, s, c, outputWide) },
		"why-pod":      explain(pod),
		"why-node":     explain("node/" + longNode),
		"why-workload": explain("deployment/web"),
		"plan": func(t *testing.T, s *stage, c *common) error {
			return ignoring(errWaiting, (&planOptions{common: c}).run(t.Context(), s.cluster, longNode))
		},
		"drain":  drainFrame,
		"status": func(t *testing.T, s *stage, c *common) error { return c.status(t.Context(), s.cluster, "", nil) },
		"doctor": func(t *testing.T, s *stage, c *common) error {
			return ignoring(errWarned, report(c.Out, s.examine(t.Context(), ""), ""))
		},
		"doctor-pre": func(t *testing.T, _ *stage, c *common) error {
			s := newBareStage(t, kubelet(longNode, "v1.32.1"), newPod("voice-agent-77594dd9bf-lp467"), otherBudget("voice-agent"))
			s.owners = map[string]string{"v1beta1": "prometheus-adapter"}
			s.may("create apiservices", "create deployments")
			return ignoring(errFailed, report(c.Out, s.examineBefore(t.Context()), ""))
		},
		"version": func(t *testing.T, s *stage, c *common) error {
			s.refuse("get", "deployments")
			v := s.versions(t.Context())
			v.Revision = "d33f5760a6c1d33f5760a6c1"
			return printVersions(c.Out, v, "")
		},
		"end": func(t *testing.T, s *stage, c *common) error {
			s.belongs("callguard:break-glass")
			s.fake.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
			s.fake.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) { return true, &corev1.Event{}, nil })
			c.In = bytes.NewBufferString(pod + "\n")
			return (&endOptions{common: c, reason: "ticket 4711"}).run(t.Context(), s.cluster, voice, pod)
		},
		"try": triedSteps,
		"drain-help": func(_ *testing.T, _ *stage, c *common) error {
			cmd := newDrain(c)
			cmd.SetOut(c.Out)
			return cmd.Help()
		},
	} {
		for _, width := range []int{80, 200} {
			t.Run(fmt.Sprint(name, "-", width), func(t *testing.T) {
				s := newWideStage(t)
				c, _, _ := newCommon()
				var out bytes.Buffer
				screen := &plain{to: &out, size: func() (int, int) { return width, 50 }}
				c.Out, c.ErrOut = screen, screen
				trial.Must(t, run(t, s, c))
				for line := range strings.Lines(out.String()) {
					if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
						t.Errorf("a line has %d columns: %s", n, line)
					}
				}
				golden(t, fmt.Sprintf("testdata/%s-%d.txt", name, width), out.String())
			})
		}
	}
}

// triedSteps are what try shows of a call that is answered from afar, and not counted.
func triedSteps(_ *testing.T, _ *stage, c *common) error {
	o := &tryOptions{common: c}
	const inPod = "voice/voice-agent-77594dd9bf-lp467"
	for _, s := range []trycall.Step{
		{Name: trycall.StepKey, Outcome: trycall.Done, Took: 20 * time.Millisecond, Said: "LiveKit at wss://voice-7f3a9c2e.livekit.cloud takes the key"},
		{Name: trycall.StepDial, Outcome: trycall.Done, Took: 80 * time.Millisecond, Said: "a caller is in room callguard-try-99d76268c2f9"},
		{Name: trycall.StepAnswer, Outcome: trycall.Done, Took: 1270 * time.Millisecond, Said: "an agent is there"},
		{Name: trycall.StepSpeak, Outcome: trycall.Done, Took: 140 * time.Millisecond, Said: "the agent publishes a track"},
		{Name: trycall.StepPod, Outcome: trycall.Done, Took: 10 * time.Millisecond, Said: "the agent is in pod " + inPod + " on " + longNode},
		{Name: trycall.StepGate, Outcome: trycall.Unchecked, Took: 3 * time.Second, Said: "not checked, for pods are not reached from here: http://10.244.113.27:8089/calls cannot be asked: it does not answer in time"},
		{Name: trycall.StepMetrics, Outcome: trycall.Failed, Took: 30 * time.Second, Said: "the metrics API counts no call of pod " + inPod + ": autoscalers do not see it; the metrics-adapter's LiveKit project has to be this one (wss://voice-7f3a9c2e.livekit.cloud), see kubectl calls doctor"},
		{Name: trycall.StepHangUp, Outcome: trycall.Done, Took: 3 * time.Second, Said: "the agent has left after its caller"},
	} {
		o.show(s)
	}
	return nil
}

// ignoring leaves out an error that is no mistake.
func ignoring(expected, err error) error {
	if err == expected { //nolint:errorlint // the very one
		return nil
	}
	return err
}

// golden compares a text with a file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		trial.Must(t, os.MkdirAll("testdata", 0o755))
		trial.Must(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	trial.Must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), or run the test with -update:\n%s", file, diff)
	}
}

// drainFrame is the live display of a drain, in the middle of it.
func drainFrame(t *testing.T, s *stage, c *common) error {
	t.Helper()
	out, _ := c.Out.(*plain)
	show := &screen{out: out, now: s.now}
	w := newProgress(s.cluster, s.administered(t.Context()), show, longNode)
	pods, _, err := (&drainOptions{common: c, ignoreDaemonSets: true, force: true}).list(t.Context(), s.cluster, longNode)
	if err != nil {
		return err
	}
	w.tell(Event{Event: begins, Node: longNode, Left: &Left{Pods: 9, Of: 9}})
	left, err := w.left(t.Context(), pods)
	if err != nil {
		return err
	}
	w.show(t.Context(), left, 9)
	ends := s.cluster.ends(t.Context(), []string{longNode})
	w.tell(Event{Event: foretold, CallsOver: &ends})
	width, height := out.size()
	_, err = out.to.Write([]byte(show.frame(width, height)))
	return err
}

// TestFolded breaks lines where people would, and loses nothing.
func TestFolded(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, text, want string
		width              int
	}{
		"Fits":     {reason: "What fits is left as it is.", text: "one two\nthree\n", width: 7, want: "one two\nthree\n"},
		"NoScreen": {reason: "In a pipe nothing is broken.", text: "one two three\n", want: "one two three\n"},
		"Words":    {reason: "Between words.", text: "one two three four\n", width: 12, want: "one two\n  three four\n"},
		"Column":   {reason: "Below the last column.", text: "OK  doors  all is as it should be here\n", width: 24, want: "OK  doors  all is as it\n           should be\n           here\n"},
		"Name":     {reason: "A name that is wider than all is broken between its parts.", text: "voice-agent-77594dd9bf\n", width: 14, want: "voice-agent-\n  77594dd9bf\n"},
		"One":      {reason: "Without a place to break it breaks all the same.", text: "aaaaaaaaaa\n", width: 6, want: "aaaaaa\n  aaaa\n"},
		"Prompt":   {reason: "A line that does not end does not end.", text: "type it: ", width: 20, want: "type it: "},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, folded(tc.text, tc.width)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestNarrowed: no letter of a table is lost if names do not fit, whatever the width.
func TestNarrowed(t *testing.T) {
	const text = "NAMESPACE\tPOD\tCALLS\nvoice\tagent-77594dd9bf-lp467\t2\nTOTAL\t1 pods\n"
	letters := func(text string) (n int) {
		for _, r := range text {
			if r != ' ' && r != '\n' && r != '\t' {
				n++
			}
		}
		return n
	}
	for width := 19; width < 60; width++ {
		g := newGrid(&bytes.Buffer{}, width)
		_, _ = g.WriteString(text)
		trial.Must(t, g.Flush())
		got := fmt.Sprint(g.out)
		for line := range strings.Lines(got) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("of %d columns a line has %d: %s", width, n, line)
			}
		}
		if letters(got) != letters(text) {
			t.Errorf("in %d columns letters are lost:\n%s", width, got)
		}
	}
}
