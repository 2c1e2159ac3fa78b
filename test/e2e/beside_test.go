// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

const (
	shop        = "shop"
	otherMetric = "other_7"
	// oursWithin limits how long callguard's own metrics may take, whatever the other adapter does.
	oursWithin = 250 * time.Millisecond
)

// besideStory is a cluster in which another adapter already serves.
type besideStory struct {
	other    *lab.Other
	services apiregistration.APIServiceInterface
	before   apiregistrationv1.APIServiceSpec // of v1beta1; there is none of v1beta2
	chart    string                           // what charts/callguard installs in mode compose
	shop, ns string                           // namespaces of a workload that uses their metric, and of agents
}

// TestBesideAnotherAdapter takes custom metrics over from an adapter with 300 of them, lets
// autoscalers use both, lets the other one fail in every way, and returns the API.
func TestBesideAnotherAdapter(t *testing.T) {
	s := &besideStory{services: aggregator.NewForConfigOrDie(stage.Config).ApiregistrationV1().APIServices()}
	s.installOther(t)
	s.scalesOnTheirs(t, 10, 2)

	s.chart = renderBeside(t)
	_, err := stage.Kubectl(t.Context(), "apply", "--server-side", "--force-conflicts", "-f", s.chart)
	trial.Must(t, err)
	ours := s.start(t)
	s.taken(t)
	s.listed(t)
	s.ns = namespace(t, "beside")
	play(t, s.ns, 10, lab.ObjectForm(), 0)
	calls := dial(t, s.ns, 10)
	defer hangUp(calls)
	s.scalesOnOurs(t, 2)
	s.scalesOnTheirs(t, 20, 4)
	s.leash(t)

	t.Run("both", func(t *testing.T) { s.oursGoOn(t, "") })
	t.Run("slow", func(t *testing.T) {
		trial.Must(t, s.other.Pause())
		s.oursGoOn(t, "it is too slow")
		trial.Must(t, s.other.Continue())
		s.theirsAnswer(t)
	})
	t.Run("down", func(t *testing.T) {
		trial.Must(t, s.other.Kill())
		s.oursGoOn(t, "connection refused")
		calls = append(calls, dial(t, s.ns+"-more", 10)...)
		s.scalesOnOurs(t, 4)
	})
	t.Run("wrong certificate", func(t *testing.T) {
		trial.Must(t, s.other.Start(lab.Impostor))
		s.oursGoOn(t, "certificate signed by unknown authority")
		trial.Must(t, s.other.Kill())
		trial.Must(t, s.other.Start(lab.OtherName))
		s.theirsAnswer(t)
		s.scalesOnTheirs(t, 20, 4)
	})
	ours = s.putBack(t, ours)
	s.uninstall(t, ours)
}

