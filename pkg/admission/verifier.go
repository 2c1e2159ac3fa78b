// SPDX-License-Identifier: Apache-2.0

package guard

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
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
)

const (
	// doorsEvery is how often the doors are looked at although nothing is known to
	// have changed, and one of them is tried.
	doorsEvery = 15 * time.Second
	// doorsSoon is the same while they are not in force.
	doorsSoon = time.Second
)

// errDoorsUnread says that it is not known yet how the doors stand.
var errDoorsUnread = errors.New("they are still being read")

// Doors verifies that the admission policies which lock guarded pods are in the
// cluster as this version of callguard knows them, and that the API server acts on
// them. It changes nothing.
type Doors struct {
	client  kubernetes.Interface
	want    *manifests.Doors
	factory informers.SharedInformerFactory
	pods    func() (corelisters.PodLister, func(namespace string) bool)
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

// DoorsConfig is what Doors needs.
type DoorsConfig struct {
	Client   kubernetes.Interface
	Values   manifests.Values
	Recorder record.EventRecorder
	// About is the object that Events about the doors are on: the guard's Deployment.
	About    *corev1.ObjectReference
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// NewDoors returns Doors that are not in force until Run has seen them.
func NewDoors(cfg DoorsConfig) (*Doors, error) {
	want, err := manifests.Parse(cfg.Values)
	if err != nil {
		return nil, err
	}
	d := &Doors{
		client: cfg.Client, want: want, events: plainEvents{cfg.Recorder}, about: cfg.About, log: cfg.Log,
		factory: informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTransform(trim)),
		changed: make(chan struct{}, 1),
		err:     errors.New("they have not been looked at yet"),
	}
	admission := d.factory.Admissionregistration().V1()
	d.policies = admission.ValidatingAdmissionPolicies().Lister()
	d.bindings = admission.ValidatingAdmissionPolicyBindings().Lister()
	if err := d.watch(admission.ValidatingAdmissionPolicies().Informer(), admission.ValidatingAdmissionPolicyBindings().Informer()); err != nil {
		return nil, err
	}
	cfg.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "callguard", Name: "doors_in_force",
		Help: "1 while the admission policies that lock guarded pods are in force, else 0: nothing is released then.",
	}, func() float64 { return gauge(d.InForce() == nil) }))
	return d, nil
}

func (d *Doors) watch(sources ...cache.SharedIndexInformer) error {
	look := func(any) {
		select {
		case d.changed <- struct{}{}:
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
		d.synced = append(d.synced, registration.HasSynced)
	}
	return nil
}

// askForMutating finds out whether the cluster has mutating policies, and watches
// them where it does.
func (d *Doors) askForMutating(ctx context.Context) error {
	serves, err := ServesMutating(d.client)
	if err != nil {
		return err
	}
	if !serves {
		d.log.Warn("This cluster has no MutatingAdmissionPolicy (on from Kubernetes 1.36): " + WithoutGrace)
		return nil
	}
	admission := d.factory.Admissionregistration().V1()
	d.mutatingPolicies = admission.MutatingAdmissionPolicies().Lister()
	d.mutatingBindings = admission.MutatingAdmissionPolicyBindings().Lister()
	if err := d.watch(admission.MutatingAdmissionPolicies().Informer(), admission.MutatingAdmissionPolicyBindings().Informer()); err != nil {
		return err
	}
	d.factory.StartWithContext(ctx)
	return nil
}

// ServesMutating says whether a cluster has mutating admission policies.
func ServesMutating(client kubernetes.Interface) (bool, error) {
	list, err := client.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return false, fmt.Errorf("cannot ask which admission policies the cluster has: %w", err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "mutatingadmissionpolicies" }), nil
}

// TryOn has a door tried on the pods of a guard.
func (d *Doors) TryOn(g *Guard) {
	d.pods = func() (corelisters.PodLister, func(string) bool) { return g.cluster.pods, g.cluster.enabled }
}

