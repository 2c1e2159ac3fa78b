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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubectl/pkg/drain"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/pkg/verdict"
)

const (
	// drainPace is how often a drain looks at what is left, and how soon a refused eviction is
	// tried again.
	drainPace = 2 * time.Second
	// lastWords is the time limit for reading the state of an interrupted drain.
	lastWords = 10 * time.Second
	// passes is how often a drain starts again for pods that came to the node meanwhile.
	passes = 3
	// leaderPace is how often a drain checks whether a guard leads.
	leaderPace = time.Minute
	// shown is how many reasons of a refusal, and how many remaining pods, are listed.
	shown = 20

	pageSize = 500
)

// unprotectedFlag is the flag for going on although calls are not protected.
const unprotectedFlag = "end-unprotected-calls"

// drainOptions are the values of drain's flags.
type drainOptions struct {
	*common

	selector           string
	timeout            time.Duration
	deadline           time.Duration
	onDeadline         string
	parallel           int
	dryRun             bool
	detach             bool // do not wait
	ignoreDaemonSets   bool
	deleteEmptyDirData bool
	force              bool
	endUnprotected     bool
	output             string
	pace, leaderPace   time.Duration
	endsPace           time.Duration
}

func newDrain(c *common) *cobra.Command {
	o := &drainOptions{common: c, pace: drainPace, leaderPace: leaderPace, ignoreDaemonSets: true}
	wait := true
	cmd := &cobra.Command{
		Use: "drain NODE...", Short: "Drain nodes without losing a call",
		Long: "Cordons nodes and evicts their pods, as kubectl drain does, and shows which pods it waits for, since when and why, " +
			"and how many calls they have. It refuses to start if a call could be lost. Several nodes are all cordoned first, and then " +
			"drained at the same time. No flag ends a call that callguard protects. Pods of DaemonSets stay.\n\n" +
			"Exit codes: 0, the nodes are empty or, with --wait=false, all pods were evicted once;\n" +
			"1, an error, or the drain was refused and nothing was changed;\n" +
			"2, it was interrupted, or --timeout or --deadline is over: the nodes stay cordoned and calls go on. With --dry-run: the drain could not " +
			"end as things are, because calls are not known.",
		Example: "  kubectl calls drain node-1 --dry-run       # what would be evicted, and what would delay it\n" +
			"  kubectl calls drain node-1                 # until its last call is over\n" +
			"  kubectl calls drain node-1 --timeout=30m   # no longer than that; calls go on\n" +
			"  kubectl calls drain node-1 node-2          # both at once\n" +
			"  kubectl calls drain -l pool=old --parallel=2\n" +
			"  kubectl calls drain node-1 --deadline=30m --on-deadline=hold\n" +
			"  kubectl calls drain -l pool=old --wait=false   # kubectl calls status shows what is left\n" +
			"  kubectl calls drain node-1 -o json         # one JSON object per line for each event",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.detach = !wait
			if err := o.validate(args); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			names, err := cl.nodeNames(cmd.Context(), args, o.selector)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cl, names...)
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.selector, "selector", "l", o.selector, "Drain the nodes with these labels, such as pool=old.")
	fs.DurationVar(&o.timeout, "timeout", o.timeout, "Maximum time to wait until the nodes are empty; 0 means no limit.")
	fs.DurationVar(&o.deadline, "deadline", o.deadline, "Time from the beginning of the drain until --on-deadline applies.")
	fs.StringVar(&o.onDeadline, "on-deadline", o.onDeadline, "hold: stop waiting; the nodes stay cordoned and calls go on. release: keep waiting. The drain then starts only if drain-guard will release every pod by the deadline, with its calls, because the workload and the administrator allow it.")
	fs.IntVar(&o.parallel, "parallel", o.parallel, "Number of nodes to drain at the same time; 0 means all. Each further node is cordoned when its turn comes; until then it may receive replacement pods.")
	fs.BoolVar(&o.dryRun, "dry-run", o.dryRun, "Show what would be evicted and what would delay it, and change nothing.")
	fs.BoolVar(&wait, "wait", wait, "Wait until the nodes are empty. With false, cordon them and evict each pod once; callguard then deletes each guarded pod after its last call.")
	fs.BoolVar(&o.ignoreDaemonSets, "ignore-daemonsets", o.ignoreDaemonSets, "Leave pods of DaemonSets on the nodes; with false, the drain is refused if there are any.")
	fs.BoolVar(&o.deleteEmptyDirData, "delete-emptydir-data", o.deleteEmptyDirData, "Drain although pods have emptyDir volumes, whose data is deleted with them. Not needed for call-gate's journal.")
	fs.BoolVar(&o.force, "force", o.force, "Drain although pods have no controller that would recreate them. It ends no protected call.")
	fs.StringVarP(&o.output, "output", "o", o.output, "json: one object per line for each event.")
	fs.BoolVar(&o.endUnprotected, unprotectedFlag, o.endUnprotected, "Drain although guarded pods are in namespaces that are not enabled. Their calls are not protected, and end.")
	return cmd
}

