// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/drain"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/leader"
)

const (
	// drainPace is how often a drain looks at what is left, and how soon an eviction
	// that was refused is tried again.
	drainPace = 2 * time.Second
	// lastWords bounds what is read to say how an interrupted drain stands.
	lastWords = 10 * time.Second
	// passes bounds how often pods are evicted that came to the node meanwhile.
	passes = 3
	// leaderPace is how often a drain asks whether a guard leads.
	leaderPace = time.Minute
	// shown bounds the reasons of a refusal, and the pods that are named at the end.
	shown = 20

	pageSize = 500
)

// drainOptions are what the flags of drain say.
type drainOptions struct {
	*common

	timeout            time.Duration
	dryRun             bool
	ignoreDaemonSets   bool
	deleteEmptyDirData bool
	force              bool
	pace, leaderPace   time.Duration
}

func newDrain(c *common) *cobra.Command {
	o := &drainOptions{common: c, pace: drainPace, leaderPace: leaderPace}
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Drain a node without losing a call", Args: oneName("node"),
		Long: "Cordons a node and evicts its pods, as kubectl drain does, and shows what holds it up: which pods, how many calls,\n" +
			"since when, and why. It refuses to start where a call could be lost. No flag ends a call.\n\n" +
			"Exit codes: 0, the node is empty; 1, an error, or it was refused and nothing was changed;\n" +
			"2, it was interrupted or --timeout is over: the node stays cordoned and calls go on.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.timeout < 0 {
				return fmt.Errorf("--timeout is %q; use 0 for no limit, or a duration, such as 30m", o.timeout)
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cl, strings.TrimPrefix(args[0], "node/"))
		},
	}
	fs := cmd.Flags()
	fs.DurationVar(&o.timeout, "timeout", o.timeout, "How long to wait for the node to be empty; 0 for as long as its calls last.")
	fs.BoolVar(&o.dryRun, "dry-run", o.dryRun, "Say what would be evicted and what would hold it up, and change nothing.")
	fs.BoolVar(&o.ignoreDaemonSets, "ignore-daemonsets", o.ignoreDaemonSets, "Leave pods of DaemonSets where they are.")
	fs.BoolVar(&o.deleteEmptyDirData, "delete-emptydir-data", o.deleteEmptyDirData, "Go on although pods have emptyDir volumes, whose data goes with them. The call-gate's journal is one.")
	fs.BoolVar(&o.force, "force", o.force, "Go on although pods have no controller that would make them anew. It ends no call.")
	return cmd
}

// command is the command line that goes on with this drain.
func (o *drainOptions) command(node string) string {
	words := []string{"kubectl calls drain", node}
	for flag, set := range map[string]bool{"--ignore-daemonsets": o.ignoreDaemonSets, "--delete-emptydir-data": o.deleteEmptyDirData, "--force": o.force} {
		if set {
			words = append(words, flag)
		}
	}
	slices.Sort(words[2:])
	return strings.Join(words, " ")
}

// helper is kubectl's own way to drain. It evicts, with each pod's own grace, and
// never deletes.
func (o *drainOptions) helper(ctx context.Context, c *cluster) *drain.Helper {
	return &drain.Helper{
		Ctx: ctx, Client: c.client, Force: o.force, GracePeriodSeconds: -1, IgnoreAllDaemonSets: o.ignoreDaemonSets,
		DeleteEmptyDirData: o.deleteEmptyDirData, EvictErrorRetryDelay: o.pace, ChunkSize: pageSize,
		Out: io.Discard, ErrOut: io.Discard, // it says each try; what changes is said here
	}
}

// list is the pods of a node that a drain takes.
func (o *drainOptions) list(ctx context.Context, c *cluster, node string) ([]*corev1.Pod, string, error) {
	list, errs := o.helper(ctx, c).GetPodsForDeletion(node)
	if len(errs) > 0 {
		return nil, "", errors.Join(errs...)
	}
	var pods []*corev1.Pod
	for _, pod := range list.Pods() {
		pods = append(pods, &pod)
	}
	return pods, list.Warnings(), nil
}

