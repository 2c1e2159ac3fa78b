// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
)

// The exit codes.
const (
	ExitDone = 0
	// ExitFailed: bad input, an error, a command that refused to begin, or a check that
	// failed.
	ExitFailed = 1
	// ExitWaiting: a drain ended before its nodes were empty, and they stay cordoned; or a dry
	// run found that the drain could not end.
	ExitWaiting = 2
	// ExitWarned: none of doctor's checks failed, but one warned or could not be made.
	ExitWarned = 2
)

// errWaiting is the result of a drain that was stopped, errFailed and errWarned are results
// of doctor. Everything was printed already.
var (
	errWaiting = errors.New("the node is not empty")
	errFailed  = errors.New("a check failed")
	errWarned  = errors.New("a check warned")
)

// Main runs the plugin and returns its exit code.
func Main(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	streams.Out, streams.ErrOut = &plain{to: streams.Out, size: sizeOf(streams.Out)}, &plain{to: streams.ErrOut, size: sizeOf(streams.ErrOut)}
	cmd := newCommand(streams) //nolint:contextcheck // a command is given its context when it runs
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, errWaiting):
		return ExitWaiting
	case errors.Is(err, errWarned):
		return ExitWarned
	case !errors.Is(err, errFailed):
		_, _ = fmt.Fprintf(streams.ErrOut, "error: %v%s\n", err, inNeed(args, err))
	}
	return tryExit(err)
}

// plain makes output safe for a terminal, because a tenant may have written anything that
// is shown. It folds lines that are wider than the terminal. JSON and YAML are not changed.
type plain struct {
	to   io.Writer
	rest []byte // an incomplete character
	// size measures the terminal; nil if the output is not a terminal.
	size func() (columns, lines int)
}

// clear empties the screen of a terminal, and returns how many lines it has; 0 if the
// output is not a terminal.
func (p *plain) clear() (lines int) {
	if p.size == nil {
		return 0
	}
	_, _ = io.WriteString(p.to, "\x1b[H\x1b[2J")
	_, lines = p.size()
	return lines
}

// Write implements io.Writer.
func (p *plain) Write(text []byte) (int, error) {
	all := append(p.rest, text...)
	whole := len(all)
	for i := max(0, whole-utf8.UTFMax+1); i < len(all); i++ {
		if utf8.RuneStart(all[i]) && !utf8.FullRune(all[i:]) {
			whole = i
			break
		}
	}
	p.rest = append([]byte(nil), all[whole:]...)
	if _, err := io.WriteString(p.to, folded(call.Escape(string(all[:whole]), "\n\t"), widthOf(p))); err != nil {
		return 0, err
	}
	return len(text), nil
}

// common has what every command needs.
type common struct {
	genericiooptions.IOStreams

	flags *genericclioptions.ConfigFlags
	// callguard is the namespace of the guard.
	callguard string
}

func newCommand(streams genericiooptions.IOStreams) *cobra.Command {
	c := &common{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true), callguard: manifests.DefaultNamespace}
	list := &listOptions{common: c, pace: watchPace}
	cmd := &cobra.Command{
		Use: "kubectl-calls", Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl calls"},
		Short: "Show the calls of pods, and drain nodes without losing a call",
		Long: "Shows the calls of guarded pods and why a pod stays, and drains nodes without losing a call.\n" +
			"Without a command it lists the guarded pods.",
		Example: list.examples(), Args: noWords, RunE: list.run,
		SilenceErrors: true, SilenceUsage: true,
	}
	cmd.SetOut(streams.Out)
	cmd.SetErr(streams.ErrOut)
	cmd.SetFlagErrorFunc(flagError)
	cmd.CompletionOptions.HiddenDefaultCmd = true
	c.flags.AddFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().StringVar(&c.callguard, "callguard-namespace", c.callguard, "Namespace of drain-guard.")
	list.addFlags(cmd.Flags())
	why, drain, plan, status, end := newWhy(c), newDrain(c), newPlan(c), newStatus(c), newEnd(c)
	why.ValidArgsFunction, end.ValidArgsFunction = c.complete(false, allToName), c.complete(false, podsToName)
	for _, of := range []*cobra.Command{drain, plan, status} {
		of.ValidArgsFunction = c.complete(true, nodesToName)
	}
	cmd.AddCommand(newList(c), why, drain, plan, status, end, newDoctor(c), newTry(c), newVersion(c))
	for _, of := range append(cmd.Commands(), cmd) {
		utilruntime.Must(completeFlags(of)) // the flags are there
	}
	utilruntime.Must(cmd.RegisterFlagCompletionFunc("namespace", c.complete(true, namespacesToName)))
	return cmd
}

// noWords accepts no argument; its error lists the commands.
func noWords(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return fmt.Errorf("unexpected argument %q; use %s without one", args[0], cmd.CommandPath())
	}
	return fmt.Errorf("there is no command %q; use list, why POD, why node/NODE, plan NODE, drain NODE, status, end POD, doctor, try or version", args[0])
}

// oneName accepts exactly one name.
func oneName(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || args[0] == "":
			return fmt.Errorf("which %s? use %s NAME", what, cmd.CommandPath())
		case len(args) > 1:
			return fmt.Errorf("one %s at a time, and not also %q; use %s %s", what, args[1], cmd.CommandPath(), args[0])
		}
		return nil
	}
}

// flagError adds a value that would work to an error about a flag.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("%w; %s --help lists the flags", err, cmd.CommandPath())
	}
	use := cmd.CommandPath() + " --help"
	switch invalid.GetFlag().Value.Type() {
	case "duration":
		use = "a duration, such as 30m"
	case "bool":
		use = "true or false"
	}
	return fmt.Errorf("--%s is %q; use %s", invalid.GetFlag().Name, invalid.GetValue(), use)
}

// checkOutput accepts an empty value, or one of the given ones.
func checkOutput(value string, of ...string) error {
	if value == "" || slices.Contains(of, value) {
		return nil
	}
	return fmt.Errorf("--output is %q; use %s", value, orOf(of))
}

// orOf returns a list as text: "a, b or c".
func orOf(of []string) string {
	if len(of) < 2 {
		return strings.Join(of, "")
	}
	return strings.Join(of[:len(of)-1], ", ") + " or " + of[len(of)-1]
}

func printJSON(out io.Writer, value any) error {
	e := json.NewEncoder(unfolded(out))
	e.SetIndent("", "    ")
	return e.Encode(value)
}

func checkSelector(value string) error {
	if _, err := labels.Parse(value); err != nil {
		return fmt.Errorf("--selector is %q: %w; use one such as app=agent", value, err)
	}
	return nil
}

// maxLine is the maximum length of a line, in bytes: an error may name every admission
// policy.
const maxLine = 4 * call.MaxText

// line returns an error in one line.
func line(err error) string { return oneLine(err.Error()) }

func oneLine(text string) string { return call.Plain(text, maxLine) }

// clock returns the local time of day.
func clock(t time.Time) string { return t.Local().Format(time.TimeOnly) }
