// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/callguard/callguard/hack/cluster/local"
)

// Where the metrics-adapter's manifests put it.
const (
	AdapterNamespace = "callguard-system"
	AdapterName      = "metrics-adapter"
)

// APIServices are the names of the custom metrics API in its two versions.
func APIServices() []string {
	return []string{"v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"}
}

// Adapter is a running metrics-adapter process.
type Adapter struct {
	Port     int
	PID      int
	Log      string // file
	Webhooks string // URL

	process *exec.Cmd
	ended   chan error
}

// install applies the manifests. The adapter runs outside the cluster, so its
// Service is another name of this machine.
func (l *Lab) install(ctx context.Context) error {
	root, err := repository()
	if err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, "apply", "--server-side", "-f", filepath.Join(root, "manifests", "metrics-adapter.yaml")); err != nil {
		return err
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: AdapterNamespace, Name: AdapterName},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}
	_, err = l.Client.CoreV1().Services(AdapterNamespace).Create(ctx, service, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot make Service %s: %w", AdapterName, err)
	}
	return nil
}

// StartAdapter starts a metrics-adapter that serves the first LiveKit as the
// default project. It is not in the APIServices; Lab.Adapter is.
func (l *Lab) StartAdapter(ctx context.Context, args ...string) (*Adapter, error) {
	program, err := l.build(ctx)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := l.Cluster.ServiceAccountKubeconfig(ctx, AdapterNamespace, AdapterName)
	if err != nil {
		return nil, err
	}
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, err
	}
	key, secret := filepath.Join(l.Cluster.Dir(), "api-key"), filepath.Join(l.Cluster.Dir(), "api-secret")
	err = errors.Join(os.WriteFile(key, []byte(l.LiveKits[0].APIKey), 0o600), os.WriteFile(secret, []byte(l.LiveKits[0].APISecret), 0o600))
	if err != nil {
		return nil, fmt.Errorf("cannot write LiveKit's key: %w", err)
	}
	a := &Adapter{
		Port: ports[0], Log: filepath.Join(l.Cluster.Dir(), "logs", fmt.Sprintf("metrics-adapter-%d.log", ports[0])),
		ended: make(chan error, 1),
	}
	log, err := os.Create(a.Log)
	if err != nil {
		return nil, fmt.Errorf("cannot write the metrics-adapter's log: %w", err)
	}
	defer func() { _ = log.Close() }()                 // the process has its own
	a.process = exec.Command(program, append([]string{ //nolint:noctx // it outlives ctx; Stop ends it
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", a.Port),
		"--lister-kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--livekit-url=" + l.LiveKits[0].URL, "--livekit-api-key-file=" + key, "--livekit-api-secret-file=" + secret,
	}, args...)...)
	a.process.Stdout, a.process.Stderr = log, log
	a.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.process.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the metrics-adapter: %w", err)
	}
	a.PID = a.process.Process.Pid
	go func() { a.ended <- a.process.Wait() }()
	return a, nil
}

// Stop ends the process and waits for it.
func (a *Adapter) Stop() error {
	if err := a.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop the metrics-adapter: %w", err)
	}
	select {
	case err := <-a.ended:
		a.ended <- err
		return err
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the metrics-adapter did not stop within 20 s"), a.process.Process.Kill())
	}
}

// publish leads the APIServices to an adapter and waits until both are available.
func (l *Lab) publish(ctx context.Context, a *Adapter) error {
	client, err := aggregator.NewForConfig(l.Config)
	if err != nil {
		return err
	}
	patch := fmt.Appendf(nil, `{"spec":{"service":{"port":%d}}}`, a.Port)
	for _, name := range APIServices() {
		if _, err := client.ApiregistrationV1().APIServices().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot lead APIService %s to port %d: %w", name, a.Port, err)
		}
	}
	for _, name := range APIServices() {
		err := Eventually(ctx, 60*time.Second, name+" is available", func() (bool, error) {
			select {
			case err := <-a.ended:
				a.ended <- err
				return false, fmt.Errorf("the metrics-adapter has ended: %w; see %s", err, a.Log)
			default:
			}
			service, err := client.ApiregistrationV1().APIServices().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			for _, c := range service.Status.Conditions {
				if c.Type == apiregistrationv1.Available && c.Status != apiregistrationv1.ConditionTrue {
					return false, errors.New(c.Message)
				}
				if c.Type == apiregistrationv1.Available {
					return true, nil
				}
			}
			return false, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Direct is how an administrator asks an adapter without kube-apiserver between.
func (l *Lab) Direct(ctx context.Context, a *Adapter) (*rest.Config, error) {
	client, err := aggregator.NewForConfig(l.Config)
	if err != nil {
		return nil, err
	}
	service, err := client.ApiregistrationV1().APIServices().Get(ctx, APIServices()[0], metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(l.Config)
	config.Host = fmt.Sprintf("https://127.0.0.1:%d", a.Port)
	config.TLSClientConfig = rest.TLSClientConfig{
		CAData: service.Spec.CABundle, ServerName: AdapterName + "." + AdapterNamespace + ".svc",
		CertData: l.Config.CertData, CertFile: l.Config.CertFile, KeyData: l.Config.KeyData, KeyFile: l.Config.KeyFile,
	}
	return config, nil
}

// build compiles the metrics-adapter from this checkout.
func (l *Lab) build(ctx context.Context) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	program := filepath.Join(l.Cluster.Dir(), "metrics-adapter")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/metrics-adapter")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the metrics-adapter: %w: %s", err, out)
	}
	return program, nil
}

// repository is the root of this checkout.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module github.com/callguard/callguard\n")) {
			return dir, nil
		}
	}
	return "", errors.New("this is no checkout of github.com/callguard/callguard; run it from inside one")
}
