// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	witness "github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/test/nodeagent"
	"github.com/callguard/callguard/test/trial"
)

const (
	addonNamespace = "callguard-system"
	addon          = "callguard"
	voiceNamespace = "voice"
	voice          = "voice"
	agentName      = "voice-voice-agent-agent"
	livekitName    = "voice-voice-agent-livekit"

	agentSelector   = "app.kubernetes.io/instance=voice,app.kubernetes.io/component=agent"
	livekitSelector = "app.kubernetes.io/instance=voice,app.kubernetes.io/component=livekit"
	podAttribute    = call.PodAttribute
	fourPods        = 4
	gatePort        = 8089
	probePort       = 8080
)

// TestInstall is what a team does: it installs both charts, takes calls, scales on them, drains a node, upgrades and rolls
// back during calls, and uninstalls.
func TestInstall(t *testing.T) {
	t.Run("Addon", installAddon)
	key, secret := "API"+randomName("key")[:8], randomName("secret")
	p := &phones{key: key, secret: secret, up: map[string]*phone{}}
	type step struct {
		name string
		run  func(t *testing.T, p *phones)
	}
	steps := []step{
		{"Voice", installVoice},
		{"Try", tryCall},
		{"PrivateAuthority", privateAuthority},
		{"Calls", dialAll},
		{"DrainNode", drainNode},
		{"Upgrade", upgrade},
		{"Rollback", rollback},
		{"UninstallAddon", uninstallAddon},
		{"UninstallVoice", uninstallVoice},
	}
	if *manyCalls > 0 {
		steps = []step{{"Voice", installVoice}, {"ManyCalls", callMany}}
	}
	if otherCluster() {
		steps = []step{{"Voice", installVoice}, {"Cluster", clusterIsOther}, {"Calls", dialAll}}
	}
	defer p.describeDropped(t)
	for _, s := range steps {
		if t.Failed() {
			return // each step needs those before it
		}
		t.Run(s.name, func(t *testing.T) {
			began := time.Now()
			s.run(t, p)
			t.Logf("%s", time.Since(began).Round(time.Second))
		})
	}
}

// installAddon follows README.md under Install.
func installAddon(t *testing.T) {
	asWritten(t, "\n## Install\n", map[string]string{"IMAGE": callguardImage, "TAG": imageTag}, "")
	addonWorks(t)
}

func addonWorks(t *testing.T) {
	t.Helper()
	kubectl(t, "wait", "apiservice/v1beta1.custom.metrics.k8s.io", "apiservice/v1beta2.custom.metrics.k8s.io", "--for=condition=Available", "--timeout=60s")
	if out := helm(t, "test", addon, "-n", addonNamespace, "--logs", "--timeout", "2m"); !strings.Contains(out, "Succeeded") {
		t.Errorf("helm test says:\n%s", out)
	}
}

// calls is the number of callers. Each keeps a process busy, and two processors carry few during a drain: LiveKit loses a
// caller that does not run for some seconds, and its agent leaves.
var calls = flag.Int("calls", 12, "have so many callers, a multiple of four") //nolint:gochecknoglobals // a flag of the test

// small are values for two nodes that share two cores, and for a test with little time.
func small() string {
	target := *calls / fourPods
	if *manyCalls > 0 {
		target = 100 // no autoscaler: the pods that start and end are enough for two cores
	}
	return smallCluster + fmt.Sprintf("  autoscaling: {targetActiveCalls: %d, behavior: {scaleDown: {stabilizationWindowSeconds: 10}}}\n", target)
}

const smallCluster = `
livekit:
  nodeSelector: {kubernetes.io/hostname: node-1}
  image: {repository: ` + livekitImage + `, tag: ` + imageTag + `}
  resources: {requests: {cpu: 50m}}
  config: {room: {departure_timeout: 2}}
worker:
  resources: {requests: {cpu: 50m, memory: 128Mi}}
mcpServers:
  crm:
    image: {repository: ` + agentImage + `, tag: ` + imageTag + `}
    command: [node, ` + nodeagent.MCP + `]
try: {expect: join, answerWithin: 2m}
agent:
  resources: {requests: {cpu: 200m, memory: 128Mi}}
`

// tryCall makes a call with "helm test", from a pod with its own account: a real agent answers, the call is counted by
// call-gate, which the pod reaches, and by the metrics API, and then no more.
func tryCall(t *testing.T, _ *phones) {
	out := helm(t, "test", voice, "-n", voiceNamespace, "--logs", "--timeout", "6m")
	for _, step := range []string{"key", "dial", "answer", "pod", "gate", "metrics", "hang-up", "free"} {
		if !regexp.MustCompile(`(?m)^OK +` + step + ` `).MatchString(out) {
			t.Errorf("step %s is not OK", step)
		}
	}
	if t.Failed() || !strings.Contains(out, "Succeeded") {
		t.Errorf("helm test says:\n%s", out)
	}
}

