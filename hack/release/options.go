// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/version"
)

const usage = `Rehearse a release of this checkout: make everything, sign it, check it, publish nothing.

  go run ./hack/release

It leaves in _output/release:

  callguard-VERSION.tgz, voice-agent-VERSION.tgz   the charts; each installs the image of this release, by digest
  callguard-VERSION-image.tar                      the image for linux/amd64 and linux/arm64, an OCI archive
  callguard-VERSION-image.spdx.json                the modules it is made of, as SPDX 2.3
  kubectl-calls_vVERSION_OS_ARCH.tar.gz            the plugin, its own SPDX and calls.yaml, its krew manifest
  provenance.json                                  of what all this was made, and how: an SLSA provenance
  digests.txt                                      what the registry knows image and charts by
  checksums.txt                                    of all these, for sha256sum --check
  checksums.txt.sigstore.json, cosign.pub          its signature, and the key of this run

The same commit and the same Go make the same checksums.txt: the image, the charts and all else carry the commit's date,
or SOURCE_DATE_EPOCH. Image and charts are pushed to a registry on loopback, signed there by digest with a key made for
this run, the provenance with them, verified with cosign, and pulled again. Neither registry nor private key outlives the command.

`

// options are the flags.
type options struct {
	version string
	output  string
	// target is where a real release would be published: the charts name it.
	target string
	twice  bool
}

func newOptions() *options {
	return &options{output: "_output/release", target: "ghcr.io/callguard"}
}

func (o *options) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.version, "version", o.version, "version of the release; empty: that of charts/callguard")
	flags.StringVar(&o.output, "output", o.output, "folder to write; an earlier release there is replaced")
	flags.StringVar(&o.target, "registry", o.target, "where image and charts will be published: the charts name it")
	flags.BoolVar(&o.twice, "twice", o.twice, "make everything twice and fail where the two differ")
}

// Validate reports every mistake at once, each with a value that would work.
func (o *options) Validate() error {
	var errs []error
	if v, err := version.ParseSemantic(o.version); err != nil || v.String() != o.version {
		errs = append(errs, fmt.Errorf("--version is %q; use one such as 1.2.3 or 1.2.3-rc.1", o.version))
	} else if v.BuildMetadata() != "" {
		errs = append(errs, fmt.Errorf("--version is %q; leave out what follows the +, which a tag cannot hold", o.version))
	}
	if _, err := name.NewRepository(o.target+"/callguard", name.StrictValidation); err != nil || !strings.Contains(o.target, "/") {
		errs = append(errs, fmt.Errorf("--registry is %q; use a registry and a path there, such as ghcr.io/callguard", o.target))
	}
	if o.output == "" {
		errs = append(errs, errors.New("--output is empty; use a folder such as _output/release"))
	}
	return errors.Join(errs...)
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := newOptions()
	flags := pflag.NewFlagSet("release", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		_, _ = fmt.Fprint(stdout, usage, flags.FlagUsages())
	}
	o.addFlags(flags)
	if err := flags.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w; \"go run ./hack/release --help\" lists the flags", err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are flags only, no %q; \"go run ./hack/release --help\" lists them", flags.Arg(0))
	}
	if o.version == "" {
		meta, err := readChart("charts/callguard")
		if err != nil {
			return err
		}
		o.version = meta.Version
	}
	if err := o.Validate(); err != nil {
		return err
	}
	return rehearse(ctx, *o, stdout)
}
