// SPDX-License-Identifier: Apache-2.0

// Package claim takes over the APIServices of custom metrics from another adapter, and
// gives them back.
//
// The state before is recorded in the APIService itself. Each is taken only once: if somebody
// puts it back, such as the other adapter's chart, that is reported and accepted. The package
// passes no request on. It takes no APIService before callguard serves and the other adapter
// has answered, so a wrong setting breaks no metric.
package claim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/callguard/callguard/pkg/apiservice"
)

const (
	// Every is how often the APIServices are looked at.
	Every = 5 * time.Second
	// requestLimit is the time limit of one request.
	requestLimit = 10 * time.Second
	group        = "custom.metrics.k8s.io"
)

// The reasons of Events.
const (
	// ReasonTaken is for an APIService that callguard has taken.
	ReasonTaken = "MetricsAPITaken"
	// ReasonPutBack is for one that was taken and names the other adapter again.
	ReasonPutBack = "MetricsAPIPutBack"
	// ReasonForeign is for one that names neither.
	ReasonForeign = "MetricsAPIForeign"
)

// Config is what a Claim needs.
type Config struct {
	APIServices apiregistration.APIServiceInterface
	// Ours and Theirs are the Services of callguard, with its port, and of the other adapter.
	Ours   apiregistrationv1.ServiceReference
	Theirs types.NamespacedName
	// CA returns the authority that signed callguard's serving certificate. With KeepCA it is
	// kept up to date in the APIServices; otherwise it is written only when they are taken,
	// and somebody else keeps it.
	CA     func() ([]byte, error)
	KeepCA bool
	// Ready returns nil once callguard serves, Answers once the other adapter lists its
	// metrics in a version.
	Ready   func() error
	Answers func(version string) error
	// Taken is called when an APIService was seen to be callguard's.
	Taken    func()
	Recorder record.EventRecorder
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Claim takes and keeps the APIServices.
type Claim struct {
	cfg  Config
	had  map[string]bool   // seen to be callguard's, by name
	told map[string]string // what was last reported, by name
	ours *prometheus.GaugeVec
}

// New returns a Claim that does nothing until it runs.
func New(cfg Config) *Claim {
	c := &Claim{
		cfg: cfg, had: map[string]bool{}, told: map[string]string{},
		ours: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "metrics_api_taken",
			Help: "1 while an APIService of custom metrics names callguard's Service beside another adapter, 0 while it does not: then autoscalers read no calls through it. There is none without such an adapter.",
		}, []string{"apiservice"}),
	}
	for _, name := range apiservice.Names() {
		c.ours.WithLabelValues(name)
	}
	cfg.Registry.MustRegister(c.ours)
	return c
}

// Run checks the APIServices until ctx is done, and takes those that may be taken.
func (c *Claim) Run(ctx context.Context) error {
	for {
		for i, name := range apiservice.Names() {
			c.step(ctx, name, versions()[i])
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(Every):
		}
	}
}

// versions returns the versions of the APIServices, in the same order.
func versions() []string { return []string{"v1beta1", "v1beta2"} }

func (c *Claim) ourName() string   { return c.cfg.Ours.Namespace + "/" + c.cfg.Ours.Name }
func (c *Claim) theirName() string { return c.cfg.Theirs.String() }

// step handles one APIService, and reports what has changed.
func (c *Claim) step(ctx context.Context, name, version string) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	found, err := c.read(ctx, name)
	if err != nil {
		c.say(name, "", "", err.Error())
		return
	}
	stands := apiservice.Stands(found, c.ourName(), c.theirName(), c.had[name])
	switch stands {
	case apiservice.Missing, apiservice.Theirs:
		if err = c.take(ctx, found, name, version); err == nil {
			stands = apiservice.Ours
			c.say(name, corev1.EventTypeNormal, ReasonTaken, fmt.Sprintf("callguard now serves APIService %s, and forwards requests for other metrics to %s", name, c.theirName()))
		}
	case apiservice.Ours:
		err = c.keep(ctx, found)
	case apiservice.PutBack:
		c.say(name, corev1.EventTypeWarning, ReasonPutBack, fmt.Sprintf(
			"APIService %s was put back to %s, so autoscalers read no calls through it; take it out of what applies it, then: kubectl annotate apiservice %s %s- && kubectl rollout restart deployment %s -n %s",
			name, c.theirName(), name, apiservice.BeforeAnnotation, c.cfg.Ours.Name, c.cfg.Ours.Namespace))
	case apiservice.Foreign:
		c.say(name, corev1.EventTypeWarning, ReasonForeign, fmt.Sprintf(
			"APIService %s belongs to Service %q, which is neither callguard's nor %s, so it is not taken; name the Service of the adapter that is there in metricsAdapter.compose.service",
			name, apiservice.Owner(found), c.theirName()))
	}
	c.show(name, stands)
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // somebody else has just written it; the next look decides
	case err != nil:
		c.say(name, "", "", err.Error())
	case stands == apiservice.Ours && c.told[name] != "" && found != nil:
		c.told[name] = ""
	}
}

