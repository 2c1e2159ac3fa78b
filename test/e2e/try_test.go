// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

const (
	trySecret = "try" // a LiveKit key of its own
	tryWithin = 2 * time.Minute
	// nobodyAnswers is how long to wait where no agent can answer: one that could answers within a second or two.
	nobodyAnswers = "--answer-within=8s"
)

// tried is the plugin's output about a call.
type tried struct {
	Room, Result, Error string
	Steps               []struct{ Step, Outcome, Said string }
}

// outcomes returns the outcomes of the steps in one line.
func (t tried) outcomes() string {
	var parts []string
	for _, s := range t.Steps {
		parts = append(parts, s.Step+" "+s.Outcome)
	}
	return strings.Join(parts, ", ")
}

// try makes a call and returns the output and the exit code.
func try(t *testing.T, namespace string, args ...string) (tried, int) {
	t.Helper()
	args = append([]string{"try", "-n", namespace, "--livekit-secret", trySecret, "-o", "json", "--answer-within=20s", "--count-within=40s"}, args...)
	cmd, err := stage.AdminCalls(t.Context(), args...)
	trial.Must(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	began := time.Now()
	out, err := cmd.Output()
	if took := time.Since(began); took > tryWithin {
		t.Errorf("the call took %s", took)
	}
	stage.Hear("kubectl calls try", string(out)+errs.String())
	if _, exited := err.(*exec.ExitError); err != nil && !exited { //nolint:errorlint // exec returns it unwrapped
		t.Fatal(err)
	}
	if lines := strings.Count(errs.String(), "\n"); (err == nil) != (lines == 0) || lines > 1 {
		t.Errorf("it prints more than the error: %s", errs.String())
	}
	var said tried
	if len(out) > 0 {
		trial.Must(t, json.Unmarshal(out, &said))
	}
	t.Logf("exit %d: %s\n%s%s", cmd.ProcessState.ExitCode(), strings.Join(args, " "), out, errs.String())
	return said, cmd.ProcessState.ExitCode()
}

// agents creates a Deployment of agents in its own namespace, and a LiveKit key for callers.
func agents(t *testing.T, name string, lk int, change func(*corev1.PodTemplateSpec)) string {
	t.Helper()
	ns := namespace(t, name)
	trial.Must(t, stage.Secret(t.Context(), ns, trySecret, stage.LiveKits[lk]))
	d := lab.Agent(ns, 1)
	d.Spec.Template.Annotations = map[string]string{}
	change(&d.Spec.Template)
	_, err := stage.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	trial.Must(t, err)
	_, err = stage.ReadyPods(t.Context(), ns, 1)
	trial.Must(t, err)
	client := metricsClient(t, stage.Config)
	eventually(t, time.Minute, "the agent is registered, and known to be idle", func() (bool, error) {
		n, err := callsOf(client, ns, lab.AgentName)
		return err == nil && n == 0 && slices.ContainsFunc(stage.Fleet.Agents(), func(a fleet.AgentState) bool { return a.Pod.Namespace == ns && a.Registered }), err
	})
	return ns
}

// gated is an agent behind a call-gate, which publishes audio.
func gated(p *corev1.PodTemplateSpec) {
	lab.Gated(p, lab.GateKind, true)
	p.Annotations[fleet.SpeaksAnnotation] = "true"
}

// TestTry makes a call with the real plugin through the real LiveKit: an agent answers and is heard, its pod is named by a
// real call-gate and counted by the metrics API, and afterwards the counts are back to zero. No room is left.
func TestTry(t *testing.T) {
	ns := agents(t, "try", 0, gated)
	said, code := try(t, ns)
	const want = "key OK, dial OK, answer OK, speak OK, pod OK, gate OK, metrics OK, hang-up OK, free OK"
	if code != 0 || said.outcomes() != want || said.Result != "answered" {
		t.Errorf("exit %d, %q: %s; want %s", code, said.Result, said.outcomes(), want)
	}
	lk := stage.LiveKits[0]
	rooms, err := lksdk.NewRoomServiceClient(lk.URL, lk.APIKey, lk.APISecret).ListRooms(t.Context(), &livekit.ListRoomsRequest{})
	trial.Must(t, err)
	for _, room := range rooms.GetRooms() {
		if strings.HasPrefix(room.GetName(), call.TryRoomPrefix) {
			t.Errorf("room %s is left", room.GetName())
		}
	}
}

// TestTryFails: each way in which a call fails has an exit code and an error that names it.
func TestTryFails(t *testing.T) {
	t.Run("Silent", func(t *testing.T) {
		ns := agents(t, "try-silent", 0, func(p *corev1.PodTemplateSpec) { lab.Gated(p, lab.GateKind, true) })
		fails(t, ns, 3, "speak FAIL, pod OK, gate OK, metrics OK, hang-up OK, free OK", "publishes no track")
		fails(t, ns, 3, "answer FAIL", "they are registered with this very name", "--agent-name=nobody", nobodyAnswers)
		fails(t, ns, 1, "key FAIL", `LiveKit refuses API key "`, "--livekit-secret-keys=url=url,api-key=api-key,api-secret=url")
	})
	t.Run("WrongProject", func(t *testing.T) {
		ns := agents(t, "try-elsewhere", 2, gated)
		fails(t, ns, 3, "answer FAIL", "works for "+stage.LiveKits[0].URL+" and the call went to "+stage.LiveKits[2].URL, nobodyAnswers)
	})
	t.Run("NoPods", func(t *testing.T) {
		ns := namespace(t, "try-nobody")
		trial.Must(t, stage.Secret(t.Context(), ns, trySecret, stage.LiveKits[0]))
		fails(t, ns, 3, "answer FAIL", "there is no guarded pod in namespace "+ns, nobodyAnswers)
	})
	t.Run("Unattributed", func(t *testing.T) {
		ns := agents(t, "try-nameless", 0, func(p *corev1.PodTemplateSpec) { p.Annotations[fleet.UnattributedAnnotation] = "true" })
		fails(t, ns, 2, "answer OK, pod FAIL, hang-up OK", "the agent does not say in which pod it is", "--expect=join", "--count-within=5s")
	})
	t.Run("Full", func(t *testing.T) {
		ns := agents(t, "try-full", 0, func(p *corev1.PodTemplateSpec) { gated(p); p.Annotations[fleet.MaxJobsAnnotation] = "1" })
		calls := dial(t, "try", 1)
		client := metricsClient(t, stage.Config)
		eventually(t, time.Minute, "the call is counted", func() (bool, error) {
			n, err := callsOf(client, ns, lab.AgentName)
			return n == 1, err
		})
		fails(t, ns, 3, "answer FAIL", "all pods that serve (1) hold calls, 1 together, so they may be full", nobodyAnswers)
		calls[0].HangUp()
	})
}

// fails makes a call that fails in one way.
func fails(t *testing.T, namespace string, code int, outcomes, why string, args ...string) {
	t.Helper()
	said, got := try(t, namespace, args...)
	if got != code || !strings.HasSuffix(said.outcomes(), outcomes) || !strings.Contains(said.Error, why) {
		t.Errorf("%s\nexit %d, %s: %s\nwant exit %d, …%s: …%s…", fmt.Sprint(args), got, said.outcomes(), said.Error, code, outcomes, why)
	}
}
