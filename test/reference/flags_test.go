// SPDX-License-Identifier: Apache-2.0

// Package reference writes the generated tables of docs/reference and compares them with the
// programs and the chart. It also checks that every command in the documentation exists and
// names the test that runs it. It runs none of the programs itself.
package reference

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	gate "github.com/callguard/callguard/cmd/call-gate/app"
	guard "github.com/callguard/callguard/cmd/drain-guard/app"
	adapter "github.com/callguard/callguard/cmd/metrics-adapter/app"
	probe "github.com/callguard/callguard/cmd/realtime-probe/app"
	"github.com/callguard/callguard/pkg/cli"
	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the generated tables of docs/reference") //nolint:gochecknoglobals // a flag of the test

const flagsPage = "../../docs/reference/flags.md"

// cell returns text as one cell of a Markdown table.
func cell(text string) string {
	return strings.NewReplacer("\n", " ", "|", `\|`, "<", "&lt;").Replace(text)
}

// row returns the row of a flag, after the cells that come before it; empty for a flag that help does not show.
func row(f *pflag.Flag, before ...string) string {
	if f.Hidden || f.Deprecated != "" {
		return ""
	}
	name, value := "`--"+f.Name+"`", f.DefValue
	if f.Shorthand != "" {
		name = "`-" + f.Shorthand + "`, " + name
	}
	if value != "" {
		value = "`" + value + "`"
	}
	return "| " + strings.Join(append(before, name, value, cell(f.Usage)), " | ") + " |\n"
}

// TestFlagsReference: docs/reference/flags.md has every flag of the programs, except those that
// metrics-adapter shares with every Kubernetes API server.
func TestFlagsReference(t *testing.T) {
	server := basecmd.AdapterBase{FlagSet: pflag.NewFlagSet("", pflag.ContinueOnError)}
	server.InstallFlags()
	nothing := func(string) string { return "" } // no environment
	for program, flags := range map[string]*pflag.FlagSet{
		"metrics-adapter": adapter.NewOptions().Flags(),
		"drain-guard":     guard.NewOptions().Flags(),
		"call-gate":       gate.NewOptions(nothing).Flags(),
		"realtime-probe":  probe.NewOptions(nothing).Flags(),
	} {
		var table strings.Builder
		table.WriteString("| flag | default | meaning |\n|---|---|---|\n")
		flags.VisitAll(func(f *pflag.Flag) {
			if program != "metrics-adapter" || server.FlagSet.Lookup(f.Name) == nil {
				table.WriteString(row(f))
			}
		})
		trial.Documented(t, flagsPage, program, table.String(), *update)
	}
}

// TestPluginReference: docs/reference/flags.md has every command of kubectl calls and every flag of it, except those that
// all of kubectl's commands share.
func TestPluginReference(t *testing.T) {
	var table strings.Builder
	table.WriteString("| command | flag | default | meaning |\n|---|---|---|---|\n")
	root := cli.Command()
	all := "callguard-namespace"
	table.WriteString(row(root.PersistentFlags().Lookup(all), "all"))
	commands := root.Commands()
	slices.SortFunc(commands, func(a, b *cobra.Command) int { return strings.Compare(a.Name(), b.Name()) })
	for _, command := range commands {
		if command.Hidden || !command.IsAvailableCommand() {
			continue
		}
		fmt.Fprintf(&table, "| `%s` | | | %s |\n", cell(command.Use), cell(command.Short))
		command.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			table.WriteString(row(f, ""))
		})
	}
	trial.Documented(t, flagsPage, "kubectl-calls", table.String(), *update)
}

// TestCommandsReference: docs/reference/flags.md shows the help of the programs' own commands.
func TestCommandsReference(t *testing.T) {
	var check, unlock bytes.Buffer
	trial.Must(t, adapter.Main(t.Context(), []string{"check", "--help"}, io.Discard, &check))
	trial.Must(t, guard.Main(t.Context(), []string{"unlock", "--help"}, io.Discard, &unlock))
	for name, help := range map[string]string{"check": check.String(), "unlock": unlock.String()} {
		trial.Documented(t, flagsPage, name, "```text\n"+strings.TrimSpace(help)+"\n```\n", *update)
	}
}
