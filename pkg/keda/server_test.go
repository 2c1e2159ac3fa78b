// SPDX-License-Identifier: Apache-2.0

package keda

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
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
	"github.com/callguard/callguard/test/trial"
)

const serverName = "metrics-adapter.callguard-system.svc"

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	trial.Must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	trial.Must(t, err)
	cert, err := x509.ParseCertificate(der)
	trial.Must(t, err)
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// sign returns a certificate and its key, as PEM.
func (a authority) sign(t *testing.T, usage x509.ExtKeyUsage) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	trial.Must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "keda"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{serverName}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, own.Public(), a.key)
	trial.Must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(own)
	trial.Must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// served is a running Server.
type served struct {
	address  string
	server   authority // of its own certificate
	clients  authority // of allowed clients
	registry *prometheus.Registry
	stop     func()
}

func serve(t *testing.T, metrics Metrics) served {
	t.Helper()
	s := served{server: newAuthority(t), clients: newAuthority(t), registry: prometheus.NewRegistry()}
	cert, key := s.server.sign(t, x509.ExtKeyUsageServerAuth)
	certificate, err := dynamiccertificates.NewStaticCertKeyContent("server", cert, key)
	trial.Must(t, err)
	clients, err := dynamiccertificates.NewStaticCAContent("clients", s.clients.pem)
	trial.Must(t, err)
	server, err := New(Config{Metrics: metrics, Synced: yes, Certificate: certificate, Clients: clients, Registry: s.registry})
	trial.Must(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	trial.Must(t, err)
	s.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	s.stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
			ended <- nil
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
	}
	t.Cleanup(s.stop)
	return s
}

// dial connects like KEDA with a certificate of an authority, or without one.
func (s served) dial(t *testing.T, by *authority) externalscaler.ExternalScalerClient {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.server.cert)
	config := &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12}
	if by != nil {
		pair, err := tls.X509KeyPair(by.sign(t, x509.ExtKeyUsageClientAuth))
		trial.Must(t, err)
		config.Certificates = []tls.Certificate{pair}
	}
	return dialWith(t, s.address, credentials.NewTLS(config))
}

func dialWith(t *testing.T, address string, credentials credentials.TransportCredentials) externalscaler.ExternalScalerClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials))
	trial.Must(t, err)
	t.Cleanup(func() { trial.Must(t, conn.Close()) })
	return externalscaler.NewExternalScalerClient(conn)
}

func TestOnlyKEDAIsAnswered(t *testing.T) {
	t.Parallel()
	s := serve(t, &counts{values: map[string]int64{"active_calls": 3, "waiting_calls": 0}})
	stranger := newAuthority(t)
	for name, tc := range map[string]struct {
		reason string
		client externalscaler.ExternalScalerClient
		code   codes.Code
	}{
		"KEDA":      {reason: "Its certificate is of the authority for it.", client: s.dial(t, &s.clients)},
		"Nobody":    {reason: "Numbers of calls of every namespace are for KEDA alone.", client: s.dial(t, nil), code: codes.Unavailable},
		"Stranger":  {reason: "Anybody can create a certificate.", client: s.dial(t, &stranger), code: codes.Unavailable},
		"Server":    {reason: "The authority of the server's own certificate does not sign clients.", client: s.dial(t, &s.server), code: codes.Unavailable},
		"Plaintext": {reason: "TLS always.", client: dialWith(t, s.address, insecure.NewCredentials()), code: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			answer, err := tc.client.IsActive(ctx, scaledObject("active_calls"))
			if status.Code(err) != tc.code || err == nil && !answer.GetResult() {
				t.Errorf("answer is %v, %v; want %s. %s", answer, err, tc.code, tc.reason)
			}
		})
	}
	if n := testutil.CollectAndCount(s.registry, "callguard_keda_answers_total"); n != 1 {
		t.Errorf("%d kinds of answers are counted, want one, because no other request was answered", n)
	}
}

// TestAFirstCallIsToldAtOnce: KEDA's stream reports it, and nothing else.
func TestAFirstCallIsToldAtOnce(t *testing.T) {
	t.Parallel()
	c := &counts{values: map[string]int64{"active_calls": 0, "waiting_calls": 0, "busy_pods": 0}}
	s := serve(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := s.dial(t, &s.clients).StreamIsActive(ctx, scaledObject("active_calls"))
	trial.Must(t, err)
	told := make(chan bool)
	ended := make(chan error, 1)
	go func() {
		for {
			answer, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			told <- answer.GetResult()
		}
	}()
	silent := func(why string) {
		t.Helper()
		select {
		case active := <-told:
			t.Errorf("KEDA gets %t; %s", active, why)
		case err := <-ended:
			t.Fatalf("the stream ends with %v; %s", err, why)
		case <-time.After(3 * lookEvery):
		}
	}
	hears := func(why string) {
		t.Helper()
		select {
		case active := <-told:
			if !active {
				t.Errorf("KEDA gets false; %s", why)
			}
		case err := <-ended:
			t.Fatalf("the stream ends with %v; %s", err, why)
		case <-time.After(10 * time.Second):
			t.Fatalf("KEDA gets nothing; %s", why)
		}
	}
	silent("there is no call")
	c.set(map[string]int64{"active_calls": 0, "waiting_calls": 1, "busy_pods": 0})
	hears("a first call waits")
	c.set(nil)
	silent("nothing is known, which is no news")
	c.set(map[string]int64{"active_calls": 1, "waiting_calls": 0, "busy_pods": 1})
	silent("it was active before nothing was known")
	c.set(map[string]int64{"active_calls": 0, "waiting_calls": 0, "busy_pods": 0})
	silent("KEDA asks itself whether the last call is over")
	c.set(map[string]int64{"active_calls": 0, "waiting_calls": 2, "busy_pods": 0})
	hears("calls wait again")

	s.stop()
	select {
	case err := <-ended:
		if !errors.Is(err, io.EOF) {
			t.Errorf("the stream of a server that ends, ends with %v; want its end, after which KEDA comes back soon", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the stream of a server that ends does not end")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	full := &scaler{metrics: &counts{}, synced: yes, every: time.Second, streams: make(chan struct{}, 1)}
	full.streams <- struct{}{}
	if err := full.StreamIsActive(scaledObject("active_calls"), nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one stream too many gets %v, want ResourceExhausted", err)
	}
	if err := full.StreamIsActive(scaledObject("calls"), nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a mistake gets %v, want InvalidArgument", err)
	}
}
