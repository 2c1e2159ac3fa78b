// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/keda/externalscaler"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// kedaKeys are KEDA's certificate and its authority, created before the stage is set up, because the adapter gets the authority
// when it starts.
type kedaKeys struct {
	address     string // where the adapter answers
	caFile      string
	certificate tls.Certificate
}

func newKEDAKeys(folder string) (*kedaKeys, error) {
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, err
	}
	k := &kedaKeys{address: fmt.Sprintf("127.0.0.1:%d", ports[0]), caFile: filepath.Join(folder, "keda-ca.crt")}
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "keda"}, authority)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keda-operator"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key.Public(), authority)
	if err != nil {
		return nil, err
	}
	k.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return k, os.WriteFile(k.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600)
}

func (k *kedaKeys) flags() []string {
	return []string{"--keda-bind-address=" + k.address, "--keda-client-ca-file=" + k.caFile}
}

// dial connects as KEDA's operator does with a TriggerAuthentication that has caCert, tlsClientCert and tlsClientKey; without a
// certificate if withCertificate is false.
func (k *kedaKeys) dial(t *testing.T, withCertificate bool) externalscaler.ExternalScalerClient {
	t.Helper()
	direct, err := stage.Direct(t.Context(), stage.Adapter)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(direct.CAData)
	config := &tls.Config{RootCAs: roots, ServerName: direct.ServerName, MinVersion: tls.VersionTLS12}
	if withCertificate {
		config.Certificates = []tls.Certificate{k.certificate}
	}
	conn, err := grpc.NewClient(k.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return externalscaler.NewExternalScalerClient(conn)
}

const (
	kedaNamespace = "keda"
	kedaService   = "keda-operator-metrics-apiserver"
	externalAPI   = "v1beta1.external.metrics.k8s.io"
)

// serveExternalMetrics makes kube-apiserver ask KEDA for external metrics.
func (s *story) serveExternalMetrics(keda *fleet.KEDA) {
	s.t.Helper()
	ctx := s.t.Context()
	_, err := stage.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kedaNamespace}}, metav1.CreateOptions{})
	s.must(err)
	_, err = stage.Client.CoreV1().Services(kedaNamespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: kedaService}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	s.must(err)
	ca, key, err := certutil.GenerateSelfSignedCertKey(kedaService+"."+kedaNamespace+".svc", nil, nil)
	s.must(err)
	pair, err := tls.X509KeyPair(ca, key)
	s.must(err)
	server := httptest.NewUnstartedServer(keda)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	s.t.Cleanup(server.Close)
	port := int32(server.Listener.Addr().(*net.TCPAddr).Port)
	services := aggregator.NewForConfigOrDie(stage.Config).ApiregistrationV1().APIServices()
	_, err = services.Create(ctx, &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: externalAPI},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "external.metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, CABundle: ca,
			Service: &apiregistrationv1.ServiceReference{Namespace: kedaNamespace, Name: kedaService, Port: &port},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.t.Cleanup(func() {
		ctx := context.WithoutCancel(s.t.Context())
		err := errors.Join(services.Delete(ctx, externalAPI, metav1.DeleteOptions{}), stage.Client.CoreV1().Namespaces().Delete(ctx, kedaNamespace, metav1.DeleteOptions{}))
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Error(err)
		}
	})
}

// follow makes KEDA scale a ScaledObject until the story ends.
func (s *story) follow(keda *fleet.KEDA, object fleet.ScaledObject) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keda.Follow(ctx, object) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("KEDA no longer follows ScaledObject %s: %v", object.Name, err)
		}
	})
}

