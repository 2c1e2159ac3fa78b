// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// The values of --output.
const (
	outputWide = "wide"
	outputJSON = "json"
	outputYAML = "yaml"
	outputName = "name"
)

// The values of --sort-by.
const (
	byName  = "name"
	byCalls = "calls"
	byNode  = "node"
	byState = "state"
	byAge   = "age"
)

// watchPace is the minimum pause of list -w between two looks. For each request that a look
// took, it waits three fifths of that, so that it makes fewer than one request a second,
// however many pods there are.
const watchPace = 2 * time.Second

// nothing is shown for an empty value.
const nothing = "-"

// listOptions are the values of list's flags.
type listOptions struct {
	*common

	allNamespaces bool
	selector      string
	node          string
	output        string
	sortBy        string
	watch         bool
	pace          time.Duration // of --watch
}

func newList(c *common) *cobra.Command {
	o := &listOptions{common: c, pace: watchPace}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"top"}, Short: "List guarded pods and their calls", Args: noWords, RunE: o.run,
		Long: "Lists guarded pods: the node and the state of each, how many calls it holds, and the total.\n" +
			"The calls come from the metrics API. An unknown number is shown as ?, and a total without it ends in +?.",
		Example: o.examples(),
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *listOptions) examples() string {
	return "  kubectl calls                          # of this namespace\n" +
		"  kubectl calls -A --sort-by=calls       # of all, the fullest first\n" +
		"  kubectl calls -w --node node-1         # what is left on a node, until Ctrl-C\n" +
		"  kubectl calls -n voice -o json"
}

func (o *listOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.allNamespaces, "all-namespaces", "A", o.allNamespaces, "List the pods of all namespaces.")
	fs.StringVarP(&o.selector, "selector", "l", o.selector, "Label selector, such as app=agent.")
	fs.StringVar(&o.node, "node", o.node, "List the pods of this node, in all namespaces unless -n is given.")
	fs.StringVarP(&o.output, "output", "o", o.output, "json, yaml, name or wide.")
	fs.StringVar(&o.sortBy, "sort-by", o.sortBy, "Sort by name, calls (unknown first, then most calls), node, state or age (oldest first). Default: namespace and name.")
	fs.BoolVarP(&o.watch, "watch", "w", o.watch, "Update the list until Ctrl-C. If the output is not a terminal, print the list again after each change.")
}

func (o *listOptions) validate() error {
	if err := checkOutput(o.output, outputJSON, outputYAML, outputName, outputWide); err != nil {
		return err
	}
	if !slices.Contains([]string{"", byName, byCalls, byNode, byState, byAge}, o.sortBy) {
		return fmt.Errorf("--sort-by is %q; use name, calls, node, state or age", o.sortBy)
	}
	if o.watch && o.output != "" && o.output != outputWide {
		return fmt.Errorf("--watch shows a table, and --output is %q; leave one out", o.output)
	}
	return checkSelector(o.selector)
}

// Pod is a guarded pod in the output of -o json and yaml.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	Node      string    `json:"node,omitempty"`
	// Enabled reports whether callguard protects calls in its namespace; null if that could
	// not be read.
	Enabled *bool      `json:"enabled"`
	State   call.State `json:"state"`
	// Calls is null if it is not known, and Unknown is why.
	Calls   *int       `json:"calls"`
	AsOf    *time.Time `json:"asOf,omitempty"`
	Unknown string     `json:"unknown,omitempty"`
	// Intent and Since are why it leaves, and since when.
	Intent    call.Intent    `json:"intent,omitempty"`
	Since     *time.Time     `json:"since,omitempty"`
	Created   time.Time      `json:"created"`
	Owner     string         `json:"owner,omitempty"`
	Witnesses []call.Witness `json:"witnesses"`
}

// PodList is the output of -o json and yaml.
type PodList struct {
	Kind  string `json:"kind"`
	Items []Pod  `json:"items"`
}

func (o *listOptions) run(cmd *cobra.Command, _ []string) error {
	if err := o.validate(); err != nil {
		return err
	}
	namespace, given, err := o.namespace()
	if err != nil {
		return err
	}
	if o.allNamespaces || o.node != "" && !given {
		namespace = ""
	}
	c, err := o.connect()
	if err != nil {
		return err
	}
	if o.watch {
		return o.watching(cmd.Context(), c, namespace)
	}
	return o.list(cmd, c, namespace)
}

// look is the result of one look.
type look struct {
	pods    PodList
	found   map[string]counts // by namespace
	enabled error             // why enabled namespaces are not known
	// requests is how many requests it took.
	requests int
}