// show sets the metric for the state of an APIService.
func (c *Claim) show(name string, stands apiservice.Standing) {
	value := 0.0
	if stands == apiservice.Ours {
		value = 1
		if !c.had[name] {
			c.had[name] = true
			c.cfg.Taken()
		}
	}
	c.ours.WithLabelValues(name).Set(value)
}

// read returns an APIService; nil if it does not exist.
func (c *Claim) read(ctx context.Context, name string) (*apiregistrationv1.APIService, error) {
	found, err := c.cfg.APIServices.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read APIService %s: %w", name, err)
	}
	return found, nil
}

// take points an APIService to callguard, or creates it if it does not exist.
func (c *Claim) take(ctx context.Context, found *apiregistrationv1.APIService, name, version string) error {
	if err := c.cfg.Ready(); err != nil {
		return fmt.Errorf("APIService %s is not taken over yet: %w", name, err)
	}
	if err := c.cfg.Answers(version); err != nil && !c.had[name] { // if it was callguard's and was deleted, for example with the other adapter, creating it again breaks nothing
		return fmt.Errorf("APIService %s is not taken: %w; see the values below metricsAdapter.compose", name, err)
	}
	ca, err := c.cfg.CA()
	if err != nil {
		return fmt.Errorf("APIService %s is not taken: %w", name, err)
	}
	if found == nil {
		made, err := apiservice.Make(name, version, group, c.cfg.Ours, ca)
		if err == nil {
			_, err = c.cfg.APIServices.Create(ctx, made, metav1.CreateOptions{})
		}
		return wrap("make", name, err)
	}
	taken := found.DeepCopy()
	if err := apiservice.Take(taken, c.cfg.Ours, ca); err != nil {
		return err
	}
	_, err = c.cfg.APIServices.Update(ctx, taken, metav1.UpdateOptions{})
	return wrap("take", name, err)
}

// keep updates the authority in one of callguard's APIServices, if KeepCA is set.
func (c *Claim) keep(ctx context.Context, found *apiregistrationv1.APIService) error {
	if !c.cfg.KeepCA {
		return nil
	}
	ca, err := c.cfg.CA()
	if err != nil || bytes.Equal(found.Spec.CABundle, ca) {
		return err
	}
	kept := found.DeepCopy()
	kept.Spec.CABundle = ca
	_, err = c.cfg.APIServices.Update(ctx, kept, metav1.UpdateOptions{})
	return wrap("write the caBundle of", kept.Name, err)
}

func wrap(what, name string, err error) error {
	if err != nil {
		return fmt.Errorf("cannot %s APIService %s: %w", what, name, err)
	}
	return nil
}

// say reports something once, until there is something else to report: in the log and, with
// a reason, as an Event on callguard's Service.
func (c *Claim) say(name, kind, reason, text string) {
	if c.told[name] == text {
		return
	}
	c.told[name] = text
	if reason == "" {
		c.cfg.Log.Warn("Cannot take over an APIService of custom metrics; retrying", "apiService", name, "err", text)
		return
	}
	c.cfg.Log.Info(text, "apiService", name, "reason", reason)
	c.cfg.Recorder.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: c.cfg.Ours.Namespace, Name: c.cfg.Ours.Name}, kind, reason, text)
}

// GiveBack restores every APIService that was taken, and writes to out what it did.
func GiveBack(ctx context.Context, services apiregistration.APIServiceInterface, ours, theirs types.NamespacedName, out io.Writer) error {
	for _, name := range apiservice.Names() {
		did, err := giveBack(ctx, services, name, ours, theirs)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "APIService %s %s\n", name, did)
	}
	return nil
}

// giveBack restores one, and returns what it did.
func giveBack(ctx context.Context, services apiregistration.APIServiceInterface, name string, ours, theirs types.NamespacedName) (string, error) {
	found, err := services.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "is not there", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read APIService %s: %w", name, err)
	}
	before, err := apiservice.WasBefore(found)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w; restore its spec.service, and remove the annotation", err)
	case before == nil:
		return "was not taken", nil
	case before.Absent && apiservice.Owner(found) == ours.String():
		err := services.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &found.UID, ResourceVersion: &found.ResourceVersion}})
		return "is deleted, for there was none before", wrap("delete", name, err)
	case !before.Absent && before.Service != theirs.String():
		return "", fmt.Errorf("annotation %s of APIService %s names Service %q, and not %s, from which callguard takes it; restore its spec.service, and remove the annotation",
			apiservice.BeforeAnnotation, name, before.Service, theirs)
	}
	apiservice.GiveBack(found, before, ours.String())
	if _, err := services.Update(ctx, found, metav1.UpdateOptions{}); err != nil {
		return "", fmt.Errorf("cannot give back APIService %s: %w", name, err)
	}
	return "is given back to " + apiservice.Owner(found), nil
}
