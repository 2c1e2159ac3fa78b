// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/hack/cluster/local"
)

const usage = `Start, show and stop a Kubernetes cluster with LiveKit on this machine.

  go run ./hack/cluster up      start it; one that runs already stays, a broken one is replaced
  go run ./hack/cluster status  show every component
  go run ./hack/cluster down    stop it; its logs stay
`

// options are the flags of all subcommands.
type options struct {
	config local.Config
}

func newOptions(out io.Writer) *options {
	return &options{config: local.Config{
		Name: local.DefaultName, Nodes: local.DefaultNodes, PodsPerNode: local.DefaultPodsPerNode,
		LiveKits: local.DefaultLiveKits, NodeLeaseSeconds: local.DefaultNodeLease, Progress: out,
	}}
}

func (o *options) addFlags(flags *pflag.FlagSet, subcommand string) {
	flags.StringVar(&o.config.Name, "name", o.config.Name, "instance; several run side by side")
	if subcommand != "up" {
		return
	}
	flags.IntVar(&o.config.Nodes, "nodes", o.config.Nodes, "nodes")
	flags.IntVar(&o.config.PodsPerNode, "pods-per-node", o.config.PodsPerNode, "pods that fit on a node")
	flags.IntVar(&o.config.LiveKits, "livekits", o.config.LiveKits, "LiveKit servers, each a project of its own")
	flags.BoolVar(&o.config.Kubelets, "kubelets", false, "make the nodes real: they run pods, and need root and containerd")
	flags.BoolVar(&o.config.IPv6Services, "ipv6-services", false, "give the Services of real nodes IPv6 addresses, and no others")
	flags.StringVar(&o.config.ClusterDomain, "cluster-domain", local.DefaultClusterDomain, "DNS domain of Services on real nodes")
	flags.StringArrayVar(&o.config.WebhookURLs, "webhook-url", nil, "where LiveKit posts its webhooks; may be repeated")
	flags.StringArrayVar(&o.config.ControllerManagerArgs, "controller-manager-arg", nil, "flag added to kube-controller-manager's; may be repeated")
}

// command runs one subcommand.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	subcommands := map[string]func(context.Context, *options, io.Writer) error{"up": up, "down": down, "status": status}
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	if name == "help" || name == "--help" || name == "-h" {
		_, err := io.WriteString(stdout, usage)
		return err
	}
	do, known := subcommands[name]
	if !known {
		return fmt.Errorf("no subcommand %q; use up, status or down", name)
	}
	o := newOptions(stderr)
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SetOutput(stderr)
	o.addFlags(flags, name)
	if err := flags.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w; \"go run ./hack/cluster %s --help\" lists the flags", err, name)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s takes flags only, not %q; name an instance with --name %s", name, flags.Args(), flags.Arg(0))
	}
	return do(ctx, o, stdout)
}

func up(ctx context.Context, o *options, out io.Writer) error {
	if err := o.config.Validate(); err != nil {
		return err
	}
	c, err := local.Up(ctx, o.config)
	if err != nil {
		return err
	}
	kubeconfig, err := c.AdminKubeconfig()
	if err != nil {
		return err
	}
	kubectl, err := c.Kubectl()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(key, value string) { _, _ = fmt.Fprintf(table, "%s\t%s\n", key, value) }
	line("kubeconfig", kubeconfig)
	line("kubectl", kubectl)
	for i := range o.config.LiveKits {
		lk, err := c.LiveKit(local.LiveKitName(i + 1))
		if err != nil {
			return err
		}
		line(lk.Name, lk.URL+"  (key and secret: "+c.EnvFile(lk.Name)+")")
	}
	line("try", fmt.Sprintf("%s --kubeconfig %s get nodes", kubectl, kubeconfig))
	return table.Flush()
}

func down(ctx context.Context, o *options, out io.Writer) error {
	c, err := local.Open(o.config.Name)
	if errors.Is(err, local.ErrNoInstance) {
		_, err = fmt.Fprintf(out, "%s: nothing to stop\n", o.config.Name)
	}
	if c == nil || err != nil {
		return err
	}
	if err := c.Down(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: stopped; its logs are in %s\n", c.Name(), c.KeptLogs())
	return err
}

func status(ctx context.Context, o *options, out io.Writer) error {
	c, err := local.Open(o.config.Name)
	if err != nil {
		return err
	}
	components, err := c.Status(ctx)
	if err != nil {
		return err
	}
	sick := 0
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "COMPONENT\tPID\tSTATE\tWHY")
	for _, s := range components {
		word := "healthy"
		switch {
		case !s.Alive:
			word, sick = "dead", sick+1
		case !s.Healthy:
			word, sick = "sick", sick+1
		}
		_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", s.Name, s.PID, word, s.Why)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if sick > 0 {
		return fmt.Errorf("%d of %d components of instance %s do not work; \"go run ./hack/cluster up --name %s\" with the flags it was started with replaces it",
			sick, len(components), c.Name(), c.Name())
	}
	return nil
}
