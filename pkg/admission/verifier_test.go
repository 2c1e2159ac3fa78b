// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// standingDoors returns all policies as they should be.
func standingDoors(t *testing.T) []runtime.Object {
	t.Helper()
	d, err := manifests.Parse(manifests.DefaultValues())
	if err != nil {
		t.Fatal(err)
	}
	var objects []runtime.Object
	for _, o := range d.Policies {
		objects = append(objects, o)
	}
	for _, o := range d.Bindings {
		objects = append(objects, o)
	}
	for _, o := range d.MutatingPolicies {
		objects = append(objects, o)
	}
	for _, o := range d.MutatingBindings {
		objects = append(objects, o)
	}
	return objects
}

// podsNamed are locked pods.
func podsNamed(names ...string) (pods []*corev1.Pod) {
	for _, name := range names {
		pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "voice", Name: name, UID: types.UID("uid-of-" + name), ResourceVersion: "7"}})
	}
	return pods
}

// refusal returns the answer of the delete policy.
func refusal(pod string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, pod,
		errors.New("ValidatingAdmissionPolicy 'callguard-delete' with binding 'callguard-delete' denied request: pod "+pod+" may hold calls"))
}

// doorsOn runs a Verifier on the objects until the test is over. The API server lists these
// resources, or nothing, and answers deletions of pods with answer.
func doorsOn(t *testing.T, resources []string, answer func(pod string) error, locked []*corev1.Pod, objects ...runtime.Object) (*Verifier, *fake.Clientset, *trial.Events, *prometheus.Registry) {
	t.Helper()
	return doorsLogging(t, slog.DiscardHandler, resources, answer, locked, objects...)
}