func (o *drainOptions) run(ctx context.Context, c *cluster, name string) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no node %q; kubectl get nodes lists them", name)
	}
	if err != nil {
		return fmt.Errorf("cannot read node %s: %w", name, err)
	}
	pods, warnings, err := o.list(ctx, c, name)
	if err != nil {
		return fmt.Errorf("node %s cannot be drained like this, and was not touched: %s", name, line(err))
	}
	if warnings != "" {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", warnings)
	}
	if eviction, err := drain.CheckEvictionSupport(c.client); err != nil || eviction.Empty() {
		return fmt.Errorf("the API server serves no evictions, and callguard deletes no pod instead: %w", cmp.Or(err, errors.New("no "+drain.EvictionSubresource)))
	}
	a := c.administered(ctx)
	refusals, notes := c.preflight(ctx, a, pods)
	for _, note := range notes {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", note)
	}
	if more := len(refusals) - shown; more > 0 {
		refusals = append(refusals[:shown], fmt.Sprintf("and %d reasons more", more))
	}
	if len(refusals) > 0 {
		return fmt.Errorf("node %s is not drained, and was not touched:\n  %s", name, strings.Join(refusals, "\n  "))
	}
	w := newProgress(c, a, o.Out, name)
	if o.dryRun {
		for _, s := range w.standings(ctx, pods) {
			_, _ = fmt.Fprintf(o.Out, "%s would be evicted: %s\n", s.name(), s)
		}
		_, _ = fmt.Fprintf(o.Out, "node/%s would be cordoned and drained (dry run)\n", name)
		return nil
	}
	if node.Spec.Unschedulable {
		_, _ = fmt.Fprintf(o.Out, "node/%s already cordoned\n", name)
	} else {
		if err := drain.RunCordonOrUncordon(o.helper(ctx, c), node, true); err != nil {
			return fmt.Errorf("cannot cordon node %s: %w", name, err)
		}
		_, _ = fmt.Fprintf(o.Out, "node/%s cordoned\n", name)
	}
	began := c.now()
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if o.timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, o.timeout)
	}
	defer cancel()
	n, err := o.empty(bounded, c, w, name)
	if err != nil && bounded.Err() != nil {
		return o.interrupted(context.WithoutCancel(ctx), ctx.Err() == nil, w, name)
	}
	if err != nil {
		return fmt.Errorf("node %s is not empty, and stays cordoned: %s; go on with: %s", name, line(err), o.command(name))
	}
	_, _ = fmt.Fprintf(o.Out, "node/%s drained: %s left it in %s\n", name, plural(n, "pod"), c.now().Sub(began).Round(time.Second))
	return nil
}

// empty evicts pods until none is left, and says how many went. Pods that were on
// their way to the node when it was cordoned are taken in the next pass.
func (o *drainOptions) empty(ctx context.Context, c *cluster, w *progress, node string) (gone int, err error) {
	for range passes {
		pods, _, err := o.list(ctx, c, node)
		if err != nil || len(pods) == 0 {
			return gone, err
		}
		if err := o.evict(ctx, c, w, pods); err != nil {
			return gone, err
		}
		gone += len(pods)
	}
	pods, _, err := o.list(ctx, c, node)
	if err == nil && len(pods) > 0 {
		err = fmt.Errorf("pods keep coming, such as %s/%s, which tolerates the cordon; scale its workload down, or take the toleration out", pods[0].Namespace, pods[0].Name)
	}
	return gone, err
}

// evict evicts pods, each on its own so that an error is told when it happens and
// keeps nobody else, and shows what changes until all are gone.
func (o *drainOptions) evict(ctx context.Context, c *cluster, w *progress, pods []*corev1.Pod) error {
	looking, stop := context.WithCancel(ctx)
	var looks sync.WaitGroup
	looks.Go(func() { w.watch(looking, pods, o.pace) })
	looks.Go(func() { w.watchLeader(looking, cmp.Or(o.leaderPace, leaderPace)) })
	errs := make([]error, len(pods))
	var evictions sync.WaitGroup
	for i, pod := range pods {
		evictions.Go(func() {
			errs[i] = o.helper(ctx, c).DeleteOrEvictPods([]corev1.Pod{*pod})
			if errs[i] != nil && ctx.Err() == nil {
				w.say("%s/%s cannot be evicted: %s", pod.Namespace, pod.Name, line(errs[i]))
			}
		})
	}
	evictions.Wait()
	stop()
	looks.Wait()
	if ctx.Err() == nil {
		w.look(ctx, pods)
	}
	return errors.Join(errs...)
}