// look reads the pods and their calls.
func (o *listOptions) look(ctx context.Context, c *cluster, namespace string) (look, error) {
	onNode := ""
	if o.node != "" {
		onNode = fields.OneTermEqualSelector("spec.nodeName", o.node).String()
	}
	found, err := c.guarded(ctx, namespace, o.selector, onNode)
	if err != nil {
		return look{}, err
	}
	list := PodList{Kind: "GuardedPodList", Items: []Pod{}}
	byNamespace := map[string]counts{}
	var names []string
	for _, pod := range found {
		if !slices.Contains(names, pod.Namespace) {
			names = append(names, pod.Namespace)
			byNamespace[pod.Namespace] = c.calls(ctx, pod.Namespace)
		}
	}
	enabled, requests, enabledErr := c.optInsOf(ctx, names)
	for _, pod := range found {
		p := describe(pod, byNamespace[pod.Namespace].of(pod.Name))
		if is, read := enabled[pod.Namespace]; read {
			p.Enabled = &is.on
		}
		list.Items = append(list.Items, p)
	}
	slices.SortFunc(list.Items, o.compare)
	return look{pods: list, found: byNamespace, enabled: enabledErr, requests: len(found)/pageSize + 1 + len(names) + requests}, nil
}

// compare sorts pods by --sort-by.
func (o *listOptions) compare(a, b Pod) int {
	first := 0
	switch o.sortBy {
	case byCalls: // most first; unknown may be more than any
		first = cmp.Compare(ptr.Deref(b.Calls, math.MaxInt), ptr.Deref(a.Calls, math.MaxInt))
	case byNode:
		first = cmp.Compare(a.Node, b.Node)
	case byState:
		first = cmp.Compare(a.State, b.State)
	case byAge:
		first = a.Created.Compare(b.Created)
	case byName:
		first = cmp.Compare(a.Name, b.Name)
	}
	return cmp.Or(first, cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (o *listOptions) list(cmd *cobra.Command, c *cluster, namespace string) error {
	seen, err := o.look(cmd.Context(), c, namespace)
	if err != nil {
		return err
	}
	list := seen.pods
	if seen.enabled != nil {
		_, _ = fmt.Fprintln(o.ErrOut, line(seen.enabled))
	}
	o.complain(o.ErrOut, list, seen.found)
	switch o.output {
	case outputJSON:
		return printJSON(o.Out, list)
	case outputName:
		for _, p := range list.Items {
			_, _ = fmt.Fprintf(unfolded(o.Out), "pod/%s\n", p.Name)
		}
		return nil
	case outputYAML:
		text, err := yaml.Marshal(list)
		if err != nil {
			return fmt.Errorf("cannot write the list: %w", err)
		}
		_, err = unfolded(o.Out).Write(text)
		return err
	}
	if len(list.Items) == 0 {
		_, _ = fmt.Fprintln(o.ErrOut, none(namespace))
		return nil
	}
	return table(o.Out, widthOf(o.Out), list.Items, namespace == "", o.output == outputWide, c.now())
}

func none(namespace string) string {
	if namespace == "" {
		return "No guarded pods found in any namespace."
	}
	return fmt.Sprintf("No guarded pods found in namespace %s.", namespace)
}

// watching shows the list until ctx is done: in place on a terminal, and elsewhere again
// whenever something other than ages has changed.
func (o *listOptions) watching(ctx context.Context, c *cluster, namespace string) error {
	last := ""
	for {
		began, text := time.Now(), &bytes.Buffer{}
		seen, err := o.look(ctx, c, namespace)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // whoever ends it has seen enough
		}
		if err != nil {
			_, _ = fmt.Fprintln(text, "not known: "+line(err))
		} else {
			o.complain(text, seen.pods, seen.found)
			if len(seen.pods.Items) == 0 {
				_, _ = fmt.Fprintln(text, none(namespace))
			} else if err := table(text, widthOf(o.Out), seen.pods.Items, namespace == "", o.output == outputWide, c.now()); err != nil {
				return err
			}
		}
		screen, _ := o.Out.(*plain)
		lines := 0
		if screen != nil {
			lines = screen.clear()
		}
		is := seen.pods.unaged()
		if err != nil {
			is = err.Error()
		}
		if lines > 0 || is != last {
			last = is
			_, _ = fmt.Fprintf(o.Out, "%s\n%s", clock(c.now()), cut(folded(text.String(), widthOf(o.Out)), lines-2)) // and a line for the cursor
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(o.pace, time.Duration(seen.requests)*o.pace*3/5) - time.Since(began)):
		}
	}
}

