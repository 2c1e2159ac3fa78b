// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/callguard/callguard/cmd/internal/program"
	scaler "github.com/callguard/callguard/pkg/keda"
	"github.com/callguard/callguard/pkg/metricsapi"
)

// keda is what the flags say about KEDA.
type keda struct{ address, clientCAFile string }

func (k *keda) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&k.address, "keda-bind-address", k.address, "Address that serves KEDA as an external scaler, by gRPC, with the certificate of the API. Empty: KEDA is not served.")
	fs.StringVar(&k.clientCAFile, "keda-client-ca-file", k.clientCAFile, "File with the certificate authorities of KEDA's client certificate, as PEM. Clients without such a certificate get no answer. A new file is read without a restart.")
}

func (k *keda) validate(m *program.Mistakes) {
	switch {
	case k.address == "" && k.clientCAFile == "":
		return
	case k.address == "":
		m.Wrong("keda-bind-address", k.address, "host:port such as :8091, or leave --keda-client-ca-file out")
	case k.clientCAFile == "":
		m.Wrong("keda-client-ca-file", k.clientCAFile, "a file with the authority of KEDA's certificate, or leave --keda-bind-address out")
	}
	if k.address != "" {
		m.Address("keda-bind-address", k.address, "host:port such as :8091, or nothing")
	}
	m.File("keda-client-ca-file", k.clientCAFile)
}

// run answers KEDA until ctx is done, with a certificate that somebody else keeps.
func (k *keda) run(ctx context.Context, metrics *metricsapi.Provider, synced func() bool, certificate dynamiccertificates.CertKeyContentProvider, registry prometheus.Registerer) error {
	clients, err := dynamiccertificates.NewDynamicCAContentFromFile("keda-client-ca", k.clientCAFile)
	if err != nil {
		return fmt.Errorf("cannot read the authority of KEDA's certificate: %w; correct --keda-client-ca-file", err)
	}
	server, err := scaler.New(scaler.Config{Metrics: metrics, Synced: synced, Certificate: certificate, Clients: clients, Registry: registry})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", k.address)
	if err != nil {
		return fmt.Errorf("cannot listen for KEDA: %w; choose another --keda-bind-address", err)
	}
	go clients.Run(ctx, 1)
	return server.Serve(ctx, listener)
}