// installVoice follows README.md on a whole voice agent, on a small cluster.
func installVoice(t *testing.T, p *phones) {
	asWritten(t, "**A whole voice agent**", map[string]string{
		"IMAGE": callguardImage, "AGENT": agentImage, "TAG": imageTag, "KEY": p.key, "SECRET": p.secret,
	}, " -f small.yaml")
	servers := pods(t, voiceNamespace, livekitSelector)
	if len(servers) != 1 || servers[0].Status.PodIP == "" {
		t.Fatalf("%d LiveKit pods; want one with an address", len(servers))
	}
	p.url = "ws://" + servers[0].Status.PodIP + ":7880"
	launched(t)
	eventually(t, time.Minute, "the autoscaler reads the metric", func() error {
		value, err := metric(t, "namespaces/"+voiceNamespace+"/deployments.apps/"+agentName+"/active_calls")
		if err == nil && value != "0" {
			err = errors.New("active_calls is " + value)
		}
		return err
	})
	helm(t, "test", addon, "-n", addonNamespace, "--timeout", "2m")
	bothNamings(t, p)
	// OpenAI is unreachable here, which the probe tolerates for five minutes.
	for _, pod := range pods(t, voiceNamespace, agentSelector) {
		status, class, err := probed(pod.Status.PodIP)
		trial.Must(t, err)
		if status != http.StatusOK || class != "DEGRADED" {
			t.Errorf("realtime-probe of %s answers %d, %s; want 200, DEGRADED", pod.Name, status, class)
		}
	}
}

// probed returns what realtime-probe answers at a pod's address.
func probed(address string) (status int, class string, err error) {
	resp, err := http.Get(fmt.Sprintf("http://%s:%d/healthz/realtime", address, probePort))
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ Class string }
	err = json.NewDecoder(resp.Body).Decode(&answer)
	return resp.StatusCode, answer.Class, err
}

// launched reads the output of the launcher of the agents' image, which resembles LiveKit's starters: a user with a name, a
// home with models, and a cache that must be writable.
func launched(t *testing.T) {
	t.Helper()
	const want = "launched as user 10001, HOME /app, model downloaded, cache /tmp/"
	for _, component := range []string{"agent", "worker"} {
		selector := "app.kubernetes.io/instance=" + voice + ",app.kubernetes.io/component=" + component
		running := pods(t, voiceNamespace, selector)
		if len(running) == 0 {
			t.Errorf("no %s runs", component)
		}
		for _, pod := range running {
			if said := kubectl(t, "logs", "-n", voiceNamespace, pod.Name, "-c", component); !strings.Contains(said, want) {
				t.Errorf("%s does not say %q:\n%s", pod.Name, want, said)
			}
		}
	}
}

// dialAll dials, and the autoscaler follows from two pods to four.
func dialAll(t *testing.T, p *phones) {
	for i := range *calls {
		p.dial(t, fmt.Sprintf("call-%02d", i))
	}
	eventually(t, 2*time.Minute, "the calls are four pods", func() error {
		value, err := metric(t, "namespaces/"+voiceNamespace+"/deployments.apps/"+agentName+"/active_calls")
		if err != nil {
			return err
		}
		if ready := readyAgents(t); value != strconv.Itoa(*calls) || ready != fourPods {
			return fmt.Errorf("active_calls is %s, %d agents are ready", value, ready)
		}
		return nil
	})
	if n := len(p.holders(t)); n < 2 {
		t.Errorf("%d pods hold calls; want both of the first two", n)
	}
	// Each agent has asked the MCP server in its environment who calls.
	eventually(t, 30*time.Second, "every agent knows its caller", func() error {
		for _, a := range p.agents(t) {
			if got, want := a.GetAttributes()["caller"], "the caller of "+a.room; got != want {
				return fmt.Errorf("an agent notes %q; want %q", got, want)
			}
		}
		return nil
	})
	p.noneDropped(t)
}

func readyAgents(t *testing.T) int {
	t.Helper()
	ready := 0
	for _, pod := range pods(t, voiceNamespace, agentSelector) {
		if pod.Annotations[call.DrainingAnnotation] == "" && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			ready++
		}
	}
	return ready
}

// obeyedWithin limits how long the drain annotation takes through the kubelet, which does one thing with a pod at a time:
// an annotation that arrives while it works on the step before waits for that. It should take less than a second, which the
// fastest of a drain has to meet: alone it takes up to 0.4 s, behind a step up to 1 s. Here two kubelets and everything
// else share two cores, and most of the time is the kubelet's, not callguard's. So an annotation fails the test only if no
// kubelet explains the delay: one that missed the change writes it at its next full sync, a minute or more later.
const (
	obeyedWithin = time.Second
	obeyedAtMost = 10 * time.Second
)