// interrupted says how a drain stands that ends before its node is empty.
func (o *drainOptions) interrupted(ctx context.Context, timeout bool, w *progress, node string) error {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	why := "interrupted"
	if timeout {
		why = "--timeout is over"
	}
	pods, _, err := o.list(ctx, w.cluster, node)
	switch {
	case err != nil:
		_, _ = fmt.Fprintf(o.ErrOut, "%s: node %s stays cordoned; what is left on it is not known: %s\n", why, node, line(err))
	default:
		_, _ = fmt.Fprintf(o.ErrOut, "%s: node %s stays cordoned; left on it: %s\n", why, node, plural(len(pods), "pod"))
		for i, s := range w.standings(ctx, pods) {
			if i == shown {
				_, _ = fmt.Fprintf(o.ErrOut, "  and %d more\n", len(pods)-shown)
				break
			}
			_, _ = fmt.Fprintf(o.ErrOut, "  %s: %s\n", s.name(), s)
		}
	}
	_, _ = fmt.Fprintf(o.ErrOut, "Their calls go on, and callguard lets each guarded pod go after its last one.\n"+
		"To go on: %s\nTo keep the node: kubectl uncordon %s (pods that take no new call still go)\n", o.command(node), node)
	return errWaiting
}

// progress shows what holds a drain up.
type progress struct {
	cluster *cluster
	admin   administered
	node    string
	// leaderless says that no guard led when watchLeader asked last.
	leaderless bool
	doors      error // what is wrong with the policies
	doorsRead  time.Time

	mu   sync.Mutex
	out  io.Writer
	last map[string]string // what was said, by what it is about
}

func newProgress(c *cluster, a administered, out io.Writer, node string) *progress {
	return &progress{cluster: c, admin: a, node: node, out: out, last: map[string]string{}}
}

// say prints a line with the time.
func (w *progress) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = fmt.Fprintf(w.out, "%s  %s\n", clock(w.cluster.now()), fmt.Sprintf(format, args...))
}

// watch looks at the pods until ctx is done.
func (w *progress) watch(ctx context.Context, pods []*corev1.Pod, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		w.look(ctx, pods)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watchLeader says when no guard leads any more, and when one does again, until ctx is
// done. It begins after a pause, for one led when the drain began.
func (w *progress) watchLeader(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		holder, err := leader.Find(ctx, w.cluster.client, w.cluster.callguard, leaderWithin)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, leader.ErrNone) && !w.leaderless:
			w.leaderless = true
			w.say("%s, and guarded pods stay until one does; see Deployment %s/%s", line(err), w.cluster.callguard, call.GuardName)
		case err == nil && w.leaderless:
			w.leaderless = false
			w.say("%s leads again", holder)
		}
	}
}

// look says what has changed of the pods since the last look.
func (w *progress) look(ctx context.Context, pods []*corev1.Pod) {
	list, err := w.cluster.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + w.node})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.changed("left", "what is left is not known: "+line(err))
		return
	}
	var left []*corev1.Pod
	for _, was := range pods {
		i := slices.IndexFunc(list.Items, func(p corev1.Pod) bool { return p.UID == was.UID })
		if i < 0 {
			w.changed(was.Namespace+"/"+was.Name, was.Namespace+"/"+was.Name+": gone")
			continue
		}
		left = append(left, &list.Items[i])
	}
	standings := w.standings(ctx, left)
	if ctx.Err() != nil {
		return
	}
	calls, unknown := 0, 0
	for _, s := range standings {
		w.changed(s.name(), s.name()+": "+s.String())
		if !s.counts() {
			continue
		}
		if n, known := s.calls.Calls(); known {
			calls += n
		} else {
			unknown++
		}
	}
	rest := fmt.Sprintf("%d of %s left, with %s", len(left), plural(len(pods), "pod"), words(call.Known(calls, time.Time{})))
	if unknown > 0 {
		rest += fmt.Sprintf("; of %d the calls are not known", unknown)
	}
	w.changed("left", rest)
}

