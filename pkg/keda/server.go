// SPDX-License-Identifier: Apache-2.0

package keda

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
)

const (
	// lookEvery is how soon a stream tells of a call: a call waits for 3 s before it counts.
	lookEvery = time.Second
	// maxStreams is more ScaledObjects than KEDA itself serves in time.
	maxStreams = 512
	// maxConnections is more than KEDA needs, which has one for each way to connect.
	maxConnections = 64
	// maxMessage is more than the metadata of a trigger.
	maxMessage = 64 << 10
	// handshakeTime is how long who has no certificate may hold a connection.
	handshakeTime = 5 * time.Second
	// patience is how long a server that ends waits for its answers.
	patience = 3 * time.Second
)

// Config is what a Server needs.
type Config struct {
	Metrics Metrics
	// Synced reports whether all guarded pods are known.
	Synced func() bool
	// Certificate is what the server shows.
	Certificate dynamiccertificates.CertKeyContentProvider
	// Clients are the authorities whose certificates KEDA may show.
	Clients  dynamiccertificates.CAContentProvider
	Registry prometheus.Registerer
}

// Server is an external scaler of KEDA's.
type Server struct {
	cfg     Config
	answers *prometheus.CounterVec
}

// New returns a Server that does not listen yet.
func New(cfg Config) (*Server, error) {
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "callguard", Name: "keda_answers_total",
		Help: "Answers to KEDA, by method and gRPC code. Unavailable: a number of calls was unknown.",
	}, []string{"method", "code"})
	if err := cfg.Registry.Register(answers); err != nil {
		return nil, fmt.Errorf("cannot register the metrics of the external scaler: %w", err)
	}
	return &Server{cfg: cfg, answers: answers}, nil
}

// Serve answers what comes to a listener until ctx is done. Certificate and authorities may change meanwhile.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	changes := dynamiccertificates.NewDynamicServingCertificateController(
		&tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert}, s.cfg.Clients, s.cfg.Certificate, nil, nil)
	for _, provider := range []any{s.cfg.Clients, s.cfg.Certificate} {
		if notifier, is := provider.(dynamiccertificates.Notifier); is {
			notifier.AddListener(changes)
		}
	}
	if err := changes.RunOnce(); err != nil {
		return fmt.Errorf("cannot serve KEDA on %s: %w", listener.Addr(), err)
	}
	go changes.Run(1, ctx.Done())

	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: changes.GetConfigForClient})),
		grpc.ConnectionTimeout(handshakeTime), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			answer, err := handle(ctx, request)
			s.count(info.FullMethod, err)
			return answer, err
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			err := handle(srv, stream)
			s.count(info.FullMethod, err)
			return err
		}))
	externalscaler.RegisterExternalScalerServer(server, &scaler{
		metrics: s.cfg.Metrics, synced: s.cfg.Synced, every: lookEvery, streams: make(chan struct{}, maxStreams), ending: ctx.Done(),
	})
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		atLast := time.AfterFunc(patience, server.Stop)
		defer atLast.Stop()
		server.GracefulStop()
	})
	err := server.Serve(netutil.LimitListener(listener, maxConnections))
	if stop() { // it has ended by itself
		return fmt.Errorf("cannot serve KEDA on %s: %w", listener.Addr(), err)
	}
	<-ended
	return nil
}

// count counts an answer. Only methods of the protocol come here.
func (s *Server) count(method string, err error) {
	s.answers.WithLabelValues(path.Base(method), status.Code(err).String()).Inc()
}
