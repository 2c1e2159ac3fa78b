// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
)

// Versions are the versions of the plugin and of what is installed, as in version -o json.
type Versions struct {
	Plugin string `json:"plugin"`
	// Revision is the revision from which the plugin was built, if that is known.
	Revision string `json:"revision,omitempty"`
	// Policies is the version of the installed admission policies.
	Policies string `json:"policies"`
	// Guard and Adapter are the images of their Deployments.
	Guard   string `json:"drainGuard"`
	Adapter string `json:"metricsAdapter"`

	policiesRead bool
}

func newVersion(c *common) *cobra.Command {
	output := ""
	cmd := &cobra.Command{
		Use: "version", Short: "Show the versions of the plugin and of what is installed", Args: noWords,
		Long: "Shows the version of this plugin, of the admission policies, of drain-guard and of metrics-adapter.\n" +
			"Versions may differ: kubectl calls doctor compares what the policies enforce, not their wording.",
		Example: "  kubectl calls version\n  kubectl calls version -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, outputJSON); err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return printVersions(c.Out, cl.versions(cmd.Context()), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "json.")
	return cmd
}

// versions reads the versions of both sides. A version that cannot be read is replaced by
// the reason.
func (c *cluster) versions(ctx context.Context) Versions {
	v := Versions{Plugin: manifests.Version(), Guard: c.imageOf(ctx, call.GuardName), Adapter: c.imageOf(ctx, call.AdapterName)}
	if info, known := debug.ReadBuildInfo(); known {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	p, err := c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, admission.DeletePolicy, metav1.GetOptions{})
	if err != nil {
		v.Policies = unread(err)
	} else {
		v.Policies, v.policiesRead = admission.Version(p), true
	}
	return v
}

// imageOf returns the image of one of callguard's Deployments.
func (c *cluster) imageOf(ctx context.Context, name string) string {
	d, err := c.client.AppsV1().Deployments(c.callguard).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return unread(err)
	}
	containers := d.Spec.Template.Spec.Containers
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		return "not known: its Deployment has no container of that name"
	}
	return cmp.Or(containers[i].Image, "not known: its container has no image")
}

func unread(err error) string {
	if apierrors.IsNotFound(err) {
		return "not installed"
	}
	return "not known: " + line(err)
}

func printVersions(out io.Writer, v Versions, output string) error {
	if output == outputJSON {
		return printJSON(out, v)
	}
	w := newGrid(out, widthOf(out))
	plugin := v.Plugin
	if v.Revision != "" {
		plugin += fmt.Sprintf(" (%.12s)", v.Revision)
	}
	for _, row := range [][2]string{{"plugin", plugin}, {"policies", v.Policies}, {call.GuardName, v.Guard}, {call.AdapterName, v.Adapter}} {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	return w.Flush()
}

// checkVersions compares the versions of both sides. A difference is no failure by itself.
func (c *cluster) checkVersions(ctx context.Context) finding {
	const check = "versions"
	v := c.versions(ctx)
	what := fmt.Sprintf("plugin %s, policies %s, drain-guard %s, metrics-adapter %s", v.Plugin, v.Policies, v.Guard, v.Adapter)
	if v.policiesRead && v.Policies != v.Plugin {
		return finding{warn, check, what, "use the plugin of the version that is installed, or upgrade the chart"}
	}
	return finding{ok, check, what, ""}
}