// doorsLogging is the same with a log.
func doorsLogging(t *testing.T, log slog.Handler, resources []string, answer func(pod string) error, locked []*corev1.Pod, objects ...runtime.Object) (*Verifier, *fake.Clientset, *trial.Events, *prometheus.Registry) {
	t.Helper()
	client := fake.NewClientset(objects...)
	if resources != nil {
		served := &metav1.APIResourceList{GroupVersion: "admissionregistration.k8s.io/v1"}
		for _, name := range resources {
			served.APIResources = append(served.APIResources, metav1.APIResource{Name: name})
		}
		client.Resources = []*metav1.APIResourceList{served}
	}
	client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, answer(action.(clienttesting.DeleteAction).GetName())
	})
	events, registry := &trial.Events{}, prometheus.NewRegistry()
	d, err := New(Config{
		Client: client, Values: manifests.DefaultValues(), Recorder: events, Registry: registry, Log: slog.New(log),
		About: &corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "callguard-system", Name: "drain-guard"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.InForce() == nil {
		t.Error("policies count as in effect before they were checked")
	}
	d.TryOn(func() []*corev1.Pod { return locked })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d, client, events, registry
}

func allPolicies() []string {
	return []string{"validatingadmissionpolicies", "mutatingadmissionpolicies"}
}

// seenAs waits until the policies were checked, and returns why they are not in effect.
func seenAs(t *testing.T, d *Verifier) string {
	t.Helper()
	said := ""
	trial.Eventually(t, "the doors were looked at", func() bool {
		err := d.InForce()
		said = ""
		if err != nil {
			said = err.Error()
		}
		return said != "they have not been looked at yet" && said != errDoorsUnread.Error()
	})
	return said
}

// lacking leaves out the policies of a name and a type.
func lacking[T runtime.Object](name string) func([]runtime.Object) []runtime.Object {
	return func(doors []runtime.Object) []runtime.Object {
		return slices.DeleteFunc(doors, func(o runtime.Object) bool {
			_, same := o.(T)
			return same && o.(metav1.Object).GetName() == name
		})
	}
}

// altered changes the policy of a name and a type.
func altered[T runtime.Object](name string, alter func(T)) func([]runtime.Object) []runtime.Object {
	return func(doors []runtime.Object) []runtime.Object {
		for _, o := range doors {
			if door, same := o.(T); same && o.(metav1.Object).GetName() == name {
				alter(door)
			}
		}
		return doors
	}
}

func TestDoors(t *testing.T) {
	type (
		policy          = *admissionregistrationv1.ValidatingAdmissionPolicy
		binding         = *admissionregistrationv1.ValidatingAdmissionPolicyBinding
		mutatingPolicy  = *admissionregistrationv1.MutatingAdmissionPolicy
		mutatingBinding = *admissionregistrationv1.MutatingAdmissionPolicyBinding
	)
	validatingOnly := []string{"validatingadmissionpolicies"}
	cases := map[string]struct {
		reason    string
		resources []string
		doors     func([]runtime.Object) []runtime.Object
		want      string // why they are not in effect
	}{
		"Stand":            {reason: "All are there, to the letter."},
		"PolicyMissing":    {reason: "Nothing refuses a deletion.", doors: lacking[policy]("callguard-delete"), want: "ValidatingAdmissionPolicy callguard-delete is missing"},
		"BindingMissing":   {reason: "A policy that is not bound judges nothing.", doors: lacking[binding]("callguard-delete"), want: "ValidatingAdmissionPolicyBinding callguard-delete is missing"},
		"KeepGraceMissing": {reason: "LiveKit's drain could be cut short.", doors: lacking[policy]("callguard-keep-grace"), want: "ValidatingAdmissionPolicy callguard-keep-grace is missing"},
		"KeepGraceUnbound": {reason: "So it could here.", doors: lacking[binding]("callguard-keep-grace"), want: "ValidatingAdmissionPolicyBinding callguard-keep-grace is missing"},
		"KeepGraceOfOthers": {
			reason: "It holds other pods than those with the label.",
			doors:  altered("callguard-keep-grace", func(p policy) { p.Spec.MatchConstraints.ObjectSelector.MatchLabels = map[string]string{"a": "b"} }),
			want:   "ValidatingAdmissionPolicy callguard-keep-grace is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"MutatingMissing": {reason: "An eviction could shorten a grace.", doors: lacking[mutatingPolicy]("callguard-grace"), want: "MutatingAdmissionPolicy callguard-grace is missing"},
		"MutatingUnbound": {reason: "So it could here.", doors: lacking[mutatingBinding]("callguard-grace"), want: "MutatingAdmissionPolicyBinding callguard-grace is missing"},
		"NoGraceDoor": {
			reason: "The cluster could have it only after the install; it is about pods that were let go.",
			doors: func(doors []runtime.Object) []runtime.Object {
				return lacking[mutatingPolicy]("callguard-grace")(lacking[mutatingBinding]("callguard-grace")(doors))
			},
		},
		"NoGraceNorDelete": {
			reason: "It excuses no other.",
			doors: func(doors []runtime.Object) []runtime.Object {
				return lacking[binding]("callguard-delete")(lacking[mutatingPolicy]("callguard-grace")(lacking[mutatingBinding]("callguard-grace")(doors)))
			},
			want: "ValidatingAdmissionPolicyBinding callguard-delete is missing",
		},
		"NoMutating": {
			reason: "Policies that a cluster does not support are not required.", resources: validatingOnly,
			doors: func(doors []runtime.Object) []runtime.Object {
				return lacking[mutatingPolicy]("callguard-grace")(lacking[mutatingBinding]("callguard-grace")(doors))
			},
		},
		"PolicyAltered": {
			reason: "An expression more lets somebody through.",
			doors: altered("callguard-delete", func(p policy) {
				p.Spec.Validations[0].Expression = "true || " + p.Spec.Validations[0].Expression
			}),
			want: "ValidatingAdmissionPolicy callguard-delete is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"PolicyIgnoresFailure": {
			reason: "A failing expression would let everybody through.",
			doors: altered("callguard-delete", func(p policy) {
				ignore := admissionregistrationv1.Ignore
				p.Spec.FailurePolicy = &ignore
			}),
			want: "ValidatingAdmissionPolicy callguard-delete is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"BindingAltered": {
			reason: "A policy that only warns protects nothing.",
			doors: altered("callguard-delete", func(b binding) {
				b.Spec.ValidationActions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Warn}
			}),
			want: "ValidatingAdmissionPolicyBinding callguard-delete is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"MutatingAltered": {
			reason: "So is one that matches nothing.",
			doors: altered("callguard-grace", func(p mutatingPolicy) {
				p.Spec.MatchConditions = append(p.Spec.MatchConditions, admissionregistrationv1.MatchCondition{Name: "never", Expression: "false"})
			}),
			want: "MutatingAdmissionPolicy callguard-grace is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"MutatingBindingAltered": {
			reason: "Or that is bound to another policy.",
			doors:  altered("callguard-grace", func(b mutatingBinding) { b.Spec.PolicyName = "other" }),
			want:   "MutatingAdmissionPolicyBinding callguard-grace is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"Labelled": {reason: "Labels on a policy change nothing.", doors: altered("callguard-delete", func(p policy) { p.Labels = map[string]string{"team": "platform"} })},
		"OneOfTwo": {
			reason: "The other policy still refuses; but whoever removes one may be about to remove both.",
			doors:  lacking[policy]("callguard-delete-too"), want: "ValidatingAdmissionPolicy callguard-delete-too is missing",
		},
		"OtherWords": {
			reason: "A version that says it otherwise refuses the same.",
			doors: altered("callguard-delete", func(p policy) {
				for i := range p.Spec.Validations {
					v := &p.Spec.Validations[i]
					unauthorized := metav1.StatusReasonUnauthorized
					v.Message, v.MessageExpression, v.Reason = "no", "'no, ' + oldObject.metadata.name", &unauthorized
				}
			}),
		},
		"Stricter": {
			reason: "A version that refuses more refuses the same, too.",
			doors: altered("callguard-delete", func(p policy) {
				p.Spec.Variables = append(p.Spec.Variables, admissionregistrationv1.Variable{Name: "more", Expression: "true"})
				p.Spec.Validations = append([]admissionregistrationv1.Validation{{Expression: "variables.more"}}, p.Spec.Validations...)
			}),
		},
		"Looser": {
			reason: "A policy of another version that refuses less is not enough, and both versions are named.",
			doors: altered("callguard-delete", func(p policy) {
				p.Labels["app.kubernetes.io/version"] = "0.9.0"
				p.Spec.Validations = p.Spec.Validations[1:]
			}),
			want: "ValidatingAdmissionPolicy callguard-delete is not as this version of callguard has it (it is of 0.9.0, this is dev)",
		},
		"VariableAltered": {
			reason: "A changed expression counts even if its text looks similar.",
			doors: altered("callguard-delete", func(p policy) {
				p.Labels = nil
				p.Spec.Variables[0].Expression = "true"
			}),
			want: "ValidatingAdmissionPolicy callguard-delete is not as this version of callguard has it (it is of an unknown version, this is dev)",
		},
		"Narrower": {
			reason: "A policy that matches fewer requests allows the others.",
			doors: altered("callguard-delete", func(p policy) {
				p.Spec.MatchConditions = append(p.Spec.MatchConditions, admissionregistrationv1.MatchCondition{Name: "never", Expression: "false"})
			}),
			want: "ValidatingAdmissionPolicy callguard-delete is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"NoBudgetNoMatter": {
			reason: "The birth policy without its parameter would let unlocked pods be created.",
			doors: altered("callguard-birth-needs-pdb-callguard", func(b binding) {
				allow := admissionregistrationv1.AllowAction
				b.Spec.ParamRef.ParameterNotFoundAction = &allow
			}),
			want: "ValidatingAdmissionPolicyBinding callguard-birth-needs-pdb-callguard is not as this version of callguard has it (it is of dev, this is dev)",
		},
		"DeniesAndAudits": {
			reason: "An additional audit action is allowed.",
			doors: altered("callguard-delete", func(b binding) {
				b.Spec.ValidationActions = append(b.Spec.ValidationActions, admissionregistrationv1.Audit)
			}),
		},
		"AdviceAltered": {
			reason: "A policy that only warns protects nothing.",
			doors:  altered("callguard-birth-advice", func(p policy) { p.Spec.Validations = p.Spec.Validations[:1] }),
		},
		"NoAdvice": {
			reason: "Nor is it missed.",
			doors: func(doors []runtime.Object) []runtime.Object {
				return lacking[policy]("callguard-birth-advice")(lacking[binding]("callguard-birth-advice")(doors))
			},
		},
		"TwoAtOnce": {
			reason: "Each is named.",
			doors: func(doors []runtime.Object) []runtime.Object {
				return lacking[policy]("callguard-delete")(lacking[binding]("callguard-tamper-pods")(doors))
			},
			want: "ValidatingAdmissionPolicy callguard-delete is missing\nValidatingAdmissionPolicyBinding callguard-tamper-pods is missing",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects, resources := standingDoors(t), tc.resources
			if tc.doors != nil {
				objects = tc.doors(objects)
			}
			if resources == nil {
				resources = allPolicies()
			}
			d, _, events, registry := doorsOn(t, resources, refusal, podsNamed("a"), objects...)
			if diff := cmp.Diff(tc.want, seenAs(t, d)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
			inForce := "1"
			if tc.want != "" {
				inForce = "0"
				want := "Warning PoliciesNotInForce on Deployment callguard-system/drain-guard: No pod is released, because callguard's admission policies are not in effect: " +
					strings.ReplaceAll(tc.want, "\n", "; ") + "; apply the chart again"
				trial.Eventually(t, "a guard that starts like this reports it in an Event", func() bool { return len(events.List()) > 0 })
				if diff := cmp.Diff([]string{want}, events.List()); diff != "" {
					t.Errorf("%s\nEvents: -want, +got:\n%s", tc.reason, diff)
				}
			}
			gauge := "# HELP callguard_policies_in_force 1 while the admission policies that lock guarded pods are in effect, else 0: no pod is released then.\n" +
				"# TYPE callguard_policies_in_force gauge\ncallguard_policies_in_force " + inForce + "\n"
			if err := testutil.GatherAndCompare(registry, strings.NewReader(gauge), "callguard_policies_in_force"); err != nil {
				t.Errorf("%s\n%s", tc.reason, err)
			}
		})
	}
}

// TestDoorsTried has the delete policy tried on a pod, because its existence does not show
// that the API server applies it.
func TestDoorsTried(t *testing.T) {
	resource := schema.GroupResource{Resource: "pods"}
	cases := map[string]struct {
		reason string
		pods   []*corev1.Pod
		answer error
		want   string
		tried  bool
	}{
		"Refused": {reason: "The policy refuses.", pods: podsNamed("a"), answer: refusal("a"), tried: true},
		"Open":    {reason: "The API server does not heed it.", pods: podsNamed("a"), tried: true, want: "the API server would delete pod voice/a, which is locked"},
		"NoRight": {
			reason: "Somebody else's refusal proves nothing about the policy: its existence has to be enough.", pods: podsNamed("a"), tried: true,
			answer: apierrors.NewForbidden(resource, "a", errors.New("no right to delete pods")),
		},
		"OtherPolicy": {
			reason: "Nor does that of a tenant's own policy.", pods: podsNamed("a"), tried: true,
			answer: apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "a", nil),
		},
		"WebhookAway": {
			reason: "Nor of a webhook that does not answer.", pods: podsNamed("a"), tried: true,
			answer: apierrors.NewInternalError(errors.New("failed calling webhook: no route")),
		},
		"NoAnswer": {reason: "An API server that is silent heeds nothing that is known.", pods: podsNamed("a"), tried: true, answer: errors.New("no route"), want: "cannot try policy callguard-delete: no route"},
		"Gone":     {reason: "The pod went meanwhile; the next look tries another.", pods: podsNamed("a"), tried: true, answer: apierrors.NewNotFound(resource, "a")},
		"Replaced": {reason: "It is another pod of that name.", pods: podsNamed("a"), tried: true, answer: apierrors.NewConflict(resource, "a", errors.New("the UID is another"))},
		"None":     {reason: "Without a locked pod there is nothing to hold."},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d, client, _, _ := doorsOn(t, allPolicies(), func(string) error { return tc.answer }, tc.pods, standingDoors(t)...)
			if diff := cmp.Diff(tc.want, seenAs(t, d)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
			var asked []metav1.DeleteOptions
			for _, action := range client.Actions() {
				if deletion, ok := action.(clienttesting.DeleteAction); ok {
					asked = append(asked, deletion.GetDeleteOptions())
				}
			}
			if len(asked) > 0 != tc.tried {
				t.Errorf("%s\n%d deletions were tried", tc.reason, len(asked))
			}
			for _, o := range asked {
				uid, version := tc.pods[0].UID, tc.pods[0].ResourceVersion
				if diff := cmp.Diff(metav1.DeleteOptions{DryRun: []string{"All"}, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}, o); diff != "" {
					t.Errorf("a try must change nothing, and mean this pod as it was seen: -want, +got:\n%s", diff)
				}
			}
		})
	}
}

