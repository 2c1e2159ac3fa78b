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
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
)

// The exit codes.
const (
	ExitDone = 0
	// ExitFailed: bad input, an error, a refusal that changed nothing, or a check
	// that failed.
	ExitFailed = 1
	// ExitWaiting: a drain ended before its nodes were empty, which stay cordoned; or a
	// dry run says that it could not end.
	ExitWaiting = 2
	// ExitWarned: of doctor's checks none failed, and one warned or could not be made.
	ExitWarned = 2
)

// errWaiting ends a drain that was told to stop, errFailed and errWarned a doctor; what
// there is to say was said.
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

// plain writes what does nothing to a terminal: whatever is shown of a cluster, a tenant
// may have written. It folds lines that are wider than a terminal. JSON and YAML stay what
// they are.
type plain struct {
	to   io.Writer
	rest []byte // the beginning of a character
	// size measures the terminal; nil where the output is none.
	size func() (columns, lines int)
}

// clear empties the screen of a terminal, and returns how many lines it has; 0 where the
// output is none.
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

// common is what every verb has.
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
		Short: "Show the calls that pods hold, and drain nodes without losing one",
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
	return cmd
}

// noWords takes no argument, and says which commands there are.
func noWords(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return fmt.Errorf("unexpected argument %q; use %s without one", args[0], cmd.CommandPath())
	}
	return fmt.Errorf("there is no command %q; use list, why POD, why node/NODE, plan NODE, drain NODE, status, end POD, doctor, try or version", args[0])
}

// oneName takes exactly one name.
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

// flagError adds a value that would work.
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

// checkOutput takes nothing, or one of these.
func checkOutput(value string, of ...string) error {
	if value == "" || slices.Contains(of, value) {
		return nil
	}
	return fmt.Errorf("--output is %q; use %s", value, orOf(of))
}

// orOf is a list as people write it.
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

// maxLine bounds a line, in bytes: an error may tell of every door.
const maxLine = 4 * call.MaxText

// line is an error in one line.
func line(err error) string { return oneLine(err.Error()) }

func oneLine(text string) string { return call.Plain(text, maxLine) }

// clock is the time of day that people compare with their own.
func clock(t time.Time) string { return t.Local().Format(time.TimeOnly) }