func (s *story) replicasOf(deployment string) (int32, error) {
	d, err := stage.Client.AppsV1().Deployments(s.ns).Get(s.t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return *d.Spec.Replicas, nil
}

// TestKEDAFromZeroToZero: by KEDA's own protocol a workload is scaled from no agent to one for a first caller, who is answered,
// to several, down while calls go on, and to none. A workload whose calls are unknown is never scaled to none.
func TestKEDAFromZeroToZero(t *testing.T) {
	t.Parallel()
	s := tell(t, 1) // with several nodes, the emptiest would come first
	keda := &fleet.KEDA{Client: stage.Client, Scaler: keys.dial(t, true)}
	s.serveExternalMetrics(keda)
	if _, err := keys.dial(t, false).IsActive(t.Context(), &externalscaler.ScaledObjectRef{Name: "calls", Namespace: s.ns}); status.Code(err) != codes.Unavailable {
		t.Errorf("whoever shows no certificate gets %v; want no answer", err)
	}

	d := lab.Agent(s.ns, 0)
	d.Spec.Template = s.template()
	d.Spec.Template.Annotations[call.AgentNameAnnotation] = s.ns
	d.Spec.Template.Annotations[call.DispatchAgainAnnotation] = "true"
	lab.Gated(&d.Spec.Template, lab.GateKind, true)
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), d, metav1.CreateOptions{})
	s.must(err)
	s.blind()
	trigger := func(push bool, metricType autoscalingv2.MetricTargetType, deployment, metric, target string) fleet.Trigger {
		return fleet.Trigger{Push: push, MetricType: metricType, Metadata: map[string]string{
			"scalerAddress": keys.address, "enableTLS": "true", "deployment": deployment, "metric": metric, "target": target,
		}}
	}
	now, later := int32(0), int32(15) // instead of 5 minutes
	behavior := &autoscalingv2.HorizontalPodAutoscalerBehavior{
		ScaleUp:   &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &now},
		ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &later},
	}
	s.eventually(soon, "the adapter knows both workloads", func() (bool, error) {
		for _, deployment := range []string{lab.AgentName, blind} {
			_, err := keda.Scaler.IsActive(t.Context(), &externalscaler.ScaledObjectRef{Name: "calls", Namespace: s.ns, ScalerMetadata: trigger(false, "", deployment, "active_calls", "1").Metadata})
			if status.Code(err) == codes.NotFound {
				return false, err
			}
		}
		return true, nil
	})
	// As charts/voice-agent has it.
	s.follow(keda, fleet.ScaledObject{
		Namespace: s.ns, Name: "calls", Deployment: lab.AgentName, Max: 4, Polling: 2 * time.Second, Cooldown: 6 * time.Second, Behavior: behavior,
		Triggers: []fleet.Trigger{
			trigger(true, autoscalingv2.AverageValueMetricType, lab.AgentName, "active_calls", "1"),
			trigger(false, autoscalingv2.ValueMetricType, lab.AgentName, "waiting_calls", "500m"),
		},
	})
	s.follow(keda, fleet.ScaledObject{
		Namespace: s.ns, Name: blind, Deployment: blind, Max: 4, Polling: 2 * time.Second, Behavior: behavior, Fallback: &fleet.Fallback{Threshold: 3, Replicas: 2},
		Triggers: []fleet.Trigger{trigger(true, autoscalingv2.AverageValueMetricType, blind, "active_calls", "1")},
	})
	s.eventually(soon, "KEDA knows that nobody calls, and leaves it at none", func() (bool, error) {
		n, err := s.replicasOf(lab.AgentName)
		told := keda.Told(s.ns, "calls")
		return n == 0 && told.Idle > 2 && told.Active == 0, errors.Join(err, told.Err)
	})

	s.fromZero(keda)
	s.several()
	s.back()
	s.noneDropped()
	if r := s.callers.Report(); r.Unanswered > 0 {
		t.Errorf("%d callers were not answered", r.Unanswered)
	}
	if told := keda.Told(s.ns, "calls"); told.Failed > 0 {
		t.Errorf("KEDA got %d errors, the last of them %v", told.Failed, told.Err)
	}
	s.eventually(soon, "the blind workload has the replicas of its fallback", func() (bool, error) {
		n, err := s.replicasOf(blind)
		if err == nil && n < 1 {
			t.Fatal("unknown counted as zero")
		}
		return n == 2, err
	})
	if told := keda.Told(s.ns, blind); told.Idle > 0 || status.Code(told.Err) != codes.Unavailable {
		t.Errorf("for a workload with unknown calls KEDA got %+v; want Unavailable", told)
	}
}

