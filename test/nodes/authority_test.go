// SPDX-License-Identifier: Apache-2.0

package nodes

import (
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
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/realtime"
	"github.com/callguard/callguard/test/trial"
)

const privateNamespace = "private"

// privateAuthority lets a release and the add-on reach all TLS servers with certificates of a private authority: LiveKit
// (adapter, guard, gate), OpenAI (probe, agent), and the API server, whose authority is the cluster's own. The Secret has the
// form of LiveKit's documentation. A call is answered and counted, the probe and the agent get an answer, and a rollout replaces
// the pod when the call is over.
func privateAuthority(t *testing.T, p *phones) {
	const (
		namespace, release = privateNamespace, "standard"
		deployment         = release + "-voice-agent-agent"
		name, room         = "private", "call-private"
	)
	authority := newAuthority(t)
	address := authority.serve(t, p)
	for _, ns := range []string{namespace, addonNamespace} {
		if ns == namespace {
			kubectl(t, "create", "namespace", ns)
			kubectl(t, "label", "namespace", ns, call.EnabledLabel+"=true")
		}
		kubectl(t, "create", "configmap", "authority", "-n", ns, "--from-file=ca.crt="+authority.file)
	}
	// It has a private address, which is no Service of the team's: an administrator allows it.
	host, _, err := net.SplitHostPort(address)
	trial.Must(t, err)
	helm(t, "upgrade", addon, "charts/callguard", "-n", addonNamespace, "--reuse-values", "--set", "ca.configMap=authority",
		"--set", "livekit.allowCIDRs={"+host+"/32}", "--wait", "--timeout", "3m")

	kubectl(t, "create", "secret", "generic", "voice-secrets", "-n", namespace, "--from-literal=openai=sk-of-nobody")
	kubectl(t, "create", "secret", "generic", "livekit", "-n", namespace, "--from-literal=LIVEKIT_URL=wss://"+address,
		"--from-literal=LIVEKIT_API_KEY="+p.key, "--from-literal=LIVEKIT_API_SECRET="+p.secret)
	helm(t, append([]string{
		"install", release, "charts/voice-agent", "-n", namespace, "--set", "ca.configMap=authority",
		"--set", "livekit.existingSecret=livekit", "--set", "openai.baseUrl=https://" + address + "/v1", "--set", "agent.extraEnv.AGENT_NAME=" + name,
	}, oneAgent()...)...)
	agents := pods(t, namespace, "app.kubernetes.io/component=agent")
	if len(agents) != 1 {
		t.Fatalf("%d agents; want one", len(agents))
	}
	pod := agents[0]
	eventually(t, time.Minute, "realtime-probe has an answer of the stand-in for OpenAI", func() error {
		status, class, err := probed(pod.Status.PodIP)
		if err == nil && (status != http.StatusOK || class != string(realtime.OK)) {
			err = fmt.Errorf("%d, %s", status, class)
		}
		return err
	})
	said := kubectl(t, "exec", "-n", namespace, pod.Name, "-c", "agent", "--", "node", "-e",
		"fetch(process.env.OPENAI_BASE_URL + '/models').then(async (r) => console.log(await r.text()))")
	if !strings.Contains(said, model) {
		t.Errorf("an agent hears of OpenAI's stand-in:\n%s", said)
	}

	p.dial(t, room, name)
	if holders := p.holders(t); len(holders[string(pod.UID)]) != 1 {
		t.Errorf("the call is held by %v; want pod %s", holders, pod.UID)
	}
	counts := func(want string) func() error {
		return func() error {
			value, err := metric(t, "namespaces/"+namespace+"/deployments.apps/"+deployment+"/active_calls")
			if err == nil && value != want {
				err = errors.New("active_calls is " + value)
			}
			return err
		}
	}
	eventually(t, time.Minute, "the call is counted", counts("1"))
	p.hangUp(room)
	eventually(t, time.Minute, "the call is over", counts("0"))
	kubectl(t, "rollout", "restart", "deployment/"+deployment, "-n", namespace)
	eventually(t, 3*time.Minute, "drain-guard lets the pod go", func() error {
		_, err := stage.client.CoreV1().Pods(namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			return errors.New("it is there")
		default:
			return err
		}
	})
	p.noneDropped(t)
	leave(t, namespace, release)
}

// model is the model that the stand-in for OpenAI knows.
const model = "gpt-realtime-2.1"

// authority is a certificate authority that nobody trusts by default.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca.crt")}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	trial.Must(t, err)
	a.certificate = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority of one's own"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, &a.key.PublicKey, a.key)
	trial.Must(t, err)
	trial.Must(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// hostAddress is the address at which pods reach programs outside the cluster: kube-apiserver's own address.
func hostAddress(t *testing.T) string {
	t.Helper()
	slices, err := stage.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	trial.Must(t, err)
	if len(slices.Items) == 0 {
		t.Fatal("kube-apiserver has no address")
	}
	return slices.Items[0].Endpoints[0].Addresses[0]
}

// serve runs TLS servers in front of the story's LiveKit, and in place of OpenAI, until the test ends. It returns host and port,
// at which pods reach them like kube-apiserver.
func (a *authority) serve(t *testing.T, p *phones) string {
	t.Helper()
	host := hostAddress(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	trial.Must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, IPAddresses: []net.IP{net.ParseIP(host)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.certificate, &key.PublicKey, a.key)
	trial.Must(t, err)

	server, err := url.Parse(strings.Replace(p.url, "ws", "http", 1))
	trial.Must(t, err)
	mux := http.NewServeMux()
	mux.Handle("/", httputil.NewSingleHostReverseProxy(server))
	mux.HandleFunc("/v1/models", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(model)) })
	mux.HandleFunc("/v1/realtime", func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"session.created","event_id":"event_1","session":{"type":"realtime","object":"realtime.session","id":"sess_1","model":"`+model+`"}}`))
		_, _, _ = conn.ReadMessage() // the client ends it
	})
	front := httptest.NewUnstartedServer(mux)
	trial.Must(t, front.Listener.Close())
	front.Listener, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	trial.Must(t, err)
	front.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}} //nolint:gosec // a certificate of the test
	front.StartTLS()
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}
