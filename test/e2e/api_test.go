// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// TestDiscovery discovers the metrics as people do.
func TestDiscovery(t *testing.T) {
	out, err := stage.Kubectl(t.Context(), "api-resources", "--api-group=custom.metrics.k8s.io", "--no-headers")
	trial.Must(t, err)
	for _, resource := range []string{"pods", "deployments.apps", "statefulsets.apps", "replicasets.apps", "namespaces", "nodes"} {
		if !strings.Contains("\n"+out, "\n"+resource+" ") {
			t.Errorf("kubectl api-resources does not show %s:\n%s", resource, out)
		}
	}
	// The new resources must not hide the names of the old ones.
	for _, resource := range []string{"pods", "nodes", "deployments.apps", "namespaces"} {
		out, err := stage.Kubectl(t.Context(), "get", resource, "-A", "-o", "name")
		trial.Must(t, err)
		if strings.Contains(out, "custom.metrics") {
			t.Errorf("kubectl get %s asks custom.metrics.k8s.io:\n%s", resource, out)
		}
	}
	for _, version := range []string{"v1beta1", "v1beta2"} {
		raw, err := stage.Client.Discovery().RESTClient().Get().AbsPath("/apis/custom.metrics.k8s.io/" + version).DoRaw(t.Context())
		trial.Must(t, err)
		var list metav1.APIResourceList
		trial.Must(t, json.Unmarshal(raw, &list))
		var names []string
		for _, r := range list.APIResources {
			names = append(names, r.Name)
		}
		for _, want := range []string{"pods/active_calls", "deployments.apps/busy_pods", "statefulsets.apps/draining_pods", "nodes/active_calls"} {
			if !slices.Contains(names, want) {
				t.Errorf("%s lists %v, without %s", version, names, want)
			}
		}
	}
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/custom.metrics.k8s.io/v1beta2"} {
		eventually(t, time.Minute, path+" knows custom.metrics.k8s.io", func() (bool, error) {
			raw, err := stage.Client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
			return bytes.Contains(raw, []byte("custom.metrics.k8s.io")), err
		})
	}
}

// TestVersions reads the same value in both versions of the API.
func TestVersions(t *testing.T) {
	ns := namespace(t, "versions")
	pod := lonePod(t, ns)
	joinAll(t, 0, agentsIn(pod, 2))
	client := metricsClient(t, stage.Config)
	eventually(t, 20*time.Second, "2 calls are counted", func() (bool, error) {
		n, err := valueOf(client, pod)
		return n == 2, err
	})
	get := func(version string, into any) {
		t.Helper()
		raw, err := stage.Client.Discovery().RESTClient().Get().
			AbsPath("/apis/custom.metrics.k8s.io/"+version+"/namespaces/"+ns+"/pods/*/active_calls").
			Param("labelSelector", "app="+lab.AgentName).Param("metricLabelSelector", "state=serving").DoRaw(t.Context())
		trial.Must(t, err)
		trial.Must(t, json.Unmarshal(raw, into))
	}
	var one v1beta1.MetricValueList
	get("v1beta1", &one)
	var two v1beta2.MetricValueList
	get("v1beta2", &two)
	if len(one.Items) != 1 || one.Items[0].MetricName != "active_calls" || one.Items[0].Value.Value() != 2 || one.Items[0].Selector == nil {
		t.Errorf("v1beta1 says %+v", one.Items)
	}
	if len(two.Items) != 1 || two.Items[0].Metric.Name != "active_calls" || two.Items[0].Value.Value() != 2 || two.Items[0].Metric.Selector == nil {
		t.Errorf("v1beta2 says %+v", two.Items)
	}
}