// installOther sets up the cluster before callguard: the other adapter has only v1beta1, as
// prometheus-adapter's chart registers it, and a workload scales on one of its metrics.
func (s *besideStory) installOther(t *testing.T) {
	t.Helper()
	var err error
	s.other, err = stage.StartOther(t.Context(), 300)
	trial.Must(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := s.other.Kill(); err != nil {
			t.Error(err)
		}
		for _, name := range lab.APIServices() {
			if err := s.services.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
		if s.chart != "" {
			if _, err := stage.Kubectl(ctx, "delete", "--ignore-not-found", "-f", s.chart); err != nil {
				t.Error(err)
			}
		}
		if err := stage.Republish(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, name := range lab.APIServices() {
		trial.Must(t, s.services.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	port := int32(s.other.Port)
	theirs := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: lab.APIServices()[0], Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "custom.metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, CABundle: s.other.CA,
			Service: &apiregistrationv1.ServiceReference{Namespace: lab.OtherNamespace, Name: lab.OtherName, Port: &port},
		},
	}
	made, err := s.services.Create(t.Context(), theirs, metav1.CreateOptions{})
	trial.Must(t, err)
	s.before = made.Spec
	s.available(t, theirs.Name, lab.OtherNamespace+"/"+lab.OtherName)

	s.shop = namespace(t, shop)
	d := lab.Agent(s.shop, 1)
	d.Spec.Template.Labels = map[string]string{"app": lab.AgentName} // not guarded
	_, err = stage.Client.AppsV1().Deployments(s.shop).Create(t.Context(), d, metav1.CreateOptions{})
	trial.Must(t, err)
	metric := lab.ObjectForm()
	metric.Object.Metric.Name = otherMetric
	_, err = stage.Client.AutoscalingV2().HorizontalPodAutoscalers(s.shop).Create(t.Context(), lab.Autoscaler(s.shop, 10, metric, 0), metav1.CreateOptions{})
	trial.Must(t, err)
}

// available waits until an APIService points to a Service, and kube-apiserver reaches it.
func (s *besideStory) available(t *testing.T, name, owner string) {
	t.Helper()
	eventually(t, time.Minute, name+" is available by "+owner, func() (bool, error) {
		found, err := s.services.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if is := apiservice.Owner(found); is != owner {
			return false, fmt.Errorf("it is %s's", is)
		}
		if why := apiservice.Unavailable(found); why != "" {
			return false, errors.New(why)
		}
		return true, nil
	})
}

// taken waits until both point to callguard.
func (s *besideStory) taken(t *testing.T) {
	t.Helper()
	for _, name := range lab.APIServices() {
		s.available(t, name, lab.AdapterNamespace+"/"+lab.AdapterName)
	}
}

func (s *besideStory) start(t *testing.T) *lab.Adapter {
	t.Helper()
	a, err := stage.StartBeside(t.Context(), s.other, "--compose-timeout=2s", "--resync-interval=2s")
	trial.Must(t, err)
	t.Cleanup(func() { stop(t, a) })
	return a
}

// listed checks discovery in all its forms: their metrics and ours, in both versions.
func (s *besideStory) listed(t *testing.T) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(stage.Config)
	trial.Must(t, err)
	for _, version := range []string{"v1beta1", "v1beta2"} {
		eventually(t, 2*time.Minute, "all metrics are listed in "+version, func() (bool, error) {
			plain, err := client.ServerResourcesForGroupVersion("custom.metrics.k8s.io/" + version)
			if err != nil {
				return false, err
			}
			_, aggregated, failed, err := client.GroupsAndMaybeResources()
			gv := schema.GroupVersion{Group: "custom.metrics.k8s.io", Version: version}
			if err = errors.Join(err, failed[gv]); err != nil {
				return false, err
			}
			for form, list := range map[string]*metav1.APIResourceList{"discovery": plain, "aggregated discovery": aggregated[gv]} {
				for _, name := range []string{"pods/other_0", "pods/other_299", "pods/active_calls", "deployments.apps/busy_pods"} {
					if list == nil || !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == name }) {
						return false, fmt.Errorf("%s lacks %s", form, name)
					}
				}
			}
			return true, nil
		})
	}
}

// scalesOnTheirs sets the shop's metric and waits for its replicas.
func (s *besideStory) scalesOnTheirs(t *testing.T, value int, want int32) {
	t.Helper()
	eventually(t, 30*time.Second, "the other adapter takes metrics", func() (bool, error) {
		err := s.other.Post(t.Context(), "namespaces/"+s.shop+"/deployments.apps/"+lab.AgentName, otherMetric, value)
		return err == nil, err
	})
	s.scales(t, s.shop, want)
}

func (s *besideStory) scalesOnOurs(t *testing.T, want int32) { t.Helper(); s.scales(t, s.ns, want) }

func (s *besideStory) scales(t *testing.T, ns string, want int32) {
	t.Helper()
	eventually(t, 90*time.Second, fmt.Sprintf("%d replicas in namespace %s", want, ns), func() (bool, error) {
		n, err := replicas(t.Context(), ns)
		if err == nil && n != want {
			_, why, _ := scalingActive(t.Context(), ns)
			err = fmt.Errorf("%d replicas; %s", n, why)
		}
		return err == nil, err
	})
}

