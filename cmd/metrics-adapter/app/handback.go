// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/claim"
)

const (
	// surelyGone is how long callguard must have been gone before its APIServices are given back,
	// because applying all of its objects takes seconds.
	surelyGone = 10 * time.Second
	// leashName is the policy that limits what the adapter writes.
	leashName = "callguard-adapter-leash"
)

// handBack gives the APIServices back to the adapter that had them.
type handBack struct {
	kubeconfig string
	service    string
	theirs     string
	uninstall  bool
	sure       time.Duration
	timeout    time.Duration
}

func newHandBack() *handBack {
	return &handBack{service: NewOptions().service, sure: surelyGone, timeout: 2 * time.Minute}
}

// Flags returns the flags, bound to the settings.
func (h *handBack) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("metrics-adapter hand-back", pflag.ContinueOnError)
	fs.StringVar(&h.kubeconfig, "kubeconfig", h.kubeconfig, "Path to a kubeconfig; defaults to the in-cluster configuration.")
	fs.StringVar(&h.service, "service", h.service, "namespace/name of callguard's Service, which the APIServices name now.")
	fs.StringVar(&h.theirs, "compose-service", h.theirs, "namespace/name[:port] of the Service that gets them back: that of the other adapter.")
	fs.BoolVar(&h.uninstall, "after-uninstall", h.uninstall, "Only where callguard was uninstalled: do nothing while Deployment "+call.AdapterName+" or policy "+leashName+" is there.")
	return fs
}

// Validate reports all mistakes.
func (h *handBack) Validate() error {
	var m program.Mistakes
	if _, _, err := service(h.service); err != nil {
		m.Wrong("service", h.service, "namespace/name such as callguard-system/metrics-adapter")
	}
	if _, _, err := service(h.theirs); err != nil {
		m.Wrong("compose-service", h.theirs, "namespace/name such as monitoring/prometheus-adapter")
	}
	return m.Err()
}

// runHandBack runs the command "hand-back".
func runHandBack(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	h := newHandBack()
	if ok, err := program.Parse(args, h, "settings are flags, see hand-back --help", stderr); !ok {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", h.kubeconfig)
	if err != nil {
		return fmt.Errorf("no way to the Kubernetes API: %w; run in a pod or set --kubeconfig", err)
	}
	config.Timeout = checkRequest
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}
	services, err := apiregistration.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}
	return h.run(ctx, client, services, stdout)
}

func (h *handBack) run(ctx context.Context, client kubernetes.Interface, services apiregistration.APIServicesGetter, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	ours, _, err := service(h.service)
	if err != nil {
		return err
	}
	theirs, _, err := service(h.theirs)
	if err != nil {
		return err
	}
	if h.uninstall {
		standing, err := h.waitGone(ctx, client, ours.Namespace)
		if err != nil {
			return err
		}
		if standing != "" {
			_, _ = fmt.Fprintf(out, "callguard is installed, for %s is there: nothing is given back\n", standing)
			return nil
		}
	}
	var last error
	for { // the API server's controllers write the status of APIServices, too
		if last = claim.GiveBack(ctx, services.APIServices(), ours, theirs, out); !apierrors.IsConflict(last) {
			return last
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(checkEvery):
		}
	}
}

// waitGone returns the name of an object of an install that exists. It waits for objects
// that are being deleted, and returns an empty name once there has been none for long
// enough.
func (h *handBack) waitGone(ctx context.Context, client kubernetes.Interface, namespace string) (standing string, err error) {
	var gone time.Time // since when
	for {
		standing, going, err := installed(ctx, client, namespace)
		switch {
		case err != nil || standing != "":
			return standing, err
		case going:
			gone = time.Time{}
		case gone.IsZero():
			gone = time.Now()
		case time.Since(gone) >= h.sure:
			return "", nil
		}
		select {
		case <-ctx.Done():
			return "what is being deleted", nil
		case <-time.After(checkEvery):
		}
	}
}

// installed returns the name of one object of an install that exists, and reports whether
// one is being deleted.
func installed(ctx context.Context, client kubernetes.Interface, namespace string) (standing string, going bool, err error) {
	look := func(what string, is metav1.Object, err error) error {
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return fmt.Errorf("cannot tell whether %s is there: %w", what, err)
		case is.GetDeletionTimestamp() != nil:
			going = true
		default:
			standing = what
		}
		return nil
	}
	d, err := client.AppsV1().Deployments(namespace).Get(ctx, call.AdapterName, metav1.GetOptions{})
	if err := look(fmt.Sprintf("Deployment %s/%s", namespace, call.AdapterName), d, err); err != nil {
		return "", false, err
	}
	p, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, leashName, metav1.GetOptions{})
	err = look("ValidatingAdmissionPolicy "+leashName, p, err)
	return standing, going, err
}