func (o *drainOptions) validate(args []string) error {
	switch {
	case o.timeout < 0:
		return fmt.Errorf("--timeout is %q; use 0 for no limit, or a duration, such as 30m", o.timeout)
	case o.detach && o.timeout > 0:
		return errors.New("--timeout with --wait=false has nothing to bound; leave one out")
	case o.parallel < 0:
		return fmt.Errorf("--parallel is %d; use 0 for all nodes at once, or a number, such as 2", o.parallel)
	case o.detach && o.parallel > 0:
		return errors.New("--parallel with --wait=false has nothing to wait for; leave one out")
	}
	if err := checkOutput(o.output, outputJSON); err != nil {
		return err
	}
	if o.output == outputJSON && o.dryRun {
		return errors.New("--dry-run has no events to show as JSON; use kubectl calls plan -o json")
	}
	if err := o.validateDeadline(); err != nil {
		return err
	}
	return checkNodes(args, o.selector, "kubectl calls drain")
}

// command returns the command line that continues this drain.
func (o *drainOptions) command(nodes ...string) string {
	var flags []string
	if o.parallel > 0 && len(nodes) > 1 {
		flags = append(flags, fmt.Sprintf("--parallel=%d", o.parallel))
	}
	for flag, set := range map[string]bool{
		"--ignore-daemonsets=false": !o.ignoreDaemonSets, "--delete-emptydir-data": o.deleteEmptyDirData, "--force": o.force, "--" + unprotectedFlag: o.endUnprotected,
	} {
		if set {
			flags = append(flags, flag)
		}
	}
	slices.Sort(flags)
	return strings.Join(slices.Concat([]string{"kubectl calls drain"}, nodes, flags), " ")
}

// helper returns kubectl's own drain helper. It evicts with each pod's own grace period,
// and never deletes. list checks for data that would be lost.
func (o *drainOptions) helper(ctx context.Context, c *cluster) *drain.Helper {
	return &drain.Helper{
		Ctx: ctx, Client: c.client, Force: o.force, GracePeriodSeconds: -1, IgnoreAllDaemonSets: o.ignoreDaemonSets,
		DeleteEmptyDirData: true, EvictErrorRetryDelay: o.pace, ChunkSize: pageSize,
		Out: io.Discard, ErrOut: io.Discard, // it prints each try; this program prints only changes
	}
}

// list returns the pods of a node that a drain evicts.
func (o *drainOptions) list(ctx context.Context, c *cluster, node string) ([]*corev1.Pod, string, error) {
	list, errs := o.helper(ctx, c).GetPodsForDeletion(node)
	if list == nil {
		return nil, "", errors.Join(errs...)
	}
	var pods []*corev1.Pod
	var data []string
	for _, pod := range list.Pods() {
		pods = append(pods, &pod)
		if !o.deleteEmptyDirData && keepsData(&pod) {
			data = append(data, pod.Namespace+"/"+pod.Name)
		}
	}
	if len(data) > 0 {
		errs = append(errs, fmt.Errorf("cannot evict pods with emptyDir volumes, whose data would be deleted (use --delete-emptydir-data to continue): %s", some(data)))
	}
	return pods, list.Warnings(), errors.Join(errs...)
}

