// SPDX-License-Identifier: Apache-2.0

// Package reference writes pages of docs/reference from the programs, and checks that they
// are what the programs say. It runs no program.
package reference

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	gate "github.com/callguard/callguard/cmd/call-gate/app"
	guard "github.com/callguard/callguard/cmd/drain-guard/app"
	adapter "github.com/callguard/callguard/cmd/metrics-adapter/app"
	probe "github.com/callguard/callguard/cmd/realtime-probe/app"
	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the tables of docs/reference/flags.md") //nolint:gochecknoglobals // a flag of the test

// TestFlagsReference: docs/reference/flags.md has every flag of the programs, but those that
// metrics-adapter has of every Kubernetes API server.
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
		cell := strings.NewReplacer("\n", " ", "|", `\|`, "<", "&lt;")
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Deprecated != "" || server.FlagSet.Lookup(f.Name) != nil {
				return
			}
			value := f.DefValue
			if value != "" {
				value = "`" + value + "`"
			}
			fmt.Fprintf(&table, "| `--%s` | %s | %s |\n", f.Name, value, cell.Replace(f.Usage))
		})
		trial.Documented(t, "../../docs/reference/flags.md", program, table.String(), *update)
	}
}
