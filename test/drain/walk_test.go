// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/callguard/callguard/test/lab"
)

// TestOperatorsWalk follows docs/operate.md under "A walk", in its order and with its commands:
// a node is drained while somebody keeps new pods off the only other one. The reason why the
// drain waits is found and removed, the node is drained and comes back, and no call is lost.
// Each command has to print what the page shows.
func TestOperatorsWalk(t *testing.T) {
	t.Parallel()
	describeGuard(t)
	s := tell(t, 2)
	s.deploy(2)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	if len(leavers) != 1 {
		t.Fatalf("%s has pods %v; want one", s.nodes[0], leavers)
	}
	w := newWalk(s, "../../docs/operate.md", "## A walk", leavers[0])

	w.shows("kubectl calls plan node-1")
	w.does("kubectl taint node node-2 maintenance=tonight:NoSchedule")
	drain := w.starts("kubectl calls drain node-1")
	w.shows("kubectl calls why agent-77594dd9bf-lp467 -n voice")
	w.does("kubectl taint node node-2 maintenance-")
	w.shows("kubectl calls status node-1")
	if !s.talking() {
		t.Errorf("calls ended in the drain: %+v", s.callers.Report())
	}
	s.hangUpOn(leavers...)
	w.ends(drain)
	w.does("kubectl uncordon node-1")
	w.shows("kubectl calls -n voice")
	w.over()
	s.noneDropped()
	s.bounds(4, 2)
}

// walk follows the commands of a section of a page in a story, whose nodes, namespace and pod
// have other names.
type walk struct {
	*story

	pod   string
	steps []walkStep // that are still to come
}

// walkStep is a command of the page and the lines that the page shows for it.
type walkStep struct {
	command string
	lines   []string
}

func newWalk(s *story, page, heading, pod string) *walk {
	s.t.Helper()
	text, err := os.ReadFile(page)
	s.must(err)
	_, section, found := strings.Cut(string(text), "\n"+heading+"\n")
	if !found {
		s.t.Fatalf("%s has no heading %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	w := &walk{story: s, pod: pod}
	for _, block := range regexp.MustCompile("(?ms)^```\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		for line := range strings.Lines(block[1]) {
			line = strings.TrimSuffix(line, "\n")
			if command, is := strings.CutPrefix(line, "$ "); is {
				w.steps = append(w.steps, walkStep{command: command})
			} else if last := len(w.steps) - 1; last >= 0 {
				w.steps[last].lines = append(w.steps[last].lines, line)
			}
		}
	}
	return w
}

// next returns the next command of the page, which has to be this one, with this story's names.
func (w *walk) next(command string) (step walkStep, args []string) {
	w.t.Helper()
	if len(w.steps) == 0 || w.steps[0].command != command {
		w.t.Fatalf("the page goes on with %+v; the test with %q", w.steps, command)
	}
	step, w.steps = w.steps[0], w.steps[1:]
	here := map[string]string{"voice": w.ns, "node-1": w.nodes[0], "node-2": w.nodes[1]}
	for _, word := range strings.Fields(command)[1:] {
		if name, is := here[word]; is {
			word = name
		} else if strings.HasPrefix(word, lab.AgentName+"-") {
			word = w.pod
		}
		args = append(args, word)
	}
	return step, args
}

// alike returns a line without what differs between stories: names, numbers, times, and the
// width of columns. names are two nodes and the namespace.
func alike(line string, names [3]string) string {
	line = strings.ReplaceAll(line, names[2], "NAMESPACE")
	line = regexp.MustCompile(lab.AgentName+`-[0-9a-z]+-[0-9a-z]{5}\b`).ReplaceAllString(line, "POD")
	line = regexp.MustCompile(`\bnode-\d+\b`).ReplaceAllStringFunc(line, func(node string) string {
		return [...]string{"ANOTHER", "FIRST", "SECOND"}[1+slices.Index(names[:2], node)]
	})
	line = regexp.MustCompile(`(\d+(ms|[hms:.])?)+`).ReplaceAllString(line, "0")
	return strings.Join(strings.Fields(line), " ")
}

// lacks returns the first line of the page that a text lacks. A line that ends in … may
// continue.
func (w *walk) lacks(text string, step walkStep) (line string, lacking bool) {
	var has []string
	for l := range strings.Lines(text) {
		has = append(has, alike(l, [3]string{w.nodes[0], w.nodes[1], w.ns}))
	}
	i := slices.IndexFunc(step.lines, func(l string) bool {
		want, goesOn := strings.CutSuffix(alike(l, [3]string{"node-1", "node-2", "voice"}), "…")
		return !slices.ContainsFunc(has, func(is string) bool { return is == want || goesOn && strings.HasPrefix(is, want) })
	})
	if i < 0 {
		return "", false
	}
	return step.lines[i], true
}

// shows runs a command that changes nothing, until it prints what the page shows.
func (w *walk) shows(command string) {
	w.t.Helper()
	step, args := w.next(command)
	var out string
	w.eventually(inTime, command+" shows what the page does", func() (bool, error) {
		said, errOut, _ := calls(w.t, args[1:]...)
		out = said
		if line, lacking := w.lacks(said, step); lacking {
			return false, fmt.Errorf("it does not show %q:\n%s%s", line, said, errOut)
		}
		return true, nil
	})
	w.t.Logf("%s:\n%s", command, out)
}

// does runs a command that changes something, once.
func (w *walk) does(command string) {
	w.t.Helper()
	step, args := w.next(command)
	out, err := stage.Kubectl(w.t.Context(), args...)
	w.must(err)
	if line, lacking := w.lacks(out, step); lacking {
		w.t.Errorf("%s does not show %q:\n%s", command, line, out)
	}
	w.t.Logf("%s:\n%s", command, out)
}

// walking is a command that runs while others are run.
type walking struct {
	*plugin

	step walkStep
}

func (w *walk) starts(command string) walking {
	w.t.Helper()
	step, args := w.next(command)
	return walking{w.startCalls(args[1:]...), step}
}

// ends waits until a command has succeeded, and has printed what the page shows.
func (w *walk) ends(c walking) {
	w.t.Helper()
	w.story.ends(c.command, inTime)
	if line, lacking := w.lacks(c.out, c.step); lacking {
		w.t.Errorf("%s does not show %q", c.step.command, line)
	}
	w.t.Logf("%s:\n%s", c.step.command, c.out)
}

// over fails the test if the page has more steps.
func (w *walk) over() {
	w.t.Helper()
	if len(w.steps) > 0 {
		w.t.Errorf("the page goes on: %+v", w.steps)
	}
}