// TestErrors asks for metrics that do not exist.
func TestErrors(t *testing.T) {
	ns := namespace(t, "errors")
	lonePod(t, ns)
	base := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + ns
	cases := map[string]struct {
		path, query string
		status      int32
		message     string
	}{
		"UnknownMetric":      {base + "/pods/*/calls", "", 404, "could not find the metric calls for pods"},
		"UnknownResource":    {base + "/services/x/active_calls", "", 404, "services"},
		"UnknownObject":      {base + "/deployments.apps/x/active_calls", "", 404, `deployments.apps "x" not found`},
		"BadSelector":        {base + "/pods/*/active_calls", "labelSelector=a%3D%3D%3Db", 400, "unable to parse requirement"},
		"BadMetricSelector":  {base + "/pods/*/active_calls", "metricLabelSelector=room%3Dx", 400, `label "room"`},
		"WrongMetricForKind": {base + "/pods/lone/busy_pods", "", 404, "busy_pods"},
		"NamespaceNotOurs":   {"/apis/custom.metrics.k8s.io/v1beta2/namespaces/kube-system/metrics/active_calls", "", 404, "label it callguard.dev/enabled=true"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := stage.Client.Discovery().RESTClient().Get().RequestURI(tc.path + "?" + tc.query).Do(t.Context()).Error()
			status := apierrors.APIStatus(nil)
			if s, ok := err.(apierrors.APIStatus); ok { // client-go returns it unwrapped
				status = s
			}
			if status == nil || status.Status().Code != tc.status || !strings.Contains(err.Error(), tc.message) {
				t.Errorf("got %v, want status %d with %q", err, tc.status, tc.message)
			}
		})
	}
}

// TestWhoMayAsk asks as several users.
func TestWhoMayAsk(t *testing.T) {
	ns := namespace(t, "who")
	path := "/apis/custom.metrics.k8s.io/v1beta2/namespaces/" + ns + "/pods/*/active_calls"
	ask := func(config *rest.Config) error {
		client, err := kubernetes.NewForConfig(config)
		trial.Must(t, err)
		return client.Discovery().RESTClient().Get().AbsPath(path).Do(t.Context()).Error()
	}
	stranger, err := stage.Cluster.RESTConfig("stranger")
	trial.Must(t, err)
	hpa, err := stage.Cluster.RESTConfig("system:serviceaccount:kube-system:horizontal-pod-autoscaler", "system:serviceaccounts")
	trial.Must(t, err)
	if err := ask(stranger); !apierrors.IsForbidden(err) {
		t.Errorf("a stranger got %v, want 403", err)
	}
	if err := ask(hpa); err != nil {
		t.Errorf("the autoscaler's controller got %v", err)
	}
	direct, err := stage.Direct(t.Context(), stage.Adapter)
	trial.Must(t, err)
	if err := ask(direct); err != nil {
		t.Errorf("an administrator who asks the adapter itself got %v", err)
	}
	anonymous := rest.AnonymousClientConfig(direct)
	if err := ask(anonymous); !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		t.Errorf("an anonymous user got %v, want 401 or 403", err)
	}
}

// TestAutoscalerIsOneQuestion reads 200 objects as the autoscaler's controller: the adapter
// asks Kubernetes about it once, and perhaps once more about the controller itself.
func TestAutoscalerIsOneQuestion(t *testing.T) {
	config, err := stage.Cluster.RESTConfig("system:serviceaccount:kube-system:horizontal-pod-autoscaler", "system:serviceaccounts", t.Name())
	trial.Must(t, err)
	client, err := kubernetes.NewForConfig(config)
	trial.Must(t, err)
	questions := func() (n int) {
		found := regexp.MustCompile(`apiserver_delegated_authz_request_total\{code="201"\} (\d+)`).FindStringSubmatch(adapterMetrics(t))
		if found == nil {
			return 0
		}
		n, err := strconv.Atoi(found[1])
		trial.Must(t, err)
		return n
	}
	before := questions()
	for i := range 200 {
		path := fmt.Sprintf("/apis/custom.metrics.k8s.io/v1beta2/namespaces/none-%d/deployments.apps/agent-%d/active_calls", i%10, i)
		if err := client.Discovery().RESTClient().Get().AbsPath(path).Do(t.Context()).Error(); !apierrors.IsNotFound(err) {
			t.Fatalf("%s: %v, want 404", path, err)
		}
	}
	if asked := questions() - before; asked < 1 || asked > 2 {
		t.Errorf("for 200 reads %d SubjectAccessReviews were made, want 1", asked)
	}
}