// changed says a line about something, unless it was said last.
func (w *progress) changed(about, what string) {
	w.mu.Lock()
	same := w.last[about] == what
	w.last[about] = what
	w.mu.Unlock()
	if !same {
		w.say("%s", what)
	}
}

// standing is how a pod stands in a drain.
type standing struct {
	pod     *corev1.Pod
	guarded bool
	state   call.State
	since   time.Time
	calls   call.Reading
	why     string
}

func (s standing) name() string { return s.pod.Namespace + "/" + s.pod.Name }

// String is the same as long as nothing changes.
func (s standing) String() string {
	if s.pod.DeletionTimestamp != nil {
		return "ends"
	}
	if !s.guarded {
		return cmp.Or(s.why, "not guarded")
	}
	text := string(s.state)
	if (s.state == call.Aside || s.state == call.Draining) && !s.since.IsZero() {
		text += " since " + clock(s.since)
	}
	if s.counts() {
		text += ", " + words(s.calls)
	}
	if s.state == call.Serving && !s.since.IsZero() {
		text += ", to go since " + clock(s.since)
	}
	if s.why != "" {
		text += ": " + s.why
	}
	return text
}

// counts reports whether the pod's calls matter. A pod that was let go ends, and is
// soon not asked any more; only what it is known to hold is said then.
func (s standing) counts() bool {
	n, _ := s.calls.Calls()
	return s.guarded && (s.state != call.Released || n > 0)
}

// doorsEvery is how often a drain reads the policies, of which there are fifteen: the guard
// looks at them all the time, and its Events say what is wrong.
const doorsEvery = 30 * time.Second

// standings says how pods stand.
func (w *progress) standings(ctx context.Context, pods []*corev1.Pod) []standing {
	c := w.cluster
	byNamespace := map[string][]*corev1.Pod{}
	for _, pod := range pods {
		byNamespace[pod.Namespace] = append(byNamespace[pod.Namespace], pod)
	}
	if c.now().Sub(w.doorsRead) >= doorsEvery {
		if w.doors = c.doorsKnown(ctx, w.admin); w.doors == nil {
			w.doorsRead = c.now() // what is wrong is soon mended, or was not so
		}
	}
	var list []standing
	for namespace, mine := range byNamespace {
		held, counted := map[string]standing{}, counts{}
		if slices.ContainsFunc(mine, isGuarded) {
			counted = c.calls(ctx, namespace)
			explained, err := c.explainer(w.admin, w.doors, counted).Explain(ctx, namespace, func(p *corev1.Pod) bool { return p.Spec.NodeName == w.node })
			if err != nil && ctx.Err() == nil {
				w.changed("why in "+namespace, "why pods of namespace "+namespace+" stay is not known: "+line(err))
			}
			for _, x := range explained {
				s := standing{pod: x.Pod, since: x.Intent.At}
				if x.Intent.Intent != "" && x.State != call.Released {
					s.why = x.Verdict.Why
					if onlyGuardKnows(x, counted) {
						s.why = notKnownHere + "; its Events say what holds it"
					}
				}
				held[string(x.Pod.UID)] = s
			}
		}
		budgets, err := c.budgets(ctx, namespace)
		for _, pod := range mine {
			s := held[string(pod.UID)]
			s.pod = cmp.Or(s.pod, pod) // what was explained was read later
			s.guarded, s.state = isGuarded(pod), call.StateOf(s.pod.Labels, s.pod.Annotations)
			if s.guarded {
				s.calls = counted.of(pod.Name)
			} else if err == nil {
				s.why = refusedBy(budgets, pod)
			}
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b standing) int { return cmp.Compare(a.name(), b.name()) })
	return list
}

func isGuarded(pod *corev1.Pod) bool { return pod.Labels[call.GuardedLabel] == "true" }
