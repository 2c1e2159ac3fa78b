// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/claim"
	"github.com/callguard/callguard/pkg/delegate"
	"github.com/callguard/callguard/pkg/events"
	"github.com/callguard/callguard/pkg/metricsapi"
	"github.com/callguard/callguard/pkg/servingcert"
)

const (
	httpsPort = 443
	// maxBeside is the maximum of --compose-concurrency: the rest of maxInFlight is for
	// callguard's own metrics.
	maxBeside = maxInFlight / 2
)

// compose has the settings for passing requests for other metrics on to another adapter.
type compose struct {
	service     string
	address     string
	caFile      string
	insecure    bool
	servingCA   string
	timeout     time.Duration
	concurrency int
}

func newCompose() compose { return compose{timeout: 10 * time.Second, concurrency: maxBeside} }

func (c *compose) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.service, "compose-service", c.service, "namespace/name[:port] of the Service of another adapter for custom metrics. The APIServices are taken over from it, and requests for metrics that are not callguard's are forwarded to it. Empty: there is no other adapter.")
	fs.StringVar(&c.address, "compose-address", c.address, "host:port of the other adapter, if it is not at NAME.NAMESPACE.svc.")
	fs.StringVar(&c.caFile, "compose-ca-file", c.caFile, "File with the certificate authorities of the other adapter, as PEM.")
	fs.BoolVar(&c.insecure, "compose-insecure", c.insecure, "Do not verify the certificate of the other adapter. Whoever can answer in its place receives this program's token and can report any value for its metrics.")
	fs.StringVar(&c.servingCA, "compose-serving-ca-file", c.servingCA, "File with the certificate authority that signed --tls-cert-file, to be written into the APIServices.")
	fs.DurationVar(&c.timeout, "compose-timeout", c.timeout, "Time limit of a request to the other adapter.")
	fs.IntVar(&c.concurrency, "compose-concurrency", c.concurrency, "Maximum number of concurrent requests to the other adapter; further ones are refused.")
}

func (c *compose) validate(m *program.Mistakes, selfMade bool) {
	if c.service == "" {
		if c.address != "" || c.caFile != "" || c.insecure || c.servingCA != "" {
			m.Wrong("compose-service", c.service, "namespace/name such as monitoring/prometheus-adapter, or no other --compose-… flag")
		}
		return
	}
	if _, _, err := service(c.service); err != nil {
		m.Wrong("compose-service", c.service, "namespace/name or namespace/name:port such as monitoring/prometheus-adapter")
	}
	if c.address != "" {
		m.Address("compose-address", c.address, "host:port such as 10.0.0.7:6443, or nothing")
	}
	switch {
	case c.insecure && c.caFile != "":
		m.Wrong("compose-insecure", c.insecure, "either this or --compose-ca-file")
	case !c.insecure && c.caFile == "":
		m.Wrong("compose-ca-file", c.caFile, "a file with the authority of that adapter, or --compose-insecure")
	default:
		m.File("compose-ca-file", c.caFile)
	}
	if !selfMade && c.servingCA == "" {
		m.Wrong("compose-serving-ca-file", c.servingCA, "the file with the authority that signed --tls-cert-file")
	}
	m.File("compose-serving-ca-file", c.servingCA)
	m.AtLeast("compose-timeout", c.timeout, 100*time.Millisecond)
	if c.concurrency < 1 || c.concurrency > maxBeside {
		m.Wrong("compose-concurrency", c.concurrency, fmt.Sprintf("1 to %d", maxBeside))
	}
}

// service reads namespace/name[:port].
func service(text string) (name types.NamespacedName, port int32, err error) {
	namespace, rest, _ := strings.Cut(text, "/")
	bare, number, given := strings.Cut(rest, ":")
	port = httpsPort
	if given {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return name, 0, fmt.Errorf("%q is no port", number)
		}
		port = int32(n)
	}
	if namespace == "" || bare == "" || strings.Contains(bare, "/") {
		return name, 0, fmt.Errorf("%q is not namespace/name", text)
	}
	return types.NamespacedName{Namespace: namespace, Name: bare}, port, nil
}

// beside has the other adapter, and the claim on its APIServices.
type beside struct {
	delegate *delegate.Delegate
	theirs   types.NamespacedName
}

// beside returns nil if there is no other adapter.
func (o *Options) beside(config *rest.Config, registry prometheus.Registerer, log *slog.Logger) (*beside, error) {
	c := o.compose
	if c.service == "" {
		return nil, nil
	}
	theirs, port, err := service(c.service)
	if err != nil {
		return nil, err
	}
	host := theirs.Name + "." + theirs.Namespace + ".svc"
	trust := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: c.insecure} //nolint:gosec // only where --compose-insecure says so
	if !c.insecure {
		text, err := program.ReadFile("compose-ca-file", c.caFile)
		if err != nil {
			return nil, err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--compose-ca-file: %s holds no certificate; give it the authority that signed the certificate of %s, as PEM", c.caFile, theirs)
		}
	}
	if config.BearerToken == "" && config.BearerTokenFile == "" {
		return nil, fmt.Errorf("there is no token to show to %s: the kubeconfig has none; use one of a service account", theirs)
	}
	address := c.address
	if address == "" {
		address = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	d, err := delegate.New(delegate.Config{
		Service: theirs.String(), Address: address, TLS: trust,
		Authenticate: func(base http.RoundTripper) (http.RoundTripper, error) {
			return rest.HTTPWrappersForConfig(&rest.Config{BearerToken: config.BearerToken, BearerTokenFile: config.BearerTokenFile}, base)
		},
		Timeout: c.timeout, Concurrency: c.concurrency, Registry: registry, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return &beside{d, theirs}, nil
}

// others returns the metrics of the other adapter, if there is one.
func (b *beside) others() metricsapi.Others {
	if b == nil {
		return metricsapi.NoOthers
	}
	return b.delegate.Resources
}

// handlers makes a server pass on requests for other metrics, after its own authentication
// and authorization.
func (b *beside) handlers(config *genericapiserver.Config) {
	if b == nil {
		return
	}
	config.BuildHandlerChainFunc = func(own http.Handler, c *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(b.delegate.Handler(own, metricsapi.Serves), c)
	}
}

// run reads the other adapter's metrics and keeps the APIServices for callguard until ctx
// is done.
func (b *beside) run(ctx context.Context, o *Options, config *rest.Config, client kubernetes.Interface, keeper *servingcert.Keeper, synced func() bool, registry prometheus.Registerer, log *slog.Logger) error {
	services, err := apiregistration.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a Kubernetes client: %w", err)
	}
	ours, port, err := service(o.service)
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events(ours.Namespace)})
	cfg := claim.Config{
		APIServices: services.APIServices(),
		Ours:        apiregistrationv1.ServiceReference{Namespace: ours.Namespace, Name: ours.Name, Port: &port},
		Theirs:      b.theirs,
		Ready: func() error {
			if !synced() {
				return errors.New("the guarded pods are still being read")
			}
			return nil
		},
		Answers: b.delegate.Answers, Taken: func() {},
		CA:       func() ([]byte, error) { return program.ReadFile("compose-serving-ca-file", o.compose.servingCA) },
		KeepCA:   keeper == nil,
		Recorder: events.Plain(broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "callguard-" + call.AdapterName})),
		Registry: registry, Log: log,
	}
	if keeper != nil {
		cfg.CA = func() ([]byte, error) { return keeper.Authority(), nil }
		cfg.Taken = keeper.Kick
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.delegate.Run(ctx) })
	g.Go(func() error { return claim.New(cfg).Run(ctx) })
	return g.Wait()
}
