// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/livekit/protocol/auth"
	protocol "github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// WebhookPath takes the webhooks of any project; WebhookPath/NAMESPACE/SECRET
	// takes those of one.
	WebhookPath = "/webhooks"

	maxWebhook     = 256 << 10 // bytes; an event carries at most 64 KiB of attributes
	rememberEvents = 16_384    // event ids; one that is forgotten costs another read of its room
	forwardTimeout = 2 * time.Second
	maxForwards    = 64 // under way at once

	// clocksApart is how far LiveKit's clock may differ. Its tokens are valid from when
	// they are signed, for 5 minutes.
	clocksApart = time.Hour

	// viaHeader carries the id of the replica that passed an event on.
	viaHeader = "Callguard-Via"
)

// Webhooks receives LiveKit's webhooks. A verified event marks its room to be
// read at once; nothing else is taken from it. A webhook reaches one replica
// only, which passes the signed request on to its peers as it came; each
// verifies it for itself.
type Webhooks struct {
	projects *Projects
	peers    []string // host:port; a host may stand for many addresses
	id       string
	client   *http.Client
	seen     *lru.Cache // event id; safe for concurrent use
	forwards chan struct{}
	underway sync.WaitGroup
	metrics  *Metrics
	log      *slog.Logger
}

// NewWebhooks returns a handler that passes events on to the peers given. A peer
// may be the replica itself: it recognises what it sent.
func NewWebhooks(projects *Projects, peers []string, metrics *Metrics, log *slog.Logger) *Webhooks {
	return &Webhooks{
		projects: projects,
		peers:    peers,
		id:       rand.Text(),
		client:   &http.Client{Timeout: forwardTimeout, Transport: &http.Transport{Proxy: nil, IdleConnTimeout: time.Minute}}, // peers are reached directly
		seen:     lru.New(rememberEvents),
		forwards: make(chan struct{}, maxForwards),
		metrics:  metrics,
		log:      log,
	}
}

// Handler returns the routes of WebhookPath.
func (w *Webhooks) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+WebhookPath, func(rw http.ResponseWriter, req *http.Request) { w.serve(rw, req, types.NamespacedName{}) })
	mux.HandleFunc("POST "+WebhookPath+"/{namespace}/{secret}", func(rw http.ResponseWriter, req *http.Request) {
		w.serve(rw, req, types.NamespacedName{Namespace: req.PathValue("namespace"), Name: req.PathValue("secret")})
	})
	return mux
}

// refusal is why a webhook request was not taken.
type refusal struct {
	status  int
	outcome string // of the metric
	cause   error
}

func (w *Webhooks) serve(rw http.ResponseWriter, req *http.Request, only types.NamespacedName) {
	via := req.Header.Get(viaHeader)
	if via == w.id {
		return // our own, passed on to ourselves
	}
	body, readers, event, refused := w.verify(rw, req, only)
	if refused != nil {
		w.metrics.webhooks.WithLabelValues(refused.outcome).Inc()
		w.log.Debug("Refused a webhook", "from", req.RemoteAddr, "outcome", refused.outcome, "err", refused.cause)
		http.Error(rw, refused.cause.Error(), refused.status)
		return
	}
	w.metrics.webhooks.WithLabelValues("accepted").Inc()
	for r := range readers {
		r.Heed(event)
	}
	if via == "" {
		w.forward(req, body)
	}
}