// blind is a workload whose LiveKit cannot be read.
const blind = "blind"

func (s *story) blind() {
	s.t.Helper()
	d := lab.Agent(s.ns, 1)
	d.Name = blind
	d.Spec.Template = s.template()
	d.Spec.Template.Labels = map[string]string{"app": blind, call.GuardedLabel: "true", fleet.UnplayedLabel: "true"}
	d.Spec.Selector.MatchLabels = map[string]string{"app": blind}
	d.Spec.Template.Annotations = map[string]string{call.SecretAnnotation: "missing"}
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(s.t.Context(), d, metav1.CreateOptions{})
	s.must(err)
}

// ring dials n calls that wait for an agent as long as one takes to start.
func (s *story) ring(n int) (answered func() []time.Duration) {
	began, first := time.Now(), len(s.calls)
	calls, errs, took := make([]*fleet.Call, n), make([]error, n), make([]time.Duration, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			calls[i], errs[i] = s.callers.Dial(s.t.Context(), fmt.Sprintf("%s-%d", s.rooms, first+i), fleet.DialOptions{AgentName: s.ns, AnswerWithin: 2 * time.Minute})
			took[i] = time.Since(began).Round(100 * time.Millisecond)
		})
	}
	return func() []time.Duration {
		s.t.Helper()
		all.Wait()
		s.must(errors.Join(errs...))
		s.calls = append(s.calls, calls...)
		return took
	}
}

// fromZero dials a first caller, who waits, and is answered as soon as an agent has started.
func (s *story) fromZero(keda *fleet.KEDA) {
	s.t.Helper()
	began := time.Now()
	answered := s.ring(1)
	s.eventually(soon, "there is to be an agent", func() (bool, error) {
		n, err := s.replicasOf(lab.AgentName)
		return n == 1, err
	})
	known := time.Since(began)
	s.eventually(soon, "the agent has started", func() (bool, error) { return s.registered() == 1, nil })
	started := time.Since(began)
	took := answered()[0]
	s.t.Logf("a first call is known after %s, its agent registered after %s, and the caller answered after %s", known.Round(100*time.Millisecond), started.Round(100*time.Millisecond), took)
	if late := took - started; late > 10*time.Second {
		s.t.Errorf("the caller was answered %s after the agent had started; want that at once", late)
	}
	if keda.Told(s.ns, "calls").Pushed == 0 {
		s.t.Error("the call was not pushed to KEDA before it asked")
	}
}

// several dials more callers than there are agents; each agent takes one.
func (s *story) several() {
	s.t.Helper()
	s.t.Logf("three more were answered after %v", s.ring(3)())
	s.eventually(inTime, "4 agents hold 4 calls", func() (bool, error) {
		n, err := s.replicasOf(lab.AgentName)
		return n == 4 && s.talking(), err
	})
}

// back hangs up: only agents whose calls are over are removed, until there is none.
func (s *story) back() {
	s.t.Helper()
	s.hangUp(s.calls[:2]...)
	s.eventually(inTime, "2 agents are left, with 2 calls", func() (bool, error) {
		n, err := s.replicasOf(lab.AgentName)
		left := s.pods(func(p *corev1.Pod) bool { return p.Labels["app"] == lab.AgentName })
		if err == nil && (n != 2 || len(left) != 2) {
			err = fmt.Errorf("%d replicas, pods %v", n, left)
		}
		return err == nil, err
	})
	if !s.talking() {
		s.t.Errorf("calls ended with the agents: %+v", s.callers.Report())
	}
	s.hangUpAll()
	over := time.Now()
	s.eventually(inTime, "no agent is left", func() (bool, error) {
		n, err := s.replicasOf(lab.AgentName)
		left := s.pods(func(p *corev1.Pod) bool { return p.Labels["app"] == lab.AgentName })
		if err == nil && (n != 0 || len(left) != 0) {
			err = fmt.Errorf("%d replicas, pods %v", n, left)
		}
		return err == nil, err
	})
	s.t.Logf("no agent was left %s after the last call", time.Since(over).Round(100*time.Millisecond))
}