// emptying is the drain of one node.
type emptying struct {
	node     *corev1.Node
	pods     []*corev1.Pod // at the start
	progress *progress
	begun    bool
	gone     int
	err      error
}

func (o *drainOptions) run(ctx context.Context, c *cluster, names ...string) error {
	to := o.teller(c.now)
	err := o.begin(ctx, c, to, names...)
	if err != nil && !errors.Is(err, errWaiting) {
		to.tell(Event{Time: c.now(), Event: failed, Text: line(err)})
	}
	return err
}

// begin starts the drain of nodes, unless a call could be lost.
func (o *drainOptions) begin(ctx context.Context, c *cluster, to teller, names ...string) error {
	var nodes []*emptying
	var pods []*corev1.Pod
	a := c.administered(ctx)
	for _, name := range names {
		e := &emptying{progress: newProgress(c, a, to, name)}
		var warnings string
		var err error
		if e.node, err = c.node(ctx, name); err != nil {
			return err
		}
		if e.pods, warnings, err = o.list(ctx, c, name); err != nil {
			return fmt.Errorf("node %s cannot be drained like this, and nothing was touched: %s", name, line(err))
		}
		if warnings != "" {
			_, _ = fmt.Fprintln(o.ErrOut, "Warning:", warnings)
		}
		e.progress.several = len(names) > 1
		nodes, pods = append(nodes, e), append(pods, e.pods...)
	}
	if eviction, err := drain.CheckEvictionSupport(c.client); err != nil || eviction.Empty() {
		return fmt.Errorf("the API server serves no evictions, and callguard deletes no pod instead: %w", cmp.Or(err, errors.New("no "+drain.EvictionSubresource)))
	}
	refusals, notes, unprotected := c.preflight(ctx, a, pods, o.endUnprotected)
	for _, note := range notes {
		_, _ = fmt.Fprintln(o.ErrOut, "Warning:", note)
	}
	if more := len(refusals) - shown; more > 0 {
		refusals = append(refusals[:shown], fmt.Sprintf("and %d reasons more", more))
	}
	if len(refusals) > 0 {
		return fmt.Errorf("%s:\n  %s", ofNodes(names, "node %s is not drained, and was not touched", "nodes %s are not drained, and were not touched"), strings.Join(refusals, "\n  "))
	}
	for _, e := range nodes {
		e.progress.unprotected = unprotected
	}
	if o.onDeadline == onDeadlineRelease {
		if err := o.checkRelease(ctx, a, nodes); err != nil {
			return err
		}
	}
	if o.dryRun {
		return o.foretell(ctx, c, nodes)
	}
	for _, e := range nodes {
		e.tellBegin()
	}
	first := len(nodes)
	if o.parallel > 0 {
		first = min(first, o.parallel)
	}
	for _, e := range nodes[:first] {
		if err := o.cordon(ctx, c, e); err != nil {
			return err
		}
	}
	if o.detach {
		return o.ask(ctx, c, nodes)
	}
	return o.drain(ctx, c, nodes, names)
}

// tellBegin reports what there is to do. The number of calls is not known yet.
func (e *emptying) tellBegin() {
	left := Left{Pods: len(e.pods), Of: len(e.pods)}
	for _, pod := range e.pods {
		if isGuarded(pod) {
			left.UnknownPods++
		}
	}
	e.progress.tell(Event{Event: begins, Node: e.node.Name, Text: plural(len(e.pods), "pod") + " to leave it", Left: &left})
}