// verify checks a request from the cheapest to the dearest and touches no state
// but the memory of events seen, which only a verified event enters.
func (w *Webhooks) verify(rw http.ResponseWriter, req *http.Request, only types.NamespacedName) ([]byte, map[*Reader]call.Project, *protocol.WebhookEvent, *refusal) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, req.Body, maxWebhook))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, nil, nil, &refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Errorf("a webhook has at most %d bytes", maxWebhook)}
	case err != nil:
		return nil, nil, nil, &refusal{http.StatusBadRequest, "unreadable", fmt.Errorf("cannot read the body: %w", err)}
	}
	token := req.Header.Get("Authorization")
	if token == "" {
		return nil, nil, nil, &refusal{http.StatusUnauthorized, "unsigned", errors.New("the webhook is not signed; LiveKit signs with webhook.api_key")}
	}
	parsed, err := auth.ParseAPIToken(token)
	if err != nil {
		return nil, nil, nil, &refusal{http.StatusUnauthorized, "forged", errors.New("the Authorization header is no LiveKit token")}
	}
	readers := w.projects.verifiers(parsed.APIKey())
	if len(readers) == 0 {
		return nil, nil, nil, &refusal{http.StatusUnauthorized, "unknown_key", errors.New("the webhook is signed with a key of no known project; set LiveKit's webhook.api_key to the project's API key")}
	}
	if only.Name != "" {
		maps.DeleteFunc(readers, func(_ *Reader, project call.Project) bool {
			secret, _ := project.Secret()
			return secret != only
		})
		if len(readers) == 0 {
			return nil, nil, nil, &refusal{http.StatusForbidden, "other_project", fmt.Errorf("the webhook is signed with a key of another project than %s", only)}
		}
	}

	// The same key name may stand for several projects with secrets of their own.
	for r := range readers {
		if !authentic(token, r.Secret(parsed.APIKey()), body) {
			delete(readers, r)
		}
	}
	if len(readers) == 0 {
		return nil, nil, nil, &refusal{http.StatusUnauthorized, "forged", errors.New("the webhook's signature does not fit its body and key, or has expired")}
	}
	event := &protocol.WebhookEvent{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, event); err != nil {
		return nil, nil, nil, &refusal{http.StatusBadRequest, "unreadable", errors.New("the body is no webhook event")} // its error repeats the body
	}
	if id := event.GetId(); id != "" {
		if _, again := w.seen.Get(id); again {
			return nil, nil, nil, &refusal{http.StatusConflict, "replayed", fmt.Errorf("webhook event %s was received before", id)}
		}
		w.seen.Add(id, struct{}{})
	}
	return body, readers, event, nil
}

// authentic reports whether a token is signed with a secret, for this body, and valid
// now by a clock that may differ.
func authentic(token, secret string, body []byte) bool {
	claims := struct {
		jwt.RegisteredClaims

		Sum string `json:"sha256"`
	}{}
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithLeeway(clocksApart), jwt.WithExpirationRequired())
	sum := sha256.Sum256(body)
	return err == nil && secret != "" &&
		subtle.ConstantTimeCompare([]byte(claims.Sum), []byte(base64.StdEncoding.EncodeToString(sum[:]))) == 1
}

// forward passes a verified request on to the peers, each address once, without
// making LiveKit wait. Where too much is under way it is left out: the peers'
// own sweeps will see the change.
func (w *Webhooks) forward(req *http.Request, body []byte) {
	ctx := context.WithoutCancel(req.Context())
	path, token := req.URL.Path, req.Header.Get("Authorization")
	for _, peer := range w.peers {
		select {
		case w.forwards <- struct{}{}:
		default:
			w.metrics.forwards.WithLabelValues("dropped").Inc()
			continue
		}
		w.underway.Go(func() {
			defer func() { <-w.forwards }()
			ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
			defer cancel()
			if err := w.forwardTo(ctx, peer, path, token, body); err != nil {
				w.metrics.forwards.WithLabelValues("error").Inc()
				w.log.Debug("Cannot pass a webhook on", "peer", peer, "err", err)
				return
			}
			w.metrics.forwards.WithLabelValues("ok").Inc()
		})
	}
}

func (w *Webhooks) forwardTo(ctx context.Context, peer, path, token string, body []byte) error {
	host, port, err := net.SplitHostPort(peer)
	if err != nil {
		return fmt.Errorf("peer %q is no host:port: %w", peer, err)
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return fmt.Errorf("cannot resolve peer %q: %w", peer, err)
	}
	var errs []error
	for _, addr := range addrs {
		errs = append(errs, w.post(ctx, "http://"+net.JoinHostPort(addr, port)+path, token, body))
	}
	return errors.Join(errs...)
}

func (w *Webhooks) post(ctx context.Context, url, token string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/webhook+json")
	req.Header.Set("Authorization", token)
	req.Header.Set(viaHeader, w.id)
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusConflict {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

// Wait waits for what is being passed on.
func (w *Webhooks) Wait() { w.underway.Wait() }
