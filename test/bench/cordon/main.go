// SPDX-License-Identifier: Apache-2.0

// Command cordon measures how drain-guard empties nodes: thousands of idle guarded pods of some Deployments on 50 nodes,
// all of which are cordoned at once. It prints when the first pod was released and the last was gone, how many requests
// the guard sent to kube-apiserver per pod, and how much of a container's 256 MiB of memory it used. Ten more pods are
// agents with call-gates; it prints when the first of them was released.
//
// kube-apiserver, etcd, the guard and LiveKit are real, and share the machine. This process simulates controllers,
// scheduler and kubelets, which costs less than the real ones. With --whole they are real, except for the nodes, which are
// simulated (package test/lab). It fails when a pod stays, when the guard is killed for its memory or uses more than 200
// MiB, or when it sends more than 6 requests per pod.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	namespace = "voice"
	// emptied is the number of nodes that are cordoned, and spare of those that replacements go to.
	emptied, spare = 50, 10
	podsPerNode    = 600
	// memory is the limit of the chart's container, and mostMemory how much the guard may use.
	memory, mostMemory = 256 << 20, 200 << 20
	// mostRequests is the limit per pod: aside, draining, the look before its release, released, deleted, and an Event or
	// two.
	mostRequests = 6.0
	within       = 15 * time.Minute
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
	pflag.BoolVar(&o.whole, "whole", false, "have the whole control plane and simulated nodes")
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
	whole, kill, idle bool
}

// most is how many pods fit on the nodes: those to be emptied, and those that replacements go to.
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
		Bare: !o.whole, Guard: true, GuardArgs: guardArgs(), MemoryLimit: memory, Progress: os.Stderr,
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
	if err := stage.Namespace(ctx, namespace); err != nil {
		return err
	}
	watched, played, err := watch(ctx, stage, !o.whole)
	if err != nil {
		return err
	}
	alone := time.Now()
	if err := populate(ctx, stage, watched, played, o); err != nil {
		return err
	}
	if o.idle {
		return reportIdle(stage, o.pods)
	}
	began := time.Now()
	fmt.Fprintf(os.Stderr, "it took %.0f s to start as many\n", began.Sub(alone).Seconds())
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
	return report(stage, watched, began, o)
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

