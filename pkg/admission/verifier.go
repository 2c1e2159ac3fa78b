// SPDX-License-Identifier: Apache-2.0

// Package admission verifies that the admission policies which lock guarded pods are in
// the cluster as this version of callguard knows them, and that the API server acts on
// them. It knows no workloads, and changes nothing.
package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/events"
	"github.com/callguard/callguard/pkg/pods"
)

const (
	// doorsEvery is how often the policies are compared even without a change, and one of them
	// is tried.
	doorsEvery = 15 * time.Second
	// doorsSoon is the same while they are not in effect.
	doorsSoon = time.Second
)

const (
	// DeletePolicy is the policy that refuses deletions of locked pods.
	DeletePolicy = "callguard-delete"
	// BirthPolicy is the policy that refuses guarded pods in a namespace without the budget.
	BirthPolicy = "callguard-birth"
	// ReasonNotInForce is the reason of the Event that policies are not in effect.
	ReasonNotInForce = "PoliciesNotInForce"
)

// errDoorsUnread is the state before the policies have been read.
var errDoorsUnread = errors.New("they are still being read")

// Verifier checks the policies continuously.
type Verifier struct {
	client  kubernetes.Interface
	want    *manifests.Doors
	factory informers.SharedInformerFactory
	locked  func() []*corev1.Pod
	events  record.EventRecorder
	about   *corev1.ObjectReference
	log     *slog.Logger
	changed chan struct{}
	synced  []cache.InformerSynced

	policies         admissionlisters.ValidatingAdmissionPolicyLister
	bindings         admissionlisters.ValidatingAdmissionPolicyBindingLister
	mutatingPolicies admissionlisters.MutatingAdmissionPolicyLister // nil if the cluster has none
	mutatingBindings admissionlisters.MutatingAdmissionPolicyBindingLister
	graceless        bool // policy callguard-grace was missing at the last look

	mu   sync.Mutex
	err  error
	told bool // there was an Event since the policies were last in effect
}

// Config is what a Verifier needs.
type Config struct {
	Client   kubernetes.Interface
	Values   manifests.Values
	Recorder record.EventRecorder
	// About is the object for Events about the policies: the guard's Deployment.
	About    *corev1.ObjectReference
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// New returns a Verifier for which the policies are not in effect until Run has seen them.
func New(cfg Config) (*Verifier, error) {
	want, err := manifests.Parse(cfg.Values)
	if err != nil {
		return nil, err
	}
	v := &Verifier{
		client: cfg.Client, want: want, events: events.Plain(cfg.Recorder), about: cfg.About, log: cfg.Log,
		factory: informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTransform(trim)),
		changed: make(chan struct{}, 1),
		err:     errors.New("they have not been looked at yet"),
	}
	admission := v.factory.Admissionregistration().V1()
	v.policies = admission.ValidatingAdmissionPolicies().Lister()
	v.bindings = admission.ValidatingAdmissionPolicyBindings().Lister()
	if err := v.watch(admission.ValidatingAdmissionPolicies().Informer(), admission.ValidatingAdmissionPolicyBindings().Informer()); err != nil {
		return nil, err
	}
	cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "callguard", Name: "policies_in_force",
		Help: "1 while the admission policies that lock guarded pods are in effect, else 0: no pod is released then.",
	}, func() float64 {
		if v.InForce() != nil {
			return 0
		}
		return 1
	}))
	return v, nil
}

func (v *Verifier) watch(sources ...cache.SharedIndexInformer) error {
	look := func(any) {
		select {
		case v.changed <- struct{}{}:
		default: // a look is already requested
		}
	}
	for _, informer := range sources {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: look, UpdateFunc: func(_, is any) { look(is) }, DeleteFunc: look,
		})
		if err != nil {
			return fmt.Errorf("cannot watch admission policies: %w", err)
		}
		v.synced = append(v.synced, registration.HasSynced)
	}
	return nil
}

// askForMutating finds out whether the cluster has mutating policies, and watches them if
// it does.
func (v *Verifier) askForMutating(ctx context.Context) error {
	serves, err := servesMutating(v.client)
	if err != nil {
		return err
	}
	if !serves {
		v.log.Warn("This cluster has no MutatingAdmissionPolicy (on from Kubernetes 1.36): " + WithoutGrace)
		return nil
	}
	admission := v.factory.Admissionregistration().V1()
	v.mutatingPolicies = admission.MutatingAdmissionPolicies().Lister()
	v.mutatingBindings = admission.MutatingAdmissionPolicyBindings().Lister()
	if err := v.watch(admission.MutatingAdmissionPolicies().Informer(), admission.MutatingAdmissionPolicyBindings().Informer()); err != nil {
		return err
	}
	v.factory.StartWithContext(ctx)
	return nil
}