// TestWebhooksRefused sends the running adapter what LiveKit would not send. The cases are
// in pkg/witness/rooms; this tests the whole path.
func TestWebhooksRefused(t *testing.T) {
	post := func(path, authorization, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, stage.Adapter.Webhooks+path, strings.NewReader(body))
		trial.Must(t, err)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := http.DefaultClient.Do(req)
		trial.Must(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		trial.Must(t, err)
		return resp.StatusCode
	}
	for _, tc := range []struct{ want, got int }{
		{http.StatusUnauthorized, post("", "", "{}")},
		{http.StatusUnauthorized, post("", "x", strings.Repeat("x", 1<<20))}, // the body is not read
		{http.StatusNotFound, post("/one/two/three", "x", "{}")},
	} {
		if tc.got != tc.want {
			t.Errorf("got status %d, want %d", tc.got, tc.want)
		}
	}
	page := adapterMetrics(t)
	for _, want := range []string{`callguard_webhook_events_total{outcome="unsigned"}`, `callguard_webhook_events_total{outcome="forged"}`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics do not count %s", want)
		}
	}
}

// TestSelfMetrics checks that each documented metric exists.
func TestSelfMetrics(t *testing.T) {
	page := adapterMetrics(t)
	for _, name := range []string{
		`callguard_pods{known="busy"}`, `callguard_readings{outcome="known",witness="rooms"}`, `callguard_readings{outcome="unknown",witness="worker"}`,
		`callguard_reading_oldest_age_seconds{witness="rooms"}`, `callguard_unattributed_agents{project="default"}`,
		`callguard_livekit_requests_total{method="ListRooms",outcome="ok",project="default"}`, `callguard_livekit_request_duration_seconds_bucket{method="ListParticipants"`,
		`callguard_livekit_last_sweep_timestamp_seconds{project="default"}`, `callguard_serving_certificate_expiry_timestamp_seconds`,
		`metrics_apiserver_metric_freshness_seconds_count{group="custom.metrics.k8s.io"}`, `apiserver_request_total{`,
	} {
		if !strings.Contains(page, name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

func adapterMetrics(t *testing.T) string {
	t.Helper()
	return adapterPath(t, stage.Adapter, "/metrics")
}

func adapterPath(t *testing.T, a *lab.Adapter, path string) string {
	t.Helper()
	config, err := stage.Direct(t.Context(), a)
	trial.Must(t, err)
	client, err := kubernetes.NewForConfig(config)
	trial.Must(t, err)
	raw, err := client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
	text := string(raw)
	if err != nil {
		text = err.Error()
	}
	stage.Hear("the adapter's "+path, text)
	return text
}

// TestCertificateRotation runs an adapter whose certificates live for a minute, and keeps
// asking it, trusting only the caBundle, until it has changed its certificate. No request
// may fail.
func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	brief := adapter(t, "--certificate-lifetime=1m")
	serials := map[string]bool{}
	requests := 0
	eventually(t, 2*time.Minute, "it has changed its certificate twice", func() (bool, error) {
		serial, err := handshake(t.Context(), brief)
		trial.Must(t, err)
		serials[serial] = true
		requests++
		return len(serials) == 3, nil
	})
	t.Logf("%d handshakes over %d certificates, none failed", requests, len(serials))
}

// TestCertificateFromFiles serves a certificate from files, and a new one once the files
// have changed, without a restart.
func TestCertificateFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	issue := func() []byte {
		certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
		trial.Must(t, err)
		trial.Must(t, os.WriteFile(certFile+".new", certPEM, 0o600))
		trial.Must(t, os.WriteFile(keyFile, keyPEM, 0o600))
		trial.Must(t, os.Rename(certFile+".new", certFile))
		return certPEM
	}
	first := issue()
	a, err := stage.StartAdapter(t.Context(), "--webhook-bind-address=", "--tls-cert-file="+certFile, "--tls-private-key-file="+keyFile)
	trial.Must(t, err)
	t.Cleanup(func() { stop(t, a) })
	serves := func(pem []byte) func() (bool, error) {
		return func() (bool, error) {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(pem)
			conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}}).
				DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", a.Port))
			if err != nil {
				return false, err
			}
			return true, conn.Close()
		}
	}
	eventually(t, 30*time.Second, "it serves the first certificate", serves(first))
	eventually(t, 90*time.Second, "it serves the second certificate", serves(issue()))
}

