// SPDX-License-Identifier: Apache-2.0

// Command cordon measures how drain-guard empties nodes: thousands of idle guarded pods
// of some Deployments on 50 nodes, all of which are cordoned at once. It says when the
// first pod was released and the last was gone, what the guard wrote for each, and what
// memory it took of a container's 256 MiB. Ten more pods are agents with call-gates, of which
// it says when the first was released.
//
// The control plane, the guard and LiveKit are real, and share the machine; nodes are
// simulated (package test/lab). It fails when a pod stays, when the guard is killed for
// its memory or takes more than 200 MiB, or writes more than 6 times for a pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	namespace = "voice"
	// emptied are the nodes that are cordoned, and spare those that replacements go to.
	emptied, spare = 50, 10
	podsPerNode    = 600
	// memory is the limit of the chart's container, and mostMemory what it may take.
	memory, mostMemory = 256 << 20, 200 << 20
	// mostWrites are those for a pod: aside, draining, released, deleted, and an Event or two.
	mostWrites = 6.0
	within     = 15 * time.Minute
	// gates is how many pods have a call-gate, and gatedName their Deployment.
	gates     = 10
	gatedName = "gated"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	pflag.IntVar(&o.pods, "pods", 5_000, "guarded pods, 1 to 5000; with --idle to 25000")
	pflag.IntVar(&o.deployments, "deployments", 10, "Deployments that they are of, 1 to the number of pods")
	pflag.BoolVar(&o.kill, "kill", false, "kill the guard when a quarter of the pods is gone, and start another")
	pflag.BoolVar(&o.idle, "idle", false, "cordon no node: only tell the guard's memory")
	pflag.Parse()
	if o.pods < 1 || o.pods > o.most() || o.deployments < 1 || o.deployments > o.pods {
		fmt.Fprintf(os.Stderr, "error: %d pods of %d Deployments; use 1 to %d pods, and no more Deployments than pods\n", o.pods, o.deployments, o.most())
		os.Exit(2)
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

type options struct {
	pods, deployments int
	kill, idle        bool
}

// most is how many pods the nodes have room for: those to be emptied, and those that replacements go to.
func (o options) most() int {
	if o.idle {
		return emptied * podsPerNode * 5 / 6
	}
	return spare * podsPerNode * 5 / 6
}

func guardArgs() []string { return []string{"--settle=3s"} }

func run(ctx context.Context, o options) (err error) {
	stage, err := lab.Open(ctx, lab.Options{
		Name: "cordon", Nodes: emptied + spare, PodsPerNode: podsPerNode, LiveKits: 1, MaxJobs: 1, NoAdapter: true,
		Guard: true, GuardArgs: guardArgs(), MemoryLimit: memory, Progress: os.Stderr,
		ControllerManagerArgs: []string{"--kube-api-qps=1000", "--kube-api-burst=2000", "--concurrent-replicaset-syncs=20", "--concurrent-deployment-syncs=20"},
	})
	if err != nil {
		return fmt.Errorf("cannot set the stage: %w", err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if closing := stage.Close(last); closing != nil {
			err = errors.Join(err, fmt.Errorf("cannot clear the stage: %w; try \"go run ./hack/cluster down --name cordon\"", closing))
		}
	}()
	watched, err := watch(ctx, stage.Client)
	if err != nil {
		return err
	}
	alone := time.Now()
	if err := populate(ctx, stage, watched, o.pods, o.deployments); err != nil {
		return err
	}
	if o.idle {
		return reportIdle(stage, o.pods)
	}
	began := time.Now()
	fmt.Fprintf(os.Stderr, "the control plane alone took %.0f s to start as many\n", began.Sub(alone).Seconds())
	watched.mu.Lock()
	watched.began = began
	watched.mu.Unlock()
	if err := cordon(ctx, stage.Client, 1, emptied, true); err != nil {
		return err
	}
	told, kill := began, o.kill
	err = lab.Eventually(ctx, within, "all pods have left", func() (bool, error) {
		left, asides, released, gone := watched.progress()
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(os.Stderr, "after %s: %d set aside and waiting, %d released, %d gone, %d to go\n", time.Since(began).Round(time.Second), asides, released, gone, left)
		}
		if kill && gone > o.pods/4 {
			kill = false
			if err := replaceGuard(ctx, stage); err != nil {
				return false, err
			}
		}
		return left == 0 && gone >= o.pods+gates, nil
	})
	if err != nil {
		return err
	}
	return report(stage, watched, began, o.pods, o.deployments)
}

// replaceGuard kills the guard and starts another.
func replaceGuard(ctx context.Context, stage *lab.Lab) error {
	fmt.Fprintln(os.Stderr, "the guard is killed, and another started")
	if err := stage.Guard.Kill(); err != nil {
		return err
	}
	guard, err := stage.StartGuard(ctx, guardArgs()...)
	if err == nil {
		stage.Guard = guard
	}
	return err
}

// populate makes the Deployments and waits until all pods run on the nodes to be emptied.
func populate(ctx context.Context, stage *lab.Lab, watched *watched, pods, deployments int) error {
	if err := cordon(ctx, stage.Client, emptied+1, emptied+spare, true); err != nil {
		return err
	}
	if err := stage.Namespace(ctx, namespace); err != nil {
		return err
	}
	for i := range deployments {
		d := lab.Agent(namespace, int32((pods+i)/deployments))
		d.Name = fmt.Sprintf("%s-%d", d.Name, i)
		d.Spec.Selector.MatchLabels["app"], d.Spec.Template.Labels["app"] = d.Name, d.Name
		// Nobody plays its process: it ends when it is deleted.
		d.Spec.Template.Labels[fleet.UnplayedLabel] = "true"
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64)
		d.Spec.Template.Annotations = map[string]string{call.WitnessesAnnotation: string(call.Rooms)}
		if _, err := stage.Client.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("cannot make Deployment %s: %w", d.Name, err)
		}
	}
	gated := lab.Agent(namespace, gates)
	gated.Name = gatedName
	gated.Spec.Selector.MatchLabels["app"], gated.Spec.Template.Labels["app"] = gatedName, gatedName
	lab.Gated(&gated.Spec.Template, lab.GateKind, true)
	if _, err := stage.Client.AppsV1().Deployments(namespace).Create(ctx, gated, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make Deployment %s: %w", gatedName, err)
	}
	err := lab.Eventually(ctx, within, fmt.Sprintf("%d pods are ready", pods+gates), func() (bool, error) {
		ready := watched.ready()
		if ready != pods+gates {
			return false, fmt.Errorf("%d of %d are", ready, pods+gates)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d pods of %d Deployments are ready\n", pods, deployments)
	return cordon(ctx, stage.Client, emptied+1, emptied+spare, false)
}

// cordon cordons nodes, or takes that back.
func cordon(ctx context.Context, client kubernetes.Interface, first, last int, closed bool) error {
	for i := first; i <= last; i++ {
		patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, closed)
		if _, err := client.CoreV1().Nodes().Patch(ctx, fmt.Sprint("node-", i), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot cordon node-%d: %w", i, err)
		}
	}
	return nil
}

// report prints what was measured, and says what does not hold.
func report(stage *lab.Lab, watched *watched, began time.Time, pods, deployments int) error {
	writes, err := stage.GuardWrites(began)
	if err != nil {
		return err
	}
	of := map[string]int{}
	for _, w := range writes {
		of[w.Resource]++
	}
	guard, err := memoryOf(stage)
	if err != nil {
		return err
	}
	first, last := watched.firstRelease().Sub(began), watched.lastGone().Sub(began)
	left := float64(len(watched.seen.gone)) // some replacements came to nodes that were cordoned a moment later
	perPod := float64(of["pods"]+of["events"]) / left
	row := fmt.Sprintf("| %d (%d) | %.1f s | %.0f s | %.0f | %.1f, %.1f | %.0f MiB |", pods, deployments, first.Seconds(), last.Seconds(),
		left/(last-first).Seconds(), perPod, float64(of["events"])/left, float64(guard.Peak)/(1<<20))
	if _, err := fmt.Fprintf(os.Stdout, "| pods (Deployments) | first release | last gone | pods a second | writes a pod, Events among them | peak memory |\n|---|---|---|---|---|---|\n%s\n", row); err != nil {
		return err
	}
	watched.mu.Lock()
	defer watched.mu.Unlock()
	fmt.Fprintf(os.Stderr, "first: %s\nwrites by resource: %v\n", strings.Join(watched.firsts, ", "), of)
	faults := []error{tooMuch(guard)}
	if perPod > mostWrites {
		faults = append(faults, fmt.Errorf("%.1f writes a pod; want at most %.1f", perPod, mostWrites))
	}
	return errors.Join(faults...)
}

// reportIdle prints what memory the guard has taken of pods that nobody wants to go.
func reportIdle(stage *lab.Lab, pods int) error {
	guard, err := memoryOf(stage)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(os.Stdout, "%d idle pods: the guard took at most %.0f MiB\n", pods, float64(guard.Peak)/(1<<20)); err != nil {
		return err
	}
	return tooMuch(guard)
}

// memoryOf is what the guards have taken: of several, the most.
func memoryOf(stage *lab.Lab) (most lab.Memory, err error) {
	took, err := stage.Memory()
	if err != nil {
		return most, err
	}
	for _, m := range took {
		if strings.HasPrefix(m.Program, lab.GuardName) {
			most.Kills, most.Peak = most.Kills+m.Kills, max(most.Peak, m.Peak)
		}
	}
	return most, nil
}

func tooMuch(guard lab.Memory) error {
	if guard.Kills > 0 || guard.Peak > mostMemory {
		return fmt.Errorf("the guard took %d MiB and was killed %d times for it; it shall stay below %d MiB", guard.Peak>>20, guard.Kills, mostMemory>>20)
	}
	return nil
}

// watched is what is seen of the pods.
type watched struct {
	pods cache.Store

	steps chan step
	seen  seen

	mu     sync.Mutex
	began  time.Time // zero before the cordon
	firsts []string  // what was first seen since, and when
}

// notice keeps when each thing was first seen of a pod since the cordon: where the time goes before the first release.
func (w *watched) notice(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.began.IsZero() {
		return
	}
	replaces := pod.CreationTimestamp.Time.After(w.began.Add(-time.Second))
	_, aside := pod.Annotations[call.AsideAnnotation]
	_, draining := pod.Annotations[call.DrainingAnnotation]
	for _, what := range []struct {
		name string
		is   bool
	}{
		{"set aside", aside}, {"a replacement has a node", replaces && pod.Spec.NodeName != ""}, {"a replacement is ready", replaces && isReady(pod)},
		{"draining", draining}, {"released", call.IsReleased(pod.Labels)},
		{"with a gate released", call.IsReleased(pod.Labels) && pod.Labels["app"] == gatedName},
	} {
		if what.is && !slices.ContainsFunc(w.firsts, func(first string) bool { return strings.HasPrefix(first, what.name) }) {
			w.firsts = append(w.firsts, fmt.Sprintf("%s after %.1f s", what.name, time.Since(w.began).Seconds()))
		}
	}
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

type step struct {
	pod      types.UID
	released bool // else gone
	at       time.Time
}

type seen struct {
	released, gone map[types.UID]time.Time
}

func watch(ctx context.Context, client kubernetes.Interface) (*watched, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().Pods().Informer()
	w := &watched{
		pods: informer.GetStore(), steps: make(chan step, 100_000),
		seen: seen{released: map[types.UID]time.Time{}, gone: map[types.UID]time.Time{}},
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, is any) {
			pod := is.(*corev1.Pod)
			w.notice(pod)
			if call.IsReleased(pod.Labels) {
				w.steps <- step{pod.UID, true, time.Now()}
			}
		},
		DeleteFunc: func(was any) {
			if pod, is := was.(*corev1.Pod); is {
				w.steps <- step{pod.UID, false, time.Now()}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return w, nil
}

func (w *watched) ready() (n int) {
	for _, o := range w.pods.List() {
		if isReady(o.(*corev1.Pod)) {
			n++
		}
	}
	return n
}

// progress says how many pods are left on the nodes to be emptied, how many of these are
// aside and not released, and how many were released and are gone.
func (w *watched) progress() (left, asides, released, gone int) {
	for len(w.steps) > 0 {
		s := <-w.steps
		into := w.seen.gone
		if s.released {
			into = w.seen.released
		}
		if _, there := into[s.pod]; !there {
			into[s.pod] = s.at
		}
	}
	spares := map[string]bool{}
	for i := range spare {
		spares[fmt.Sprint("node-", emptied+1+i)] = true
	}
	for _, o := range w.pods.List() {
		if pod := o.(*corev1.Pod); pod.Spec.NodeName != "" && !spares[pod.Spec.NodeName] {
			left++
			if _, aside := pod.Annotations[call.AsideAnnotation]; aside && !call.IsReleased(pod.Labels) {
				asides++
			}
		}
	}
	return left, asides, len(w.seen.released), len(w.seen.gone)
}

func (w *watched) firstRelease() (first time.Time) {
	for _, at := range w.seen.released {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

func (w *watched) lastGone() (last time.Time) {
	for _, at := range w.seen.gone {
		if at.After(last) {
			last = at
		}
	}
	return last
}