// trim drops what is not compared.
func trim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// servesMutating reports whether a cluster has mutating admission policies.
func servesMutating(client kubernetes.Interface) (bool, error) {
	list, err := client.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return false, fmt.Errorf("cannot ask which admission policies the cluster has: %w", err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "mutatingadmissionpolicies" }), nil
}

// TryOn sets the function that returns locked pods, on which the delete policy is tried at
// each look.
func (v *Verifier) TryOn(locked func() []*corev1.Pod) { v.locked = locked }

// InForce returns why the policies are not in effect; nil if they are.
func (v *Verifier) InForce() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Run checks the policies until ctx is done.
func (v *Verifier) Run(ctx context.Context) error {
	v.factory.StartWithContext(ctx)
	defer v.factory.Shutdown()
	asked := false
	for {
		var err error
		if !asked {
			err = v.askForMutating(ctx)
			asked = err == nil
		}
		if asked {
			err = v.look(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		v.set(err, asked && !errors.Is(err, errDoorsUnread))
		pause := doorsEvery
		if err != nil {
			pause = doorsSoon
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.changed:
		case <-time.After(pause):
		}
	}
}

// set records why the policies are not in effect. It logs each change, and writes one Event
// until they are in effect again. There is no Event before the first look, but one after
// it, even if this guard has never seen the policies in effect.
func (v *Verifier) set(err error, looked bool) {
	v.mu.Lock()
	before := v.err
	v.err = err
	tell := err != nil && looked && !v.told
	v.told = err != nil && (v.told || tell)
	v.mu.Unlock()
	switch {
	case err == nil && before != nil:
		v.log.Info("The admission policies are in effect")
	case err != nil && (before == nil || before.Error() != err.Error()):
		v.log.Warn("The admission policies are not in effect; no pod is released", "err", err)
	}
	if tell {
		do := "apply the chart again"
		if errors.Is(err, ErrNotTried) {
			do = "it is tried again every " + doorsSoon.String()
		}
		v.events.Eventf(v.about, corev1.EventTypeWarning, ReasonNotInForce, "No pod is released, because callguard's admission policies are not in effect: %s; %s", err, do)
	}
}

// look compares all policies, and tries one.
func (v *Verifier) look(ctx context.Context) error {
	for _, synced := range v.synced {
		if !synced() {
			return errDoorsUnread
		}
	}
	is := standing{policy: v.policies.Get, binding: v.bindings.Get}
	if v.mutatingPolicies != nil {
		is.mutatingPolicy, is.mutatingBinding = v.mutatingPolicies.Get, v.mutatingBindings.Get
	}
	graceless := is.graceless(v.want)
	if graceless && !v.graceless {
		v.log.Warn("Policy callguard-grace is missing: "+WithoutGrace, "do", GraceCure)
	}
	v.graceless = graceless
	if err := is.differs(v.want); err != nil {
		return err
	}
	return v.try(ctx)
}

// try asks the API server, in a dry run, to delete a locked pod, which it has to refuse.
// Without such a pod there is nothing to protect. If something else refuses first in every
// namespace that is tried (a webhook, another policy, missing rights), the policy cannot be
// tried, and it is enough that it exists, so that such a webhook cannot stop all releases.
func (v *Verifier) try(ctx context.Context) error {
	if v.locked == nil {
		return nil
	}
	err := TryDelete(ctx, v.client, v.locked())
	if _, answered := errors.AsType[*apierrors.StatusError](err); answered && errors.Is(err, ErrNotTried) {
		return nil
	}
	return err
}

// ErrNotTried is the error of TryDelete if the delete policy could not be tried: something
// else refused first, or the API server did not answer.
var ErrNotTried = errors.New("cannot try policy callguard-delete")

// TryDelete asks the API server, in a dry run, to delete locked pods, one after the other,
// until the delete policy refuses one. It returns nil if the policy refuses, or if there
// are no pods. One refusal is enough, because the policy applies to all namespaces or to
// none.
func TryDelete(ctx context.Context, client kubernetes.Interface, pods []*corev1.Pod) error {
	var open, other error
	for _, pod := range pods {
		err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			DryRun: []string{metav1.DryRunAll}, Preconditions: &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion},
		})
		_, answered := errors.AsType[*apierrors.StatusError](err)
		switch {
		case err == nil && open == nil:
			open = fmt.Errorf("the API server would delete pod %s/%s, which is locked", pod.Namespace, pod.Name)
		case err == nil:
		case strings.Contains(err.Error(), "'"+DeletePolicy):
			return nil
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // the pod is gone or has changed; the next look tries again
		default:
			other = fmt.Errorf("%w: %w", ErrNotTried, err)
			if !answered {
				return cmp.Or(open, other)
			}
		}
	}
	return cmp.Or(open, other)
}

// Locked reports whether the deletion of a guarded pod of an enabled namespace has to be
// refused.
func Locked(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !call.IsReleased(pod.Labels) && pods.Runs(pod.Status.ContainerStatuses)
}