// populate creates the Deployments and waits until all pods run on the nodes to be emptied.
func populate(ctx context.Context, stage *lab.Lab, watched *watched, played *light, o options) error {
	if err := cordon(ctx, stage.Client, emptied+1, emptied+spare, true); err != nil {
		return err
	}
	for i := range o.deployments {
		d := lab.Agent(namespace, int32((o.pods+i)/o.deployments))
		d.Name = fmt.Sprintf("%s-%d", d.Name, i)
		d.Spec.Selector.MatchLabels["app"], d.Spec.Template.Labels["app"] = d.Name, d.Name
		// Nothing simulates its process: it ends when it is deleted.
		d.Spec.Template.Labels[fleet.UnplayedLabel] = "true"
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64)
		d.Spec.Template.Annotations = map[string]string{call.WitnessesAnnotation: string(call.Rooms)}
		if err := deploy(ctx, stage, played, d); err != nil {
			return err
		}
	}
	gated := lab.Agent(namespace, gates)
	gated.Name = gatedName
	gated.Spec.Selector.MatchLabels["app"], gated.Spec.Template.Labels["app"] = gatedName, gatedName
	lab.Gated(&gated.Spec.Template, lab.GateKind, true)
	if err := deploy(ctx, stage, played, gated); err != nil {
		return err
	}
	err := lab.Eventually(ctx, within, fmt.Sprintf("%d pods are ready", o.pods+gates), func() (bool, error) {
		ready := watched.ready()
		if ready != o.pods+gates {
			return false, fmt.Errorf("%d of %d are", ready, o.pods+gates)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d pods of %d Deployments are ready\n", o.pods, o.deployments)
	return cordon(ctx, stage.Client, emptied+1, emptied+spare, false)
}

// deploy creates a Deployment, and starts its controllers if they are simulated.
func deploy(ctx context.Context, stage *lab.Lab, played *light, d *appsv1.Deployment) error {
	d, err := stage.Client.AppsV1().Deployments(namespace).Create(ctx, d, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot make a Deployment: %w", err)
	}
	if played == nil {
		return nil
	}
	return played.follow(ctx, d)
}

// cordon cordons or uncordons nodes, all at once.
func cordon(ctx context.Context, client kubernetes.Interface, first, last int, closed bool) error {
	var nodes errgroup.Group
	for i := first; i <= last; i++ {
		nodes.Go(func() error {
			patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, closed)
			if _, err := client.CoreV1().Nodes().Patch(ctx, fmt.Sprint("node-", i), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				return fmt.Errorf("cannot cordon node-%d: %w", i, err)
			}
			return nil
		})
	}
	return nodes.Wait()
}

// report prints the measurements, and returns which limits do not hold.
func report(stage *lab.Lab, watched *watched, began time.Time, o options) error {
	requests, err := stage.GuardRequests(began)
	if err != nil {
		return err
	}
	of, asked := map[string]int{}, 0
	for _, r := range requests {
		if r.Resource != "leases" {
			asked++
		}
		of[r.Verb+" "+r.Resource]++
	}
	guard, err := memoryOf(stage)
	if err != nil {
		return err
	}
	watched.mu.Lock()
	defer watched.mu.Unlock()
	first, last := watched.firstRelease().Sub(began), watched.lastGone().Sub(began)
	left := float64(len(watched.seen.gone)) // some replacements were put on nodes that were cordoned a moment later
	perPod, pace := float64(asked)/left, left/(last-first).Seconds()
	row := fmt.Sprintf("| %d (%d) | %.1f s | %.1f s | %.0f s | %.0f | %.1f | %.0f MiB |", o.pods, o.deployments, first.Seconds(),
		watched.firsts["released, with a gate"].Sub(began).Seconds(), last.Seconds(), pace, perPod, float64(guard.Peak)/(1<<20))
	if _, err := fmt.Fprintf(os.Stdout, "| pods (Deployments) | first release | first with a gate | last gone | pods a second | requests a pod | peak memory |\n|---|---|---|---|---|---|---|\n%s\n", row); err != nil {
		return err
	}
	for _, what := range slices.SortedFunc(maps.Keys(watched.firsts), func(a, b string) int { return watched.firsts[a].Compare(watched.firsts[b]) }) {
		fmt.Fprintf(os.Stderr, "first after %.1f s: %s\n", watched.firsts[what].Sub(began).Seconds(), what)
	}
	fmt.Fprintf(os.Stderr, "requests: %v\n", of)
	faults := []error{tooMuch(guard)}
	if perPod > mostRequests {
		faults = append(faults, fmt.Errorf("%.1f requests a pod; want at most %.1f", perPod, mostRequests))
	}
	return errors.Join(faults...)
}

// reportIdle prints how much memory the guard uses while no pod has to leave.
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

// memoryOf returns how much memory the guards used; with several, the maximum.
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

// watched records what happened to the pods.
type watched struct {
	pods cache.Store

	steps chan step
	seen  seen

	mu     sync.Mutex
	began  time.Time            // zero before the cordon
	firsts map[string]time.Time // what was seen since then, and when first
}

// notice records when each thing was first seen on a pod since the cordon: this shows where the time before the first
// release goes.
func (w *watched) notice(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.began.IsZero() {
		return
	}
	replaces := pod.CreationTimestamp.Time.After(w.began.Add(-time.Second))
	_, aside := pod.Annotations[call.AsideAnnotation]
	_, draining := pod.Annotations[call.DrainingAnnotation]
	gated := pod.Labels["app"] == gatedName
	for _, what := range []struct {
		name string
		is   bool
	}{
		{"set aside", aside}, {"a replacement has a node", replaces && pod.Spec.NodeName != ""}, {"a replacement is ready", replaces && isReady(pod)},
		{"draining", draining}, {"released", call.IsReleased(pod.Labels)},
	} {
		name := what.name
		if gated {
			name += ", with a gate"
		}
		if _, known := w.firsts[name]; what.is && !known {
			w.firsts[name] = time.Now()
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
	released bool // otherwise gone
	at       time.Time
}

type seen struct {
	released, gone map[types.UID]time.Time
}

// watch follows the pods, and simulates their controllers if asked to.
func watch(ctx context.Context, stage *lab.Lab, play bool) (*watched, *light, error) {
	config := rest.CopyConfig(stage.Config)
	config.ContentType, config.QPS = runtime.ContentTypeProtobuf, -1
	config.WarningHandler = rest.NoWarnings{} // about agents without a priority
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	pods, nodes := factory.Core().V1().Pods().Informer(), factory.Core().V1().Nodes().Informer()
	w := &watched{
		pods: pods.GetStore(), steps: make(chan step, 100_000),
		firsts: map[string]time.Time{}, seen: seen{released: map[types.UID]time.Time{}, gone: map[types.UID]time.Time{}},
	}
	if err := pods.AddIndexers(cache.Indexers{ownedBy: byOwner}); err != nil {
		return nil, nil, err
	}
	_, err = pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
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
		return nil, nil, err
	}
	var played *light
	if play {
		if played, err = startLight(ctx, stage.Cluster, client, pods, nodes); err != nil {
			return nil, nil, err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return w, played, nil
}

func (w *watched) ready() (n int) {
	for _, o := range w.pods.List() {
		if isReady(o.(*corev1.Pod)) {
			n++
		}
	}
	return n
}

// progress counts the pods left on the nodes to be emptied, those of them that are aside and not released, and those that
// were released and are gone.
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