// acknowledged measures how long each pod that should drain takes to obey: from kube-apiserver's watch event of the
// annotation to the answer of its call-gate.
func acknowledged(t *testing.T, took chan<- time.Duration) {
	t.Helper()
	watch, err := stage.client.CoreV1().Pods(voiceNamespace).Watch(t.Context(), metav1.ListOptions{LabelSelector: agentSelector})
	trial.Must(t, err)
	go func() {
		defer watch.Stop()
		seen := map[string]bool{}
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			order := ""
			if ok {
				order = pod.Annotations[call.DrainingAnnotation]
			}
			if order == "" || seen[pod.Name] || pod.DeletionTimestamp != nil {
				continue
			}
			seen[pod.Name] = true
			go func() {
				began := time.Now()
				for time.Since(began) < 30*time.Second {
					if a, err := askGate(pod.Status.PodIP); err == nil && a.Draining == order {
						took <- time.Since(began)
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
				took <- 30 * time.Second
			}()
		}
	}()
}

func askGate(address string) (witness.Answer, error) {
	var a witness.Answer
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(fmt.Sprintf("http://%s:%d%s", address, gatePort, witness.Path))
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

// drainNode drains the node without LiveKit during calls.
func drainNode(t *testing.T, p *phones) {
	took := make(chan time.Duration, 64)
	acknowledged(t, took)
	on := map[string]bool{} // UIDs of the node's pods
	for _, pod := range pods(t, voiceNamespace, agentSelector) {
		if pod.Spec.NodeName == "node-2" {
			on[string(pod.UID)] = true
		}
	}
	var rooms []string
	for uid, names := range p.holders(t) {
		if on[uid] {
			rooms = append(rooms, names...)
		}
	}
	if len(on) == 0 || len(rooms) == 0 {
		t.Fatalf("%d agents with %d calls are on node-2; want some", len(on), len(rooms))
	}
	drained := make(chan error, 1)
	go func() {
		_, err := command(t.Context(), stage.kubectl, "drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5m")
		drained <- err
	}()
	quickest := time.Hour
	for range on {
		select {
		case d := <-took:
			quickest = min(quickest, d)
			t.Logf("order written → acknowledged by call-gate, through the kubelet: %s", d.Round(time.Millisecond))
			if d > obeyedAtMost {
				t.Errorf("an order took %s; want %s at most", d, obeyedAtMost)
			}
		case err := <-drained:
			t.Fatalf("kubectl drain ended under calls: %v", err)
		case <-time.After(3 * time.Minute):
			describe(t)
			t.Fatal("the pods of node-2 were not ordered to drain within 3 minutes")
		}
	}
	if quickest > obeyedWithin {
		t.Errorf("no order took less than %s; the quickest took %s", obeyedWithin, quickest)
	}
	p.noneDropped(t)
	last := time.Now()
	p.hangUp(rooms...)
	road := follow(t, "node-2")
	select {
	case err := <-drained:
		trial.Must(t, err)
	case <-time.After(2 * time.Minute):
		describe(t)
		t.Fatal("kubectl drain did not end within 2 minutes of the node's last call")
	}
	took10 := time.Since(last).Round(100 * time.Millisecond)
	for line := range road {
		t.Logf("pod %s", line)
	}
	t.Logf("%d calls of %d pods were hung up, and the drain ended %s after", len(rooms), len(on), took10)
	kubectl(t, "uncordon", "node-2")
	p.noneDropped(t)
}

// follow records for each pod that is still on the node when its last job ended, according to its call-gate, and when it
// was released, evicted and gone.
func follow(t *testing.T, node string) <-chan string {
	t.Helper()
	list, err := stage.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	trial.Must(t, err)
	said := make(chan string, len(list.Items))
	began := time.Now()
	var roads sync.WaitGroup
	for _, pod := range list.Items {
		if o := metav1.GetControllerOf(&pod); o == nil || o.Kind == "DaemonSet" {
			continue // kubectl leaves it there
		}
		roads.Go(func() {
			road := ""
			reached := func(what string, is bool) {
				if is && !strings.Contains(road, what) {
					road += fmt.Sprintf("%s after %.1f s, ", what, time.Since(began).Seconds())
				}
			}
			for time.Since(began) < 2*time.Minute {
				now, err := stage.client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
				if err != nil || now.UID != pod.UID {
					break
				}
				if pod.Labels[call.GuardedLabel] != "" {
					a, err := askGate(pod.Status.PodIP)
					reached("no call any more", err == nil && a.Drained)
				}
				reached("released", now.Labels[call.ReleasedLabel] != "")
				reached("evicted", now.DeletionTimestamp != nil)
				time.Sleep(pace)
			}
			reached("gone", true)
			said <- pod.Name + ": " + strings.TrimSuffix(road, ", ")
		})
	}
	go func() {
		roads.Wait()
		close(said)
	}()
	return said
}

// upgrade rolls the agents out during all calls. Helm waits for the new pods, not for calls.
func upgrade(t *testing.T, p *phones) {
	change(t, p, []string{
		"upgrade", voice, "charts/voice-agent", "-n", voiceNamespace, "--reuse-values", "--set-string", "agent.env.GREETING=hello", "--wait", "--timeout", "3m",
	})
}

func rollback(t *testing.T, p *phones) {
	change(t, p, []string{"rollback", voice, "1", "-n", voiceNamespace, "--wait", "--timeout", "5m"})
}

func change(t *testing.T, p *phones, args []string) {
	t.Helper()
	for len(p.going()) < 6 {
		p.dial(t, "more-"+randomName(t.Name())[:6])
	}
	before := p.holders(t)
	helm(t, args...)
	t.Logf("helm returned while %d calls went on in %d pods", len(p.going()), len(p.holders(t)))
	p.noneDropped(t)
	eventually(t, time.Minute, "the former pods take no new call", func() error {
		for _, pod := range pods(t, voiceNamespace, agentSelector) {
			if _, old := before[string(pod.UID)]; !old {
				continue
			}
			// For a moment the mark has not reached the gate.
			a, err := askGate(pod.Status.PodIP)
			if err != nil {
				return err
			}
			if a.Draining == "" {
				return fmt.Errorf("pod %s may accept calls", pod.Name)
			}
		}
		return nil
	})
	name := "new-" + randomName(t.Name())[:6]
	p.dial(t, name)
	for uid, rooms := range p.holders(t) {
		if _, old := before[uid]; old && slices.Contains(rooms, name) {
			t.Errorf("a new call went to a pod of the former revision")
		}
	}
	p.noneDropped(t)
}

// uninstallAddon uninstalls callguard during calls: first by Helm alone with the guard dead, then, installed again, with
// its hook.
func uninstallAddon(t *testing.T, p *phones) {
	kubectl(t, "scale", "deployment/drain-guard", "-n", addonNamespace, "--replicas=0")
	eventually(t, time.Minute, "the guard is dead", func() error {
		if n := len(pods(t, addonNamespace, "app.kubernetes.io/name=drain-guard")); n > 0 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	helm(t, "uninstall", addon, "-n", addonNamespace, "--no-hooks", "--wait", "--timeout", "2m")
	nothingLeft(t)
	p.noneDropped(t)

	helm(t, "install", addon, "charts/callguard", "-n", addonNamespace,
		"--set", "image.repository="+callguardImage, "--set-string", "image.tag="+imageTag, "--wait", "--timeout", "3m")
	addonWorks(t)
	eventually(t, time.Minute, "the guard has locked the namespace again", func() error {
		_, err := stage.client.PolicyV1().PodDisruptionBudgets(voiceNamespace).Get(t.Context(), addon, metav1.GetOptions{})
		return err
	})
	helm(t, "uninstall", addon, "-n", addonNamespace, "--wait", "--timeout", "2m")
	nothingLeft(t)
	for _, pod := range pods(t, voiceNamespace, agentSelector) {
		if pod.Annotations[call.AsideAnnotation] != "" {
			t.Errorf("pod %s was not given back", pod.Name)
		}
	}
	p.noneDropped(t)
	kubectl(t, "delete", "namespace", addonNamespace, "--timeout=60s")
}

// nothingLeft looks for leftovers that would disturb a cluster. The lookout, which refuses nothing by itself, stays on
// purpose.
func nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "nothing of the add-on is left", func() error {
		_, err := stage.client.PolicyV1().PodDisruptionBudgets(voiceNamespace).Get(t.Context(), addon, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the PodDisruptionBudget: %w", err)
		}
		var left []string
		for _, kind := range []string{
			"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings",
			"clusterroles", "clusterrolebindings", "priorityclasses", "apiservices",
		} {
			out, err := command(t.Context(), stage.kubectl, "get", kind, "-o", "name")
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				if line = strings.TrimSpace(line); strings.Contains(line, "callguard") && !strings.Contains(line, "callguard-lookout") || strings.Contains(line, "custom.metrics") {
					left = append(left, line)
				}
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

func uninstallVoice(t *testing.T, p *phones) {
	p.noneDropped(t)
	p.hangUp(p.going()...)
	helm(t, "uninstall", voice, "-n", voiceNamespace, "--wait", "--timeout", "3m")
	kubectl(t, "delete", "namespace", voiceNamespace, "--timeout=90s")
}