// InForce says why the doors are not in force; nil when they are.
func (d *Doors) InForce() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Run looks at the doors until ctx is done.
func (d *Doors) Run(ctx context.Context) error {
	d.factory.StartWithContext(ctx)
	defer d.factory.Shutdown()
	asked := false
	for {
		var err error
		if !asked {
			err = d.askForMutating(ctx)
			asked = err == nil
		}
		if asked {
			err = d.look(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		d.set(err, asked && !errors.Is(err, errDoorsUnread))
		pause := doorsEvery
		if err != nil {
			pause = doorsSoon
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
		case <-time.After(pause):
		}
	}
}

// set enters why the doors are not in force, and tells of a change: in the log, and
// in one Event until they are again. What was never looked at is worth no Event; what
// was is, also when this guard has never seen it otherwise.
func (d *Doors) set(err error, looked bool) {
	d.mu.Lock()
	before := d.err
	d.err = err
	tell := err != nil && looked && !d.told
	d.told = err != nil && (d.told || tell)
	d.mu.Unlock()
	switch {
	case err == nil && before != nil:
		d.log.Info("The doors are in force")
	case err != nil && (before == nil || before.Error() != err.Error()):
		d.log.Warn("The doors are not in force; nothing is released", "err", err)
	}
	if tell {
		do := "apply the chart again"
		if errors.Is(err, ErrNotTried) {
			do = "it is tried again every " + doorsSoon.String()
		}
		d.events.Eventf(d.about, corev1.EventTypeWarning, ReasonDoors, "Nothing is released, for callguard's admission policies are not in force: %s; %s", err, do)
	}
}

// look compares all doors, and tries one.
func (d *Doors) look(ctx context.Context) error {
	for _, synced := range d.synced {
		if !synced() {
			return errDoorsUnread
		}
	}
	is := standing{policy: d.policies.Get, binding: d.bindings.Get}
	if d.mutatingPolicies != nil {
		is.mutatingPolicy, is.mutatingBinding = d.mutatingPolicies.Get, d.mutatingBindings.Get
	}
	graceless := is.graceless(d.want)
	if graceless && !d.graceless {
		d.log.Warn("The grace door is missing: "+WithoutGrace, "do", GraceCure)
	}
	d.graceless = graceless
	if err := is.differs(d.want); err != nil {
		return err
	}
	return d.try(ctx)
}

// triesOfALook bounds the namespaces whose pods one look tries the delete door on.
const triesOfALook = 10

// try asks the API server to delete a locked pod, as a dry run: it has to refuse.
// Without such a pod there is nothing to hold. Where others refuse first, a webhook, a
// policy, a lack of rights, in every namespace that is tried, the door cannot be heard,
// and that it stands has to do: one of them must not stop all.
func (d *Doors) try(ctx context.Context) error {
	if d.pods == nil {
		return nil
	}
	err := TryDoor(ctx, d.client, d.lockedPods())
	if _, answered := errors.AsType[*apierrors.StatusError](err); answered && errors.Is(err, ErrNotTried) {
		return nil
	}
	return err
}

// ErrNotTried is the error of TryDoor where the delete door was not heard: others
// refused before it did, or the API server did not answer.
var ErrNotTried = errors.New("cannot try the delete door")

// TryDoor asks the API server, in a dry run, to delete locked pods, one after the other,
// until the door refuses one. It returns nil if the door refuses, or if there is no such
// pod: the door stands in all namespaces or in none, and one odd pod does not open it.
func TryDoor(ctx context.Context, client kubernetes.Interface, pods []*corev1.Pod) error {
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
		case strings.Contains(err.Error(), "'"+deleteDoor):
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

// lockedPods are a few locked pods, of different namespaces.
func (d *Doors) lockedPods() (found []*corev1.Pod) {
	lister, enabled := d.pods()
	list, err := lister.List(labels.Everything())
	if err != nil {
		return nil // an informer's list does not fail
	}
	seen := map[string]bool{}
	for _, pod := range list {
		if len(found) == triesOfALook {
			break
		}
		if !seen[pod.Namespace] && Locked(pod) && enabled(pod.Namespace) {
			seen[pod.Namespace] = true
			found = append(found, pod)
		}
	}
	return found
}

// Locked says whether a guarded pod of an enabled namespace has to be refused to
// whoever would delete it.
func Locked(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !call.IsReleased(pod.Labels) &&
		slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}