// cordon cordons a node, unless it is cordoned already.
func (o *drainOptions) cordon(ctx context.Context, c *cluster, e *emptying) error {
	if e.begun {
		return nil
	}
	e.begun = true
	if e.node.Spec.Unschedulable {
		e.progress.tell(Event{Event: cordons, Node: e.node.Name, Text: "node/" + e.node.Name + " already cordoned"})
		return nil
	}
	if err := drain.RunCordonOrUncordon(o.helper(ctx, c), e.node, true); err != nil {
		return fmt.Errorf("cannot cordon node %s: %w", e.node.Name, err)
	}
	e.progress.tell(Event{Event: cordons, Node: e.node.Name, Text: "node/" + e.node.Name + " cordoned"})
	return nil
}

// drain empties nodes. Those that come first are cordoned already.
func (o *drainOptions) drain(ctx context.Context, c *cluster, nodes []*emptying, names []string) error {
	began := c.now()
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if limit := max(o.timeout, o.deadline); limit > 0 && o.onDeadline != onDeadlineRelease {
		bounded, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	looking, stop := context.WithCancel(bounded)
	var work, looks sync.WaitGroup
	looks.Go(func() { nodes[0].progress.to.run(looking) })
	looks.Go(func() { nodes[0].progress.watchLeader(looking, cmp.Or(o.leaderPace, leaderPace)) })
	looks.Go(func() { nodes[0].progress.watchEnds(looking, names, cmp.Or(o.endsPace, endsPace)) })
	turns := make(chan *emptying, len(nodes))
	for _, e := range nodes {
		turns <- e
	}
	close(turns)
	for range cmp.Or(o.parallel, len(nodes)) {
		work.Go(func() {
			for e := range turns {
				if e.err = bounded.Err(); e.err == nil {
					e.err = o.cordon(bounded, c, e)
				}
				if e.err == nil {
					e.gone, e.err = o.empty(bounded, c, e.progress, e.node.Name)
				}
				if e.err == nil {
					e.progress.tell(Event{Event: drained, Node: e.node.Name, Text: fmt.Sprintf("node/%s drained: %s left it in %s", e.node.Name, plural(e.gone, "pod"), c.now().Sub(began).Round(time.Second))})
				}
			}
		})
	}
	work.Wait()
	stop()
	looks.Wait()
	var errs []string
	for _, e := range nodes {
		if e.err != nil {
			errs = append(errs, fmt.Sprintf("node %s is not empty, and stays cordoned: %s", e.node.Name, line(e.err)))
		}
	}
	switch {
	case len(errs) == 0:
		return nil
	case bounded.Err() != nil:
		return o.interrupted(context.WithoutCancel(ctx), ctx.Err() == nil, nodes)
	}
	return fmt.Errorf("%s; go on with: %s", strings.Join(errs, "; "), o.command(names...))
}

// empty evicts pods until none is left, and returns how many left. Pods that were just
// being scheduled to the node when it was cordoned are evicted in the next pass.
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

// severalBudgets returns the names of the PodDisruptionBudgets of a pod that has more than
// one; otherwise, or if that is not known, the node is empty.
func (c *cluster) severalBudgets(ctx context.Context, pod *corev1.Pod) string {
	is, err := c.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	budgets, err := c.budgets(ctx, pod.Namespace)
	if err != nil {
		return ""
	}
	var names []string
	others := 0
	for _, pdb := range budgets {
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(is.Labels)) {
			continue
		}
		names = append(names, pdb.Name)
		if pdb.Name != guard.BudgetName {
			others++
		}
	}
	if len(names) < 2 {
		return ""
	}
	do := "delete all but one"
	if len(names) > others { // callguard's is among them
		names = slices.DeleteFunc(names, func(name string) bool { return name == guard.BudgetName })
		return fmt.Sprintf("PodDisruptionBudget %s matches it beside callguard's; delete it, and use annotation %s of the workload", strings.Join(names, ", "), call.MinAvailableAnnotation)
	}
	return fmt.Sprintf("PodDisruptionBudgets %s match it; %s", strings.Join(names, ", "), do)
}