// unaged returns a text that is the same as long as only ages change.
func (l PodList) unaged() string {
	items := slices.Clone(l.Items)
	for i := range items {
		items[i].AsOf = nil
	}
	text, _ := json.Marshal(items) // of the output of -o json
	return string(text)
}

// cut leaves out the lines for which a screen has no room, and adds how many. Without a
// screen it changes nothing.
func cut(text string, lines int) string {
	all := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	if lines < 2 || len(all) <= lines {
		return text
	}
	return strings.Join(all[:lines-1], "") + fmt.Sprintf("and %d lines more\n", len(all)-lines+1)
}

// describe gathers what is shown about a pod.
func describe(pod *corev1.Pod, calls call.Reading) Pod {
	known, _ := pods.FromPod(pod) // for an invalid setting the default applies, and there is an Event
	p := Pod{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Node: pod.Spec.NodeName,
		State: known.State, Created: pod.CreationTimestamp.Time, Witnesses: known.Witnesses,
	}
	if known.Owner.Name != "" {
		p.Owner = known.Owner.Kind + "/" + known.Owner.Name
	}
	if n, is := calls.Calls(); is {
		at := calls.At()
		p.Calls, p.AsOf = &n, &at
	} else {
		p.Unknown = calls.Reason()
	}
	for _, annotation := range []string{call.AsideAnnotation, call.DrainingAnnotation} {
		if mark, err := call.ParseMark(pod.Annotations[annotation]); err == nil {
			p.Intent, p.Since = mark.Intent, &mark.At
		}
	}
	if released := call.Intent(pod.Labels[call.ReleasedLabel]); released != "" {
		p.Intent = released
	}
	return p
}

// complain prints a line that calls are not known.
func (o *listOptions) complain(out io.Writer, list PodList, found map[string]counts) {
	unknown, example := 0, ""
	for _, p := range list.Items {
		if p.Calls == nil {
			unknown++
			example = cmp.Or(example, p.Name+" -n "+p.Namespace)
		}
	}
	for _, n := range found {
		if n.err != nil {
			_, _ = fmt.Fprintf(out, "The calls of %d of %d pods are not known: %s\n", unknown, len(list.Items), line(n.err))
			return
		}
	}
	if unknown > 0 {
		_, _ = fmt.Fprintf(out, "The calls of %d of %d pods are unknown; kubectl calls why %s shows the reason\n", unknown, len(list.Items), example)
	}
}

// table prints pods as kubectl does; width is that of the terminal.
func table(out io.Writer, width int, list []Pod, namespaces, wide bool, now time.Time) error {
	w := newGrid(out, width)
	row := func(namespace string, cells []string, more ...string) {
		if namespaces {
			cells = append([]string{namespace}, cells...)
		}
		if wide {
			cells = append(cells, more...)
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	row("NAMESPACE", []string{"POD", "NODE", "STATE", "CALLS", "LEAVES FOR", "SINCE", "AGE"}, "OWNER", "WITNESSES")
	for _, p := range list {
		state, calls, since := string(p.State), "?", nothing
		if p.Enabled != nil && !*p.Enabled {
			state = "not enabled"
		}
		if p.Calls != nil {
			calls = fmt.Sprint(*p.Calls)
		}
		if p.Since != nil {
			since = age(now, *p.Since)
		}
		var witnesses []string
		for _, name := range p.Witnesses {
			witnesses = append(witnesses, string(name))
		}
		row(p.Namespace, []string{p.Name, cmp.Or(p.Node, nothing), state, calls, cmp.Or(string(p.Intent), nothing), since, age(now, p.Created)},
			cmp.Or(p.Owner, nothing), strings.Join(witnesses, ","))
	}
	if len(list) > 1 {
		cells := []string{"TOTAL", fmt.Sprintf("%d pods", len(list)), "", total(list)}
		if namespaces {
			cells = append(cells[:2:2], append([]string{""}, cells[2:]...)...)
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// total returns the sum of the known calls, marked if some are unknown.
func total(list []Pod) string {
	sum, unknown := 0, 0
	for _, p := range list {
		if p.Calls == nil {
			unknown++
		}
		sum += ptr.Deref(p.Calls, 0)
	}
	switch {
	case unknown == len(list):
		return "?"
	case unknown > 0:
		return fmt.Sprintf("%d+?", sum)
	}
	return fmt.Sprint(sum)
}

// age returns how long ago something was, as kubectl writes it.
func age(now, then time.Time) string { return duration.HumanDuration(max(0, now.Sub(then))) }