// adapter starts a second metrics-adapter, without webhooks, and waits until it is ready.
func adapter(t *testing.T, args ...string) *lab.Adapter {
	t.Helper()
	a, err := stage.StartAdapter(t.Context(), append([]string{"--webhook-bind-address="}, args...)...)
	trial.Must(t, err)
	t.Cleanup(func() { stop(t, a) })
	eventually(t, 30*time.Second, "the adapter is ready", func() (bool, error) {
		if out := adapterPath(t, a, "/readyz"); out != "ok" {
			return false, fmt.Errorf("/readyz says %s", out)
		}
		return true, nil
	})
	return a
}

func stop(t *testing.T, a *lab.Adapter) {
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
}

// handshake connects to an adapter as kube-apiserver does, trusting the current caBundle,
// and returns the serial number of the certificate.
func handshake(ctx context.Context, a *lab.Adapter) (string, error) {
	config, err := stage.Direct(ctx, a)
	if err != nil {
		return "", err
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/livez", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return resp.TLS.PeerCertificates[0].SerialNumber.String(), nil
}

// TestNoLiveKit starts an adapter whose key is missing and for whose LiveKit there is no
// Secret: it serves, is ready, gives the reason in each answer, and continues when the key
// arrives.
func TestNoLiveKit(t *testing.T) {
	t.Parallel()
	ns := namespace(t, "no-livekit")
	pod := lonePod(t, ns)
	dir := t.TempDir()
	key, secret := filepath.Join(dir, "api-key"), filepath.Join(dir, "api-secret")
	start := func(url string) *lab.Adapter {
		return adapter(t, "--livekit-url="+url, "--livekit-api-key-file="+key, "--livekit-api-secret-file="+secret)
	}
	says := func(a *lab.Adapter, want string) {
		t.Helper()
		config, err := stage.Direct(t.Context(), a)
		trial.Must(t, err)
		client := metricsClient(t, config)
		eventually(t, 30*time.Second, "the answer says: "+want, func() (bool, error) {
			n, err := valueOf(client, pod)
			if want == "" {
				return err == nil && n == 0, err
			}
			if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), want) {
				return false, errors.Join(fmt.Errorf("the answer is %d", n), err)
			}
			return true, nil
		})
	}
	a := start(stage.LiveKits[0].URL)
	says(a, "api-key: no such file or directory")
	trial.Must(t, os.WriteFile(key, []byte(stage.LiveKits[0].APIKey+"\n"), 0o600))
	trial.Must(t, os.WriteFile(secret, []byte("not the secret\n"), 0o600))
	says(a, "LiveKit refuses API key")
	trial.Must(t, os.WriteFile(secret, []byte(stage.LiveKits[0].APISecret+"\n"), 0o600))
	says(a, "")

	nobody := start("http://127.0.0.1:9")
	says(nobody, "connection refused")
}

// TestManifests checks the manifests that the other tests do not run: kube-apiserver has to
// accept them.
func TestManifests(t *testing.T) {
	out, err := stage.Kubectl(t.Context(), "apply", "--server-side", "--dry-run=server", "-f", "../../manifests/metrics-adapter-deployment.yaml")
	trial.Must(t, err)
	for _, want := range []string{"deployment.apps/metrics-adapter", "poddisruptionbudget.policy/metrics-adapter", "service/metrics-adapter-peers"} {
		if !strings.Contains(out, want+" serverside-applied") {
			t.Errorf("kube-apiserver does not accept %s:\n%s", want, out)
		}
	}
}