// interrupted reports the state of a drain that ends before its nodes are empty.
func (o *drainOptions) interrupted(ctx context.Context, timeout bool, nodes []*emptying) error {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	why := "interrupted"
	if timeout {
		why = "--timeout is over"
		if o.deadline > 0 {
			why = "--deadline is over"
		}
	}
	var names, touched []string
	for _, e := range nodes {
		node := e.node.Name
		if e.err == nil {
			continue // it is empty
		}
		names = append(names, node)
		if !e.begun {
			_, _ = fmt.Fprintf(o.ErrOut, "%s: it was not the turn of node %s yet, which was not touched\n", why, node)
			continue
		}
		touched = append(touched, node)
		pods, _, err := o.list(ctx, e.progress.cluster, node)
		if err != nil {
			_, _ = fmt.Fprintf(o.ErrOut, "%s: node %s stays cordoned; what is left on it is not known: %s\n", why, node, line(err))
			continue
		}
		text := fmt.Sprintf("%s: node %s stays cordoned; left on it: %s", why, node, plural(len(pods), "pod"))
		_, _ = fmt.Fprintln(o.ErrOut, text)
		standings := e.progress.standings(ctx, pods)
		left := leftOf(standings, len(e.pods))
		e.progress.tell(Event{Event: stopped, Node: node, Text: text, Left: &left, Resume: o.command(node)})
		for i, s := range standings {
			if i == shown {
				_, _ = fmt.Fprintf(o.ErrOut, "  and %d more\n", len(pods)-shown)
				break
			}
			_, _ = fmt.Fprintf(o.ErrOut, "  %s: %s\n", s.name(), s)
		}
	}
	_, _ = fmt.Fprintf(o.ErrOut, "Their calls go on, and callguard releases each guarded pod after its last call.\n"+
		"To go on: %s\nTo keep the %s: kubectl uncordon %s (pods that take no new call still go)\n",
		o.command(names...), strings.TrimPrefix(plural(len(touched), "node"), fmt.Sprint(len(touched))+" "), strings.Join(touched, " "))
	return errWaiting
}

// progress shows what holds a drain up.
type progress struct {
	cluster *cluster
	admin   administered
	node    string
	// leaderless reports that no guard led when watchLeader last asked.
	leaderless bool
	doors      error // what is wrong with the policies
	doorsRead  time.Time
	// several reports that other nodes are drained at the same time.
	several bool
	// unprotected has, by namespace, why calls are not protected there.
	unprotected map[string]string

	to   teller
	mu   sync.Mutex
	last map[string]string // what was last reported, by subject
}

func newProgress(c *cluster, a administered, to teller, node string) *progress {
	return &progress{cluster: c, admin: a, node: node, to: to, last: map[string]string{}}
}

// tell reports an event with the present time.
func (w *progress) tell(e Event) {
	e.Time = w.cluster.now()
	w.to.tell(e)
}

// watchLeader reports, until ctx is done, when no guard leads any more, and when one does
// again. It begins with a pause, because a guard led when the drain began.
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
			w.tell(Event{Event: waits, Text: fmt.Sprintf("%s, and guarded pods stay until one does; see Deployment %s/%s", line(err), w.cluster.callguard, call.GuardName)})
		case err == nil && w.leaderless:
			w.leaderless = false
			w.tell(Event{Event: resumes, Text: holder + " leads again"})
		}
	}
}

// about returns the beginning of a line about the node.
func (w *progress) about() string {
	if w.several {
		return "node/" + w.node + ": "
	}
	return ""
}

// withCalls returns the end of a line about pods: how many calls they have, and for how
// many pods that is unknown, so that there may be more.
func withCalls(calls, unknown int) string {
	switch {
	case unknown == 0:
		return ", with " + words(call.Known(calls, time.Time{}))
	case calls == 0:
		return "; of " + plural(unknown, "pod") + " the calls are not known"
	default:
		return fmt.Sprintf(", with %s or more; of %s the calls are not known", plural(calls, "call"), plural(unknown, "pod"))
	}
}

