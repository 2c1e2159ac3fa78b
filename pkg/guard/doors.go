// SPDX-License-Identifier: Apache-2.0

package guard

import (
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
	"k8s.io/apimachinery/pkg/api/equality"
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
		client: cfg.Client, want: want, events: cfg.Recorder, about: cfg.About, log: cfg.Log,
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
	}, func() float64 {
		if d.InForce() != nil {
			return 0
		}
		return 1
	}))
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
	list, err := d.client.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return fmt.Errorf("cannot ask which admission policies the cluster has: %w", err)
	}
	if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "mutatingadmissionpolicies" }) {
		d.log.Warn("This cluster has no MutatingAdmissionPolicy (on from Kubernetes 1.36): an eviction may shorten the grace of a released pod")
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
		d.events.Eventf(d.about, corev1.EventTypeWarning, ReasonDoors,
			"Nothing is released, for callguard's admission policies are not in force: %s; apply the chart again", err)
	}
}

// look compares all doors, and tries one.
func (d *Doors) look(ctx context.Context) error {
	for _, synced := range d.synced {
		if !synced() {
			return errDoorsUnread
		}
	}
	var errs []error
	for _, want := range d.want.Policies {
		is, err := d.policies.Get(want.Name)
		errs = append(errs, compare("ValidatingAdmissionPolicy", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
	}
	for _, want := range d.want.Bindings {
		is, err := d.bindings.Get(want.Name)
		errs = append(errs, compare("ValidatingAdmissionPolicyBinding", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
	}
	if d.mutatingPolicies != nil {
		for _, want := range d.want.MutatingPolicies {
			is, err := d.mutatingPolicies.Get(want.Name)
			errs = append(errs, compare("MutatingAdmissionPolicy", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
		}
		for _, want := range d.want.MutatingBindings {
			is, err := d.mutatingBindings.Get(want.Name)
			errs = append(errs, compare("MutatingAdmissionPolicyBinding", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return d.try(ctx)
}

func compare(kind, name string, err error, same func() bool) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s %s is missing", kind, name)
	case err != nil:
		return fmt.Errorf("cannot read %s %s: %w", kind, name, err)
	case !same():
		return fmt.Errorf("%s %s is not as this version of callguard has it", kind, name)
	}
	return nil
}

// try asks the API server to delete a locked pod, as a dry run: it has to refuse.
// Without such a pod there is nothing to hold.
func (d *Doors) try(ctx context.Context) error {
	if d.pods == nil {
		return nil
	}
	pod := d.lockedPod()
	if pod == nil {
		return nil
	}
	err := d.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		DryRun: []string{metav1.DryRunAll}, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), deleteDoor):
		return nil
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil // it went meanwhile; the next look tries another
	case err == nil:
		return fmt.Errorf("the API server would delete pod %s/%s, which is locked", pod.Namespace, pod.Name)
	default:
		return fmt.Errorf("cannot try the delete door: %w", err)
	}
}

func (d *Doors) lockedPod() *corev1.Pod {
	lister, enabled := d.pods()
	list, err := lister.List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, pod := range list {
		if pod.DeletionTimestamp != nil || pod.Labels[call.ReleasedLabel] != "" || !enabled(pod.Namespace) {
			continue
		}
		for _, c := range pod.Status.ContainerStatuses {
			if c.State.Running != nil {
				return pod
			}
		}
	}
	return nil
}
