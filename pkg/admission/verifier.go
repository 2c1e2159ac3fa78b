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
	// doorsEvery is how often the doors are looked at although nothing is known to
	// have changed, and one of them is tried.
	doorsEvery = 15 * time.Second
	// doorsSoon is the same while they are not in force.
	doorsSoon = time.Second
)

const (
	// DeletePolicy is the policy that refuses deletions of locked pods.
	DeletePolicy = "callguard-delete"
	// BirthPolicy is the one that lets no guarded pod be born without its budget.
	BirthPolicy = "callguard-birth"
	// ReasonNotInForce is that of the Event which says that policies are not in force.
	ReasonNotInForce = "PoliciesNotInForce"
)

// errDoorsUnread says that it is not known yet how the doors stand.
var errDoorsUnread = errors.New("they are still being read")

// Verifier looks at the policies all the time.
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
	mutatingPolicies admissionlisters.MutatingAdmissionPolicyLister // nil where the cluster has none
	mutatingBindings admissionlisters.MutatingAdmissionPolicyBindingLister
	graceless        bool // the grace door was missing at the last look

	mu   sync.Mutex
	err  error
	told bool // in an Event, since they were last in force
}

// Config is what a Verifier needs.
type Config struct {
	Client   kubernetes.Interface
	Values   manifests.Values
	Recorder record.EventRecorder
	// About is the object that Events about the doors are on: the guard's Deployment.
	About    *corev1.ObjectReference
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// New returns a Verifier to which the policies are not in force until Run has seen them.
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
		default: // it will look anyway
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

// askForMutating finds out whether the cluster has mutating policies, and watches
// them where it does.
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

// TryOn has the delete policy tried on pods that are locked, which are asked for at each look.
func (v *Verifier) TryOn(locked func() []*corev1.Pod) { v.locked = locked }

// InForce says why the doors are not in force; nil when they are.
func (v *Verifier) InForce() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Run looks at the doors until ctx is done.
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

// set enters why the doors are not in force, and tells of a change: in the log, and
// in one Event until they are again. What was never looked at is worth no Event; what
// was is, also when this guard has never seen it otherwise.
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

// look compares all doors, and tries one.
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

// try asks the API server to delete a locked pod, as a dry run: it has to refuse.
// Without such a pod there is nothing to hold. Where others refuse first, a webhook, a
// policy, a lack of rights, in every namespace that is tried, the door cannot be heard,
// and that it stands has to do: one of them must not stop all.
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

// ErrNotTried is the error of TryDelete where the delete door was not heard: others
// refused before it did, or the API server did not answer.
var ErrNotTried = errors.New("cannot try policy callguard-delete")

// TryDelete asks the API server, in a dry run, to delete locked pods, one after the other,
// until the door refuses one. It returns nil if the door refuses, or if there is no such
// pod: the door stands in all namespaces or in none, and one odd pod does not open it.
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
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // it went or changed meanwhile; the next look tries again
		default:
			other = fmt.Errorf("%w: %w", ErrNotTried, err)
			if !answered {
				return cmp.Or(open, other)
			}
		}
	}
	return cmp.Or(open, other)
}

// Locked reports whether a guarded pod of an enabled namespace has to be refused to
// whoever would delete it.
func Locked(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !call.IsReleased(pod.Labels) && pods.Runs(pod.Status.ContainerStatuses)
}