// changed reports something on the node, unless the last report about it was the same.
func (w *progress) changed(about string, e Event) {
	w.mu.Lock()
	same := w.last[about] == e.Text
	w.last[about] = e.Text
	w.mu.Unlock()
	if !same {
		e.Node = w.node
		w.tell(e)
	}
}

// standing is the state of a pod in a drain.
type standing struct {
	pod     *corev1.Pod
	guarded bool
	state   call.State
	since   time.Time
	calls   call.Reading
	why     string
	// intent, rule and advice are those of a pod that should go.
	intent call.Intent
	rule   string
	advice verdict.Advice
	// unread reports that the metrics API could not be read, which is not the guard's source.
	unread bool
	// unprotected is why the pod's calls are not protected: its namespace is not enabled.
	unprotected string
}

func (s standing) name() string { return s.pod.Namespace + "/" + s.pod.Name }

// String is the same as long as nothing changes.
func (s standing) String() string {
	if s.pod.DeletionTimestamp != nil {
		return "ends"
	}
	switch {
	case s.unprotected != "":
		return "not protected, so its calls end with it: " + s.unprotected
	case !s.guarded:
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

// counts reports whether the pod's calls matter. A released pod ends and is soon not asked
// any more, so only calls that it is known to hold are shown.
func (s standing) counts() bool {
	n, _ := s.calls.Calls()
	return s.guarded && s.unprotected == "" && (s.state != call.Released || n > 0)
}

// doorsEvery is how often a drain reads the fifteen policies. The guard checks them
// continuously, and its Events say what is wrong.
const doorsEvery = 30 * time.Second

// standings returns the states of pods.
func (w *progress) standings(ctx context.Context, pods []*corev1.Pod) []standing {
	c := w.cluster
	byNamespace := map[string][]*corev1.Pod{}
	for _, pod := range pods {
		byNamespace[pod.Namespace] = append(byNamespace[pod.Namespace], pod)
	}
	if c.now().Sub(w.doorsRead) >= doorsEvery {
		if w.doors = c.doorsKnown(ctx, w.admin); w.doors == nil {
			w.doorsRead = c.now() // an error may soon be fixed, or may have been wrong
		}
	}
	var list []standing
	for namespace, mine := range byNamespace {
		held, counted := map[string]standing{}, counts{}
		about := map[types.UID]bool{}
		for _, pod := range mine {
			about[pod.UID] = true
		}
		if slices.ContainsFunc(mine, isGuarded) {
			counted = c.calls(ctx, namespace)
			explained, err := c.explainer(w.admin, w.doors, counted).Explain(ctx, namespace, func(p *corev1.Pod) bool { return about[p.UID] })
			if err != nil && ctx.Err() == nil {
				w.changed("why in "+namespace, Event{Event: waits, Text: "why pods of namespace " + namespace + " stay is not known: " + line(err)})
			}
			coming := sync.OnceValue(func() replacements {
				r, _ := c.replacements(ctx, namespace) // without them, only the guard's reason is shown
				return r
			})
			for _, x := range explained {
				s := standing{pod: x.Pod, since: x.Intent.At, intent: x.Intent.Intent}
				if x.Intent.Intent != "" && x.State != call.Released {
					s.why, s.rule, s.advice = x.Verdict.Why, x.Verdict.Rule, adviceOn(x)
					if onlyGuardKnows(x, counted) {
						s.why = notKnownHere + "; its Events say what holds it"
					}
					if waitsForOthers(x) {
						if stuck := coming().stuck(x.Pod); stuck != "" {
							s.why += "; " + stuck
						}
					}
				}
				held[string(x.Pod.UID)] = s
			}
		}
		budgets, err := c.budgets(ctx, namespace)
		for _, pod := range mine {
			s := held[string(pod.UID)]
			s.pod = cmp.Or(s.pod, pod) // the explained pod was read later
			s.guarded, s.state = isGuarded(pod), call.StateOf(s.pod.Labels, s.pod.Annotations)
			s.unprotected, s.unread = "", counted.unread
			if s.guarded {
				s.calls, s.unprotected = counted.of(pod.Name), w.unprotected[namespace]
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
