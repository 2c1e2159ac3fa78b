// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// The values of --output.
const (
	outputWide = "wide"
	outputJSON = "json"
	outputYAML = "yaml"
)

// nothing stands where there is nothing to say.
const nothing = "-"

// listOptions are what the flags of list say.
type listOptions struct {
	*common

	allNamespaces bool
	selector      string
	node          string
	output        string
}

func newList(c *common) *cobra.Command {
	o := &listOptions{common: c}
	cmd := &cobra.Command{
		Use: "list", Short: "List guarded pods and their calls", Args: noWords, RunE: o.run,
		Long: "Lists guarded pods: where each is, how far on its way out, and how many calls it holds.\n" +
			"The calls come from the metrics API; one that is not known is shown as ?.",
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *listOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.allNamespaces, "all-namespaces", "A", o.allNamespaces, "List the pods of all namespaces.")
	fs.StringVarP(&o.selector, "selector", "l", o.selector, "Label selector, such as app=agent.")
	fs.StringVar(&o.node, "node", o.node, "List the pods of this node; of all namespaces unless -n is given.")
	fs.StringVarP(&o.output, "output", "o", o.output, "json, yaml or wide.")
}

func (o *listOptions) validate() error {
	if !slices.Contains([]string{"", outputWide, outputJSON, outputYAML}, o.output) {
		return fmt.Errorf("--output is %q; use json, yaml or wide", o.output)
	}
	return checkSelector(o.selector)
}

// Pod is a guarded pod as -o json and yaml show it.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	Node      string    `json:"node,omitempty"`
	// Enabled reports whether callguard holds calls in its namespace; null when that
	// could not be read.
	Enabled *bool      `json:"enabled"`
	State   call.State `json:"state"`
	// Calls is null when it is not known, and Unknown says why.
	Calls   *int       `json:"calls"`
	AsOf    *time.Time `json:"asOf,omitempty"`
	Unknown string     `json:"unknown,omitempty"`
	// Intent and Since say why it leaves, and since when.
	Intent    call.Intent    `json:"intent,omitempty"`
	Since     *time.Time     `json:"since,omitempty"`
	Created   time.Time      `json:"created"`
	Owner     string         `json:"owner,omitempty"`
	Witnesses []call.Witness `json:"witnesses"`
}

// PodList is what -o json and yaml show.
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
	return o.list(cmd, c, namespace)
}

func (o *listOptions) list(cmd *cobra.Command, c *cluster, namespace string) error {
	ctx := cmd.Context()
	onNode := ""
	if o.node != "" {
		onNode = fields.OneTermEqualSelector("spec.nodeName", o.node).String()
	}
	found, err := c.guarded(ctx, namespace, o.selector, onNode)
	if err != nil {
		return err
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
	enabled, err := c.optIns(ctx, names)
	if err != nil {
		_, _ = fmt.Fprintln(o.ErrOut, line(err))
	}
	for _, pod := range found {
		p := describe(pod, byNamespace[pod.Namespace].of(pod.Name))
		if is, read := enabled[pod.Namespace]; read {
			p.Enabled = &is.on
		}
		list.Items = append(list.Items, p)
	}
	slices.SortFunc(list.Items, func(a, b Pod) int { return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) })
	o.complain(list, byNamespace)
	switch o.output {
	case outputJSON:
		out := json.NewEncoder(o.Out)
		out.SetIndent("", "    ")
		return out.Encode(list)
	case outputYAML:
		text, err := yaml.Marshal(list)
		if err != nil {
			return fmt.Errorf("cannot write the list: %w", err)
		}
		_, err = o.Out.Write(text)
		return err
	}
	if len(list.Items) == 0 {
		where := "in any namespace"
		if namespace != "" {
			where = "in namespace " + namespace
		}
		_, _ = fmt.Fprintf(o.ErrOut, "No guarded pods found %s.\n", where)
		return nil
	}
	return table(o.Out, list.Items, namespace == "", o.output == outputWide, c.now())
}

// describe gathers what is shown of a pod.
func describe(pod *corev1.Pod, calls call.Reading) Pod {
	known, _ := pods.FromPod(pod) // a setting that is not understood has its default, and an Event
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

// complain says, in a line, that calls are not known.
func (o *listOptions) complain(list PodList, found map[string]counts) {
	unknown, example := 0, ""
	for _, p := range list.Items {
		if p.Calls == nil {
			unknown++
			example = cmp.Or(example, p.Name+" -n "+p.Namespace)
		}
	}
	for _, n := range found {
		if n.err != nil {
			_, _ = fmt.Fprintf(o.ErrOut, "The calls of %d of %d pods are not known: %s\n", unknown, len(list.Items), line(n.err))
			return
		}
	}
	if unknown > 0 {
		_, _ = fmt.Fprintf(o.ErrOut, "The calls of %d of %d pods are not known; kubectl calls why %s says more\n", unknown, len(list.Items), example)
	}
}

// table prints pods as kubectl does.
func table(out io.Writer, list []Pod, namespaces, wide bool, now time.Time) error {
	w := printers.GetNewTabWriter(out)
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
	return w.Flush()
}

// age is how long ago something was, as kubectl writes it.
func age(now, then time.Time) string { return duration.HumanDuration(max(0, now.Sub(then))) }