// TestDoorsTriedElsewhere has something else refuse first in some namespaces. A healthy
// namespace decides, whichever is tried first.
func TestDoorsTriedElsewhere(t *testing.T) {
	theirs := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "a", errors.New("ValidatingAdmissionPolicy 'theirs' with binding 'theirs' denied request: keep it"))
	cases := map[string]struct {
		reason  string
		healthy error // the answer of the delete policy in the namespace where nothing else refuses
		evil    error // the answer in the others
		want    string
	}{
		"Shut": {reason: "The policy refuses.", healthy: refusal("healthy"), evil: theirs},
		"Open": {reason: "It is open, and the others' refusals do not hide it.", evil: theirs, want: "the API server would delete pod voice/healthy, which is locked"},
		"Odd":  {reason: "A tenant's pod that the policy does not protect says nothing about the others.", healthy: refusal("healthy")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d, _, _, _ := doorsOn(t, allPolicies(), func(pod string) error {
				if pod == "healthy" {
					return tc.healthy
				}
				return tc.evil
			}, podsNamed("evil-1", "healthy", "evil-2"), standingDoors(t)...)
			if diff := cmp.Diff(tc.want, seenAs(t, d)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestDoorsTold deletes, alters and restores a policy while a guard runs. The guard notices
// each change at once, and reports once each time that the policies are not in effect.
func TestDoorsTold(t *testing.T) {
	d, client, events, _ := doorsOn(t, allPolicies(), refusal, podsNamed("a"), standingDoors(t)...)
	becomes := func(want string) {
		t.Helper()
		trial.Eventually(t, fmt.Sprintf("the doors are seen as %q", want), func() bool {
			err := d.InForce()
			return err == nil && want == "" || err != nil && err.Error() == want
		})
	}
	bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	whole, err := bindings.Get(t.Context(), "callguard-delete", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	open := whole.DeepCopy()
	open.Spec.ValidationActions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Audit}
	const missing, ajar = "ValidatingAdmissionPolicyBinding callguard-delete is missing", "ValidatingAdmissionPolicyBinding callguard-delete is not as this version of callguard has it (it is of dev, this is dev)"

	becomes("")
	for range 2 {
		if err := bindings.Delete(t.Context(), whole.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		becomes(missing)
		if _, err := bindings.Create(t.Context(), open.DeepCopy(), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		becomes(ajar)
		if _, err := bindings.Update(t.Context(), whole.DeepCopy(), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		becomes("")
	}
	told := "Warning PoliciesNotInForce on Deployment callguard-system/drain-guard: No pod is released, because callguard's admission policies are not in effect: " + missing + "; apply the chart again"
	if diff := cmp.Diff([]string{told, told}, events.List()); diff != "" {
		t.Errorf("Events: -want, +got:\n%s", diff)
	}
}

// logged keeps the lines of a log.
type logged struct {
	slog.Handler

	mu    sync.Mutex
	lines []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, text)
	return nil
}

func (l *logged) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// TestGraceDoorMissing starts a guard where the server could have policy callguard-grace
// and the install is older. It reports that each time it begins, and what to do.
func TestGraceDoorMissing(t *testing.T) {
	log := &logged{Handler: slog.DiscardHandler}
	d, client, events, _ := doorsLogging(t, log, allPolicies(), refusal, podsNamed("a"), standingDoors(t)...)
	trial.Eventually(t, "the doors are in force", func() bool { return d.InForce() == nil })
	admission := client.AdmissionregistrationV1()
	policies, bindings := admission.MutatingAdmissionPolicies(), admission.MutatingAdmissionPolicyBindings()
	policy, err := policies.Get(t.Context(), "callguard-grace", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding, err := bindings.Get(t.Context(), "callguard-grace", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const half = "MutatingAdmissionPolicyBinding callguard-grace is missing"
	warned := func() int {
		n := 0
		for _, line := range log.list() {
			if line == "Policy callguard-grace is missing: "+WithoutGrace+" do="+GraceCure {
				n++
			}
		}
		return n
	}
	for times := range 2 {
		if err := bindings.Delete(t.Context(), binding.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		trial.Eventually(t, "half a grace policy counts as none", func() bool { return d.InForce() != nil && d.InForce().Error() == half })
		if err := policies.Delete(t.Context(), policy.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		trial.Eventually(t, "without it the policies are in effect, and its absence is reported", func() bool { return d.InForce() == nil && warned() == times+1 })
		for range 3 { // the second is accepted when a check is over
			d.changed <- struct{}{}
		}
		if n := warned(); n != times+1 {
			t.Errorf("it is said %d times, want %d", n, times+1)
		}
		if _, err := policies.Create(t.Context(), policy.DeepCopy(), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		trial.Eventually(t, "half a grace policy counts as none", func() bool { return d.InForce() != nil && d.InForce().Error() == half })
		if _, err := bindings.Create(t.Context(), binding.DeepCopy(), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		trial.Eventually(t, "the doors are in force", func() bool { return d.InForce() == nil })
	}
	if n := len(events.List()); n == 0 {
		t.Error("a policy without its binding causes an Event")
	}
}

// TestDoorsUnasked has an API server that does not list its policies. That does not mean
// that a policy is missing, and causes no Event.
func TestDoorsUnasked(t *testing.T) {
	d, _, events, _ := doorsOn(t, nil, refusal, nil)
	trial.Eventually(t, "it could not be asked", func() bool {
		err := d.InForce()
		return err != nil && strings.HasPrefix(err.Error(), "cannot ask which admission policies the cluster has: ")
	})
	if list := events.List(); len(list) > 0 {
		t.Errorf("Events %q", list)
	}
}

// TestLocked: the API server only has to refuse to delete pods that may hold calls.
func TestLocked(t *testing.T) {
	running := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	ended := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}}
	at := metav1.Now()
	for name, tc := range map[string]struct {
		reason string
		pod    corev1.Pod
		want   bool
	}{
		"Serving":  {reason: "It may hold calls.", pod: corev1.Pod{Status: running}, want: true},
		"Released": {reason: "A released pod is to be deleted.", pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{call.ReleasedLabel: "drain"}}, Status: running}},
		"Ended":    {reason: "One that runs nothing holds nothing.", pod: corev1.Pod{Status: ended}},
		"Going":    {reason: "One that is deleted is past the policy.", pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &at}, Status: running}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Locked(&tc.pod); got != tc.want {
				t.Errorf("%s It is locked: %t, want %t", tc.reason, got, tc.want)
			}
		})
	}
}

// TestAdviceKnowsEveryAnnotation: the policy that warns of misspelt annotations knows all those that callguard
// reads.
func TestAdviceKnowsEveryAnnotation(t *testing.T) {
	doors, err := manifests.Parse(manifests.DefaultValues())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for _, p := range doors.Policies {
		if p.Name != "callguard-workload-advice" {
			continue
		}
		for _, v := range p.Spec.Variables {
			for _, m := range regexp.MustCompile(`'(callguard\.dev/[a-z-]+)'`).FindAllStringSubmatch(v.Expression, -1) {
				known[v.Name] = append(known[v.Name], m[1])
			}
		}
	}
	want := map[string][]string{}
	for _, a := range call.Annotations() {
		switch {
		case a.On == call.OnPod && !a.Label && a.Writer == call.AtBirth:
			want["strange"] = append(want["strange"], a.Key)
		case a.On == call.OnWorkload:
			want["misplaced"] = append(want["misplaced"], a.Key)
		}
	}
	for _, variable := range []string{"strange", "misplaced"} {
		slices.Sort(known[variable])
		slices.Sort(want[variable])
		if diff := cmp.Diff(want[variable], known[variable]); diff != "" {
			t.Errorf("variable %q of charts/callguard/templates/doors/workload-advice.yaml should list the annotations of pkg/call (-pkg/call, +policy); its message and test/doors name them, too. Then run hack/update-manifests.sh:\n%s", variable, diff)
		}
	}
}
