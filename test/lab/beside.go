// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"

	"github.com/callguard/callguard/hack/cluster/local"
)

// The namespace and name of the other adapter's Service.
const (
	OtherNamespace = "monitoring"
	OtherName      = "other"
	// Impostor has a certificate for the same name, from an authority that nobody trusts.
	Impostor = "impostor"
)

// Other is another adapter for custom metrics, as a process.
type Other struct {
	*Process
	Port int
	// CA is the authority of its certificate, as PEM, and CAFile a file that contains it.
	CA     []byte
	CAFile string

	lab     *Lab
	program string
	write   int // port
	beside  int // port of the metrics-adapter in the APIServices
	metrics int
}

// StartOther starts another adapter that lists this many metrics, and creates its Service.
func (l *Lab) StartOther(ctx context.Context, metrics int) (*Other, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	o := &Other{lab: l, program: filepath.Join(l.Cluster.Dir(), "otheradapter"), metrics: metrics, CAFile: filepath.Join(l.Cluster.Dir(), OtherName+".crt")}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", o.program, "./test/e2e/otheradapter")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the other adapter: %w: %s", err, out)
	}
	ports, err := local.FreePorts(3)
	if err != nil {
		return nil, err
	}
	o.Port, o.write, o.beside = ports[0], ports[1], ports[2]
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: OtherNamespace}}
	if _, err := l.Client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("cannot make namespace %s: %w", OtherNamespace, err)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: OtherNamespace, Name: OtherName},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}
	if _, err := l.Client.CoreV1().Services(OtherNamespace).Create(ctx, service, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("cannot make Service %s: %w", OtherName, err)
	}
	for _, name := range []string{OtherName, Impostor} {
		if err := o.certificate(name); err != nil {
			return nil, err
		}
	}
	if o.CA, err = os.ReadFile(o.CAFile); err != nil {
		return nil, err
	}
	return o, o.Start(OtherName)
}

// certificate creates a certificate for its Service, with its own authority, in files with this name.
func (o *Other) certificate(name string) error {
	cert, key, err := certutil.GenerateSelfSignedCertKey(OtherName+"."+OtherNamespace+".svc", nil, nil)
	if err != nil {
		return fmt.Errorf("cannot make a certificate for the other adapter: %w", err)
	}
	for ending, text := range map[string][]byte{".crt": cert, ".key": key} {
		if err := os.WriteFile(filepath.Join(o.lab.Cluster.Dir(), name+ending), text, 0o600); err != nil {
			return fmt.Errorf("cannot write the certificate of the other adapter: %w", err)
		}
	}
	return nil
}

// Start starts it with the certificate of OtherName or of Impostor, always at the same ports. Metrics posted earlier are
// lost.
func (o *Other) Start(certificate string) error {
	kubeconfig, err := o.lab.Cluster.AdminKubeconfig()
	if err != nil {
		return err
	}
	dir := o.lab.Cluster.Dir()
	o.Process, err = startIn(nil, "other adapter", o.program, o.lab.log(OtherName, o.Port),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", o.Port),
		"--lister-kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--tls-cert-file="+filepath.Join(dir, certificate+".crt"), "--tls-private-key-file="+filepath.Join(dir, certificate+".key"),
		fmt.Sprintf("--write-address=127.0.0.1:%d", o.write), fmt.Sprintf("--metrics=%d", o.metrics))
	return err
}

// Post sets the value of a metric of an object, such as namespaces/x/deployments.apps/y.
func (o *Other) Post(ctx context.Context, object, metric string, value int) error {
	url := fmt.Sprintf("http://127.0.0.1:%d/write-metrics/%s/%s", o.write, object, metric)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(fmt.Appendf(nil, `"%d"`, value)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("cannot post a metric: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // the status is enough
		return fmt.Errorf("the other adapter answers %s: %s", resp.Status, text)
	}
	return nil
}

// StartBeside starts a metrics-adapter beside another one, with the flags that charts/callguard sets in mode compose, at
// the same port each time. It takes over the APIServices itself.
func (l *Lab) StartBeside(ctx context.Context, o *Other, args ...string) (*Adapter, error) {
	a, err := l.StartAdapter(ctx, append([]string{
		"--webhook-bind-address=", fmt.Sprintf("--secure-port=%d", o.beside), fmt.Sprintf("--service=%s/%s:%d", AdapterNamespace, AdapterName, o.beside),
		fmt.Sprintf("--compose-service=%s/%s:%d", OtherNamespace, OtherName, o.Port),
		fmt.Sprintf("--compose-address=127.0.0.1:%d", o.Port), "--compose-ca-file=" + o.CAFile,
	}, args...)...)
	if err != nil {
		return nil, err
	}
	a.Port = o.beside
	return a, nil
}

// Republish installs the stage's metrics-adapter again, restarts it and points the APIServices to it.
func (l *Lab) Republish(ctx context.Context) error {
	if err := l.Adapter.Stop(); err != nil {
		return err
	}
	if err := l.install(ctx); err != nil {
		return err
	}
	return l.RestartAdapter(ctx)
}

// RestartAdapter stops the stage's metrics-adapter if it still runs, starts it again and points the APIServices to it.
func (l *Lab) RestartAdapter(ctx context.Context) error {
	if err := l.Adapter.Stop(); err != nil {
		return err
	}
	a, err := l.StartAdapter(ctx, l.adapterArgs...)
	if err != nil {
		return err
	}
	a.Webhooks = l.Adapter.Webhooks
	l.Adapter = a
	return l.publish(ctx, a)
}

// HandBack runs `metrics-adapter hand-back --after-uninstall` as an account, and returns its output.
func (l *Lab) HandBack(ctx context.Context, account string) (string, error) {
	program, err := l.program(ctx, AdapterName)
	if err != nil {
		return "", err
	}
	kubeconfig, err := l.Cluster.ServiceAccountKubeconfig(ctx, AdapterNamespace, account)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, program, "hand-back", "--after-uninstall", "--kubeconfig="+kubeconfig,
		"--service="+AdapterNamespace+"/"+AdapterName, "--compose-service="+OtherNamespace+"/"+OtherName).CombinedOutput()
	return string(out), err
}
