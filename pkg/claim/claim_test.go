// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"

	"github.com/callguard/callguard/pkg/apiservice"
)

func ours() types.NamespacedName {
	return types.NamespacedName{Namespace: "callguard-system", Name: "metrics-adapter"}
}

func theirs() types.NamespacedName {
	return types.NamespacedName{Namespace: "monitoring", Name: "other"}
}

// theirAPI is v1beta1 as the other adapter's chart creates it.
func theirAPI() *apiregistrationv1.APIService {
	s := &apiregistrationv1.APIService{}
	s.Name = apiservice.Names()[0]
	s.Spec = apiregistrationv1.APIServiceSpec{
		Group: group, Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "monitoring", Name: "other"},
	}
	return s
}

// world is a cluster with a Claim in it.
type world struct {
	*Claim

	client   *fake.Clientset
	recorder *record.FakeRecorder
	ready    error
	answers  map[string]error
	ca       string
	taken    int
}

func newWorld(objects ...runtime.Object) *world {
	w := &world{client: fake.NewSimpleClientset(objects...), recorder: record.NewFakeRecorder(100), answers: map[string]error{}, ca: "ours"}
	w.restart()
	return w
}

// restart is a new process of the adapter.
func (w *world) restart() {
	port := int32(443)
	w.Claim = New(Config{
		APIServices: w.client.ApiregistrationV1().APIServices(),
		Ours:        apiregistrationv1.ServiceReference{Namespace: ours().Namespace, Name: ours().Name, Port: &port},
		Theirs:      theirs(), KeepCA: true,
		CA:      func() ([]byte, error) { return []byte(w.ca), nil },
		Ready:   func() error { return w.ready },
		Answers: func(version string) error { return w.answers[version] },
		Taken:   func() { w.taken++ }, Recorder: w.recorder, Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
}

func (w *world) look(t *testing.T) {
	t.Helper()
	for i, name := range apiservice.Names() {
		w.step(t.Context(), name, versions()[i])
	}
}

// owners returns the Services that the APIServices point to.
func (w *world) owners(t *testing.T) []string {
	t.Helper()
	var owners []string
	for _, name := range apiservice.Names() {
		found, err := w.read(t.Context(), name)
		switch {
		case err != nil:
			t.Fatal(err)
		case found == nil:
			owners = append(owners, "")
		default:
			owners = append(owners, apiservice.Owner(found))
		}
	}
	return owners
}

func (w *world) is(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.owners(t)); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	for i, name := range apiservice.Names() {
		value := 0.0
		if want[i] == ours().String() {
			value = 1
		}
		if got := testutil.ToFloat64(w.ours.WithLabelValues(name)); got != value {
			t.Errorf("metric of %s is %v, want %v", name, got, value)
		}
	}
}

// told returns the Events since its last call.
func (w *world) told() []string {
	var events []string
	for {
		select {
		case e := <-w.recorder.Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

func (w *world) write(t *testing.T, s *apiregistrationv1.APIService) {
	t.Helper()
	if _, err := w.client.ApiregistrationV1().APIServices().Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsTakenTooEarly lets each condition fail.
func TestNothingIsTakenTooEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(theirAPI())
	w.ready = errors.New("the guarded pods are still being read")
	w.look(t)
	w.is(t, "monitoring/other", "")
	w.ready = nil
	w.answers["v1beta1"], w.answers["v1beta2"] = errors.New("wrong certificate"), errors.New("wrong certificate")
	w.look(t)
	w.is(t, "monitoring/other", "")
	if told := w.told(); len(told) > 0 || w.taken > 0 {
		t.Errorf("Events %v, %d taken over", told, w.taken)
	}
	// An old adapter without v1beta2: creating that would point every autoscaler to it.
	delete(w.answers, "v1beta1")
	w.look(t)
	w.is(t, ours().String(), "")
	delete(w.answers, "v1beta2")
	w.look(t)
	w.is(t, ours().String(), ours().String())
}

func TestTakenOnceAndTold(t *testing.T) {
	t.Parallel()
	w := newWorld(theirAPI())
	for range 3 {
		w.look(t)
	}
	w.is(t, ours().String(), ours().String())
	if told := w.told(); len(told) != 2 || !strings.Contains(told[0], "Normal MetricsAPITaken callguard now serves APIService v1beta1.custom.metrics.k8s.io, and forwards requests for other metrics to monitoring/other") {
		t.Errorf("Events %q", told)
	}
	if w.taken != 2 {
		t.Errorf("kicked %d times, want 2", w.taken)
	}
	for _, a := range w.client.Actions() {
		if a.GetVerb() == "update" || a.GetVerb() == "create" {
			w.taken--
		}
	}
	if w.taken != 0 {
		t.Errorf("%d writes too many", -w.taken)
	}
}

func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(theirAPI())
	w.look(t)
	w.ca = "renewed"
	w.look(t)
	for _, name := range apiservice.Names() {
		found, err := w.read(t.Context(), name)
		if err != nil || string(found.Spec.CABundle) != "renewed" {
			t.Errorf("%s: %q, %v", name, found.Spec.CABundle, err)
		}
	}
}

// TestPutBackIsToldAndNotFought: the other adapter's chart restores its APIService, with a
// patch like Helm and with a replacement like kubectl.
func TestPutBackIsToldAndNotFought(t *testing.T) {
	t.Parallel()
	for name, marked := range map[string]bool{"patched": true, "replaced": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(theirAPI())
			w.look(t)
			w.told()
			back := theirAPI()
			if marked {
				back.Annotations = map[string]string{apiservice.BeforeAnnotation: "{}"}
			}
			w.write(t, back)
			for range 3 {
				w.look(t)
			}
			w.is(t, "monitoring/other", ours().String())
			told := w.told()
			if len(told) != 1 || !strings.Contains(told[0], "Warning MetricsAPIPutBack APIService v1beta1.custom.metrics.k8s.io was put back to monitoring/other") ||
				!strings.Contains(told[0], "kubectl annotate apiservice v1beta1.custom.metrics.k8s.io callguard.dev/before- && kubectl rollout restart deployment metrics-adapter -n callguard-system") {
				t.Errorf("Events %q", told)
			}
			if marked {
				w.restart()
				w.look(t)
				w.is(t, "monitoring/other", ours().String())
			}
			// The solution in the Event.
			w.write(t, theirAPI())
			w.restart()
			w.look(t)
			w.is(t, ours().String(), ours().String())
		})
	}
}

func TestAnotherOneIsLeftAlone(t *testing.T) {
	t.Parallel()
	foreign := theirAPI()
	foreign.Spec.Service.Name = "third"
	w := newWorld(foreign)
	w.look(t)
	w.is(t, "monitoring/third", ours().String())
	if told := w.told(); !strings.Contains(told[0], `Warning MetricsAPIForeign APIService v1beta1.custom.metrics.k8s.io belongs to Service "monitoring/third"`) {
		t.Errorf("Events %q", told)
	}
}

// TestTheOthersUninstall deletes its APIService; callguard's autoscalers still need it.
func TestTheOthersUninstall(t *testing.T) {
	t.Parallel()
	w := newWorld(theirAPI())
	w.look(t)
	if err := w.client.ApiregistrationV1().APIServices().Delete(t.Context(), apiservice.Names()[0], metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.answers["v1beta1"] = errors.New("connection refused")
	w.look(t)
	w.is(t, ours().String(), ours().String())
}

func TestConflictsAreTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(theirAPI())
	conflicts := 1
	w.client.PrependReactor("update", "apiservices", func(clienttesting.Action) (bool, runtime.Object, error) {
		if conflicts--; conflicts < 0 {
			return false, nil, nil
		}
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "apiservices"}, "x", errors.New("changed"))
	})
	w.look(t)
	w.look(t)
	w.is(t, ours().String(), ours().String())
}

