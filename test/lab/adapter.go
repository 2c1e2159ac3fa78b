// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// The namespace and name in the metrics-adapter's manifests.
const (
	AdapterNamespace = "callguard-system"
	AdapterName      = "metrics-adapter"
)

// APIServices returns the names of both versions of the custom metrics API.
func APIServices() []string {
	return []string{"v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"}
}

// Adapter is a running metrics-adapter process.
type Adapter struct {
	*Process
	Port     int
	Webhooks string // URL
}

// install applies the manifests. The adapter runs outside the cluster, so its Service is
// an alias of this machine.
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

// loopback is the network of the stage's LiveKits, including those of tenants.
const loopback = "127.0.0.0/8"

// StartAdapter starts a metrics-adapter that serves the first LiveKit as the default
// project. The APIServices do not point to it; they point to Lab.Adapter.
func (l *Lab) StartAdapter(ctx context.Context, args ...string) (*Adapter, error) {
	program, err := l.program(ctx, AdapterName)
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
	key, secret, err := l.keyFiles()
	if err != nil {
		return nil, err
	}
	liveKit, err := l.adapterLiveKit()
	if err != nil {
		return nil, err
	}
	a := &Adapter{Port: ports[0]}
	a.Process, err = l.start(environment(l.clock), AdapterName, program, l.log(AdapterName, a.Port), a.Port, append([]string{
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", a.Port),
		"--lister-kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--livekit-url=" + liveKit, "--livekit-api-key-file=" + key, "--livekit-api-secret-file=" + secret,
		"--livekit-allow-cidr=" + loopback,
	}, args...)...)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// publish points the APIServices to an adapter and waits until both are available.
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
			if err := a.Alive(); err != nil {
				return false, err
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

// Direct returns a client with which an administrator asks an adapter without going
// through kube-apiserver.
func (l *Lab) Direct(ctx context.Context, a *Adapter) (*rest.Config, error) {
	client, err := aggregator.NewForConfig(l.Config)
	if err != nil {
		return nil, err
	}
	var bundle []byte
	for _, name := range APIServices() { // the first may belong to another adapter
		service, err := client.ApiregistrationV1().APIServices().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if service.Spec.Service != nil && service.Spec.Service.Name == AdapterName {
			bundle = service.Spec.CABundle
		}
	}
	config := rest.CopyConfig(l.Config)
	config.Host = fmt.Sprintf("https://127.0.0.1:%d", a.Port)
	config.TLSClientConfig = rest.TLSClientConfig{
		CAData: bundle, ServerName: AdapterName + "." + AdapterNamespace + ".svc",
		CertData: l.Config.CertData, CertFile: l.Config.CertFile, KeyData: l.Config.KeyData, KeyFile: l.Config.KeyFile,
	}
	return config, nil
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

// AdapterMetrics reads an adapter's own metrics as an administrator.
func (l *Lab) AdapterMetrics(ctx context.Context, a *Adapter) (Metrics, error) {
	config, err := l.Direct(ctx, a)
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	text, err := read(ctx, client, config.Host+"/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(text)
}