// oursGoOn reads our metric a hundred times while eight others keep reading theirs, which fails
// for a reason, or succeeds if none is given.
func (s *besideStory) oursGoOn(t *testing.T, reason string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	reasons := map[string]int{}
	var others sync.WaitGroup
	theirs := "/apis/custom.metrics.k8s.io/v1beta1/namespaces/" + s.shop + "/deployments.apps/" + lab.AgentName + "/" + otherMetric
	for range 8 {
		others.Go(func() {
			for ctx.Err() == nil {
				text := ""
				if err := stage.Client.Discovery().RESTClient().Get().AbsPath(theirs).Do(ctx).Error(); err != nil { // unlike Raw's, it has the server's own message
					text = err.Error()
				}
				mu.Lock()
				if ctx.Err() == nil {
					reasons[text]++
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	client := metricsClient(t, stage.Config)
	_, err := callsOf(client, s.ns, lab.AgentName) // discovers
	trial.Must(t, err)
	var took []time.Duration
	for range 100 {
		began := time.Now()
		_, err := callsOf(client, s.ns, lab.AgentName)
		took = append(took, time.Since(began))
		if err != nil {
			t.Errorf("our own metric: %v", err)
		}
	}
	slices.Sort(took)
	t.Logf("ours: p50 %s, p99 %s of %d", took[len(took)/2].Round(time.Millisecond), took[98].Round(time.Millisecond), len(took))
	if took[98] > oursWithin {
		t.Errorf("p99 of our own metric is %s, more than %s", took[98], oursWithin)
	}
	eventually(t, 30*time.Second, fmt.Sprintf("reads of the other adapter end with %q", reason), func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		for text := range reasons {
			if reason == "" && text == "" || reason != "" && strings.Contains(text, reason) && strings.Contains(text, "adapter "+lab.OtherNamespace+"/"+lab.OtherName) {
				return true, nil
			}
		}
		return false, fmt.Errorf("they end with %v", reasons)
	})
	cancel()
	others.Wait()
}

// theirsAnswer waits until the other adapter's metrics are served again.
func (s *besideStory) theirsAnswer(t *testing.T) {
	t.Helper()
	path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + s.shop + "/pods/*/" + otherMetric
	eventually(t, 30*time.Second, "the other adapter's metrics are served again", func() (bool, error) {
		_, err := stage.Client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		return err == nil, err
	})
}

// putBack does what an upgrade of the other adapter's chart may do: it restores its own
// APIService.
func (s *besideStory) putBack(t *testing.T, ours *lab.Adapter) *lab.Adapter {
	t.Helper()
	name := lab.APIServices()[0]
	gauge := fmt.Sprintf("callguard_metrics_api_taken{apiservice=%q} ", name)
	if page := adapterPath(t, ours, "/metrics"); !strings.Contains(page, gauge+"1") {
		t.Fatalf("before it is put back, there is no %s1", gauge)
	}
	patch := fmt.Appendf(nil, `{"spec":{"caBundle":%q,"service":{"namespace":%q,"name":%q,"port":%d}}}`,
		base64.StdEncoding.EncodeToString(s.before.CABundle), lab.OtherNamespace, lab.OtherName, s.other.Port)
	_, err := s.services.Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	trial.Must(t, err)
	began := time.Now()
	eventually(t, 30*time.Second, "an Event tells that it was put back", func() (bool, error) {
		list, err := stage.Client.CoreV1().Events(lab.AdapterNamespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Service,involvedObject.name=" + lab.AdapterName})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == "MetricsAPIPutBack" && !e.LastTimestamp.Time.Before(began.Truncate(time.Second)) && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, "APIService "+name+" was put back to monitoring/other")
		}), nil
	})
	eventually(t, 30*time.Second-time.Since(began), "the metric tells so", func() (bool, error) {
		return strings.Contains(adapterPath(t, ours, "/metrics"), gauge+"0"), nil
	})
	t.Logf("reported within %s", time.Since(began).Round(time.Millisecond))

	// The solution that both name.
	_, err = stage.Kubectl(t.Context(), "annotate", "apiservice", name, apiservice.BeforeAnnotation+"-")
	trial.Must(t, err)
	stop(t, ours)
	ours = s.start(t)
	s.taken(t)
	return ours
}

// uninstall does what Helm does: it deletes all objects, then runs the uninstall Job.
func (s *besideStory) uninstall(t *testing.T, ours *lab.Adapter) {
	t.Helper()
	const account = "metrics-adapter-hand-back"
	out, err := stage.HandBack(t.Context(), account)
	trial.Must(t, err)
	if !strings.Contains(out, "nothing is given back") {
		t.Errorf("while callguard is installed, hand-back says %s", out)
	}
	s.taken(t)
	stop(t, ours)
	_, err = stage.Kubectl(t.Context(), "delete", "validatingadmissionpolicy", "callguard-adapter-leash")
	trial.Must(t, err)
	out, err = stage.HandBack(t.Context(), account)
	trial.Must(t, err)
	t.Log(out)
	found, err := s.services.Get(t.Context(), lab.APIServices()[0], metav1.GetOptions{})
	trial.Must(t, err)
	if diff := cmp.Diff(s.before, found.Spec); diff != "" || found.Annotations[apiservice.BeforeAnnotation] != "" {
		t.Errorf("the APIService that was given back (-before +after):\n%s%v", diff, found.Annotations)
	}
	if _, err := s.services.Get(t.Context(), lab.APIServices()[1], metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("APIService %s, which did not exist before: %v", lab.APIServices()[1], err)
	}
	s.available(t, lab.APIServices()[0], lab.OtherNamespace+"/"+lab.OtherName)
	s.scalesOnTheirs(t, 5, 1)
}

// leash tries what somebody who stole the adapter's token could do with it in this mode.
func (s *besideStory) leash(t *testing.T) {
	t.Helper()
	kubeconfig, err := stage.Cluster.ServiceAccountKubeconfig(t.Context(), lab.AdapterNamespace, lab.AdapterName)
	trial.Must(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	trial.Must(t, err)
	thief := aggregator.NewForConfigOrDie(config).ApiregistrationV1().APIServices()
	const leash = "metrics-adapter may only point APIServices of custom metrics to its own Service, or back to monitoring/other, and change nothing else of them"
	dry := []string{metav1.DryRunAll}
	patch := func(body string) error {
		_, err := thief.Patch(t.Context(), lab.APIServices()[0], types.MergePatchType, []byte(body), metav1.PatchOptions{DryRun: dry})
		return err
	}
	for what, err := range map[string]error{
		"be served elsewhere":  patch(`{"spec":{"service":{"name":"evil"}}}`),
		"be served by whoever": patch(`{"spec":{"caBundle":null,"insecureSkipTLSVerify":true}}`),
		"come first":           patch(`{"spec":{"groupPriorityMinimum":1}}`),
		"note something":       patch(`{"metadata":{"annotations":{"example.org/x":"y"}}}`),
		"serve another API": func() error {
			evil := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.example.org"}, Spec: apiregistrationv1.APIServiceSpec{
				Group: "example.org", Version: "v1", GroupPriorityMinimum: 1, VersionPriority: 1, InsecureSkipTLSVerify: true,
				Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "evil"},
			}}
			_, err := thief.Create(t.Context(), evil, metav1.CreateOptions{DryRun: dry})
			return err
		}(),
	} {
		if err == nil || !strings.Contains(err.Error(), leash) {
			t.Errorf("%s: %v; want %q", what, err, leash)
		}
	}
}

// renderBeside renders what charts/callguard installs of the metrics-adapter in mode compose,
// except its workload.
func renderBeside(t *testing.T) string {
	t.Helper()
	const root = "../.."
	path, err := exec.CommandContext(t.Context(), "go", "tool", "-n", "-modfile="+filepath.Join(root, "hack/tools/helm/go.mod"), "helm").Output()
	trial.Must(t, err)
	args := []string{
		"template", "callguard", filepath.Join(root, "charts/callguard"), "--namespace", lab.AdapterNamespace, "--kube-version", "1.36.0",
		"--set", "metricsAdapter.mode=compose", "--set", "metricsAdapter.compose.insecure=true",
		"--set", "metricsAdapter.compose.service.namespace=" + lab.OtherNamespace, "--set", "metricsAdapter.compose.service.name=" + lab.OtherName,
	}
	for _, name := range []string{"serviceaccount", "rbac", "leash", "hand-back"} {
		args = append(args, "--show-only", "templates/metrics-adapter/"+name+".yaml")
	}
	out, err := exec.CommandContext(t.Context(), strings.TrimSpace(string(path)), args...).Output()
	trial.Must(t, err)
	var documents []string
	for document := range strings.SplitSeq(string(out), "\n---\n") {
		if !strings.Contains(document, "kind: Job\n") {
			documents = append(documents, document)
		}
	}
	file := filepath.Join(stage.Cluster.Dir(), "beside.yaml") // kept longer than the test
	trial.Must(t, os.WriteFile(file, []byte(strings.Join(documents, "\n---\n")), 0o600))
	return file
}