func TestGiveBack(t *testing.T) {
	t.Parallel()
	was := theirAPI()
	w := newWorld(was)
	w.look(t)
	var out strings.Builder
	services := w.client.ApiregistrationV1().APIServices()
	if err := GiveBack(t.Context(), services, ours(), theirs(), &out); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.is(t, "monitoring/other", "")
	found, err := services.Get(t.Context(), was.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was.Spec, found.Spec); diff != "" || len(found.Annotations) > 0 {
		t.Errorf("given back (-was +is):\n%s%v", diff, found.Annotations)
	}
	if err := GiveBack(t.Context(), services, ours(), theirs(), &out); err != nil {
		t.Error(err)
	}
	want := "APIService v1beta1.custom.metrics.k8s.io is given back to monitoring/other\nAPIService v1beta2.custom.metrics.k8s.io is deleted, for there was none before\n" +
		"APIService v1beta1.custom.metrics.k8s.io was not taken\nAPIService v1beta2.custom.metrics.k8s.io is not there\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
}

// TestGiveBackToNobodyElse has an annotation that names another Service, as an attacker
// might write.
func TestGiveBackToNobodyElse(t *testing.T) {
	t.Parallel()
	s := theirAPI()
	s.Spec.Service = &apiregistrationv1.ServiceReference{Namespace: ours().Namespace, Name: ours().Name}
	s.Annotations = map[string]string{apiservice.BeforeAnnotation: `{"service":"evil/server"}`}
	w := newWorld(s)
	err := GiveBack(t.Context(), w.client.ApiregistrationV1().APIServices(), ours(), theirs(), &strings.Builder{})
	if err == nil || !strings.Contains(err.Error(), `names Service "evil/server", and not monitoring/other`) {
		t.Errorf("%v", err)
	}
	if got := w.owners(t)[0]; got != ours().String() {
		t.Errorf("given to %s", got)
	}
}
