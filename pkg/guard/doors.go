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
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
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

// What it means that there is no grace door, and what to do where the cluster could have
// it: the chart renders none for one that cannot, so one that was upgraded has none yet.
const (
	WithoutGrace = "an eviction may shorten the grace of a released pod"
	GraceCure    = "helm upgrade the chart; helm template needs --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
)

// standing is where the doors of a cluster are read, by name. The last two are nil
// where it has no mutating policies.
type standing struct {
	policy          func(string) (*admissionregistrationv1.ValidatingAdmissionPolicy, error)
	binding         func(string) (*admissionregistrationv1.ValidatingAdmissionPolicyBinding, error)
	mutatingPolicy  func(string) (*admissionregistrationv1.MutatingAdmissionPolicy, error)
	mutatingBinding func(string) (*admissionregistrationv1.MutatingAdmissionPolicyBinding, error)
}

// graceless says that the grace door is not there at all, although the cluster could
// have it. It weakens released pods only, so it is in the way of nothing. A half of it
// is somebody's mistake, or means something else than it says.
func (s standing) graceless(want *manifests.Doors) bool {
	if s.mutatingPolicy == nil {
		return false
	}
	for _, want := range want.MutatingPolicies {
		if _, err := s.mutatingPolicy(want.Name); !apierrors.IsNotFound(err) {
			return false
		}
	}
	for _, want := range want.MutatingBindings {
		if _, err := s.mutatingBinding(want.Name); !apierrors.IsNotFound(err) {
			return false
		}
	}
	return true
}

// differs says which doors are missing or altered. The grace door may be missing.
func (s standing) differs(want *manifests.Doors) error {
	var errs []error
	for _, want := range want.Policies {
		is, err := s.policy(want.Name)
		errs = append(errs, compare("ValidatingAdmissionPolicy", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
	}
	for _, want := range want.Bindings {
		is, err := s.binding(want.Name)
		errs = append(errs, compare("ValidatingAdmissionPolicyBinding", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
	}
	if s.mutatingPolicy == nil || s.graceless(want) {
		return errors.Join(errs...)
	}
	for _, want := range want.MutatingPolicies {
		is, err := s.mutatingPolicy(want.Name)
		errs = append(errs, compare("MutatingAdmissionPolicy", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
	}
	for _, want := range want.MutatingBindings {
		is, err := s.mutatingBinding(want.Name)
		errs = append(errs, compare("MutatingAdmissionPolicyBinding", want.Name, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) }))
	}
	return errors.Join(errs...)
}

// DoorsStand reads the doors of a cluster once, and says which of them are missing
// or altered; nil when all stand as this version of callguard has them. The grace door
// may be missing, and graceless says so where the cluster could have it. Whether the
// API server acts on them, TryDoor tells.
func DoorsStand(ctx context.Context, client kubernetes.Interface, values manifests.Values) (graceless bool, err error) {
	want, err := manifests.Parse(values)
	if err != nil {
		return false, err
	}
	serves, err := ServesMutating(client)
	if err != nil {
		return false, err
	}
	admission := client.AdmissionregistrationV1()
	is := standing{
		policy: func(name string) (*admissionregistrationv1.ValidatingAdmissionPolicy, error) {
			return admission.ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		},
		binding: func(name string) (*admissionregistrationv1.ValidatingAdmissionPolicyBinding, error) {
			return admission.ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		},
	}
	if serves {
		is.mutatingPolicy = func(name string) (*admissionregistrationv1.MutatingAdmissionPolicy, error) {
			return admission.MutatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		}
		is.mutatingBinding = func(name string) (*admissionregistrationv1.MutatingAdmissionPolicyBinding, error) {
			return admission.MutatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		}
	}
	return is.graceless(want), is.differs(want)
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
	return TryDoor(ctx, d.client, pod)
}

// ErrNotTried is the error of TryDoor where the API server did not get as far as
// the doors.
var ErrNotTried = errors.New("cannot try the delete door")

// TryDoor asks the API server, in a dry run, to delete a locked pod. It returns nil
// if the server refuses.
func TryDoor(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		DryRun: []string{metav1.DryRunAll}, Preconditions: &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion},
	})
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), deleteDoor):
		return nil
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil // it went or changed meanwhile; the next look tries again
	case err == nil:
		return fmt.Errorf("the API server would delete pod %s/%s, which is locked", pod.Namespace, pod.Name)
	default:
		return fmt.Errorf("%w: %w", ErrNotTried, err)
	}
}

func (d *Doors) lockedPod() *corev1.Pod {
	lister, enabled := d.pods()
	list, err := lister.List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, pod := range list {
		if Locked(pod) && enabled(pod.Namespace) {
			return pod
		}
	}
	return nil
}

// Locked says whether a guarded pod of an enabled namespace has to be refused to
// whoever would delete it.
func Locked(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Labels[call.ReleasedLabel] == "" &&
		slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}
