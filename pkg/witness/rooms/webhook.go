// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/crowd"
)

const (
	// WebhookPath accepts the webhooks of any project; WebhookPath/NAMESPACE/SECRET those of
	// one.
	WebhookPath = "/webhooks"

	maxWebhook     = 256 << 10 // bytes; an event carries at most 64 KiB of attributes
	maxBodies      = 8 << 20   // bytes being read for the default project, and as many for all others together
	bodiesShare    = 1 << 20   // of one namespace
	rememberEvents = 16_384    // event ids; a forgotten one costs another read of its room
	forwardTimeout = 2 * time.Second
	maxForwards    = 64 // at the same time

	// clocksApart is how much LiveKit's clock may differ. Its tokens are valid for 5 minutes
	// from when they are signed.
	clocksApart = time.Hour

	// viaHeader has the id of the replica that passed an event on.
	viaHeader = "Callguard-Via"
)

// Webhooks receives LiveKit's webhooks. A verified event marks its room to be read at once;
// nothing else of it is trusted. A webhook reaches only one replica, which passes the
// signed request on to its peers unchanged; each verifies it for itself.
type Webhooks struct {
	projects *Projects
	peers    []string // host:port; a host may stand for many addresses
	id       string
	client   *http.Client
	seen     *lru.Cache // checksums of event ids; safe for concurrent use
	bodies   *shares
	forwards chan struct{}
	underway sync.WaitGroup
	metrics  *Metrics
	log      *slog.Logger
}

// NewWebhooks returns a handler that passes events on to the given peers. A peer may be the
// replica itself: it recognizes what it sent.
func NewWebhooks(projects *Projects, peers []string, metrics *Metrics, log *slog.Logger) *Webhooks {
	return &Webhooks{
		projects: projects,
		peers:    peers,
		id:       rand.Text(),
		client:   &http.Client{Timeout: forwardTimeout, Transport: &http.Transport{Proxy: nil, IdleConnTimeout: time.Minute}}, // peers are reached directly
		seen:     lru.New(rememberEvents),
		bodies:   newShares(maxBodies, 0, bodiesShare, maxBodies),
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

// maxConnections is the maximum number of connections: a LiveKit server sends about ten
// events at a time, and each replica passes on up to maxForwards.
const maxConnections = 512

// Serve accepts webhooks from a listener until ctx is done, and waits until everything is
// passed on. It closes the listener.
func (w *Webhooks) Serve(ctx context.Context, listener net.Listener) error {
	w.log.Info("Listening for LiveKit's webhooks", "address", listener.Addr().String(), "path", WebhookPath)
	if err := crowd.Serve(ctx, listener, w.Handler(), maxConnections, w.log); err != nil {
		return fmt.Errorf("cannot take webhooks: %w", err)
	}
	w.Wait()
	return nil
}

// refusal is why a webhook request was not accepted.
type refusal struct {
	status  int
	outcome string // of the metric
	cause   error
}

func (w *Webhooks) serve(rw http.ResponseWriter, req *http.Request, only types.NamespacedName) {
	via := req.Header.Get(viaHeader)
	if via == w.id {
		return // this replica's own request, passed on to itself
	}
	body, readers, event, refused := w.verify(rw, req, only)
	if refused != nil {
		w.metrics.webhooks.WithLabelValues(refused.outcome).Inc()
		w.log.Debug("Refused a webhook", "from", req.RemoteAddr, "outcome", refused.outcome, "err", refused.cause)
		leaveUnread(rw)
		http.Error(rw, refused.said(), refused.status)
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

// leaveUnread ends the connection with the answer, without reading the rest of the request,
// so that slow clients hold nothing up.
func leaveUnread(rw http.ResponseWriter) {
	rw.Header().Set("Connection", "close")
	_ = http.NewResponseController(rw).SetReadDeadline(time.Unix(1, 0)) // if it is not supported, the server's own time limit applies
}

// said returns the text for the client. It is the same for everything without a valid
// signature, so that nobody learns which keys exist.
func (r *refusal) said() string {
	if r.status == http.StatusUnauthorized {
		return "the webhook is not signed with the API key and secret of a known project; see LiveKit's webhook.api_key, and that the clocks agree"
	}
	return r.cause.Error()
}

// verify checks a request, the cheapest checks first: no byte of the body is read before
// the signature is known to be a project's. It changes no state except the list of seen
// events, to which only verified events are added.
func (w *Webhooks) verify(rw http.ResponseWriter, req *http.Request, only types.NamespacedName) ([]byte, map[*Reader]call.Project, Event, *refusal) {
	refuse := func(status int, outcome, format string, args ...any) ([]byte, map[*Reader]call.Project, Event, *refusal) {
		return nil, nil, Event{}, &refusal{status, outcome, fmt.Errorf(format, args...)}
	}
	token := req.Header.Get("Authorization")
	if token == "" {
		return refuse(http.StatusUnauthorized, "unsigned", "it has no Authorization header")
	}
	key, err := keyOf(token)
	if err != nil {
		return refuse(http.StatusUnauthorized, "forged", "the Authorization header is no LiveKit token")
	}
	readers := w.projects.verifiers(key)
	if len(readers) == 0 {
		return refuse(http.StatusUnauthorized, "unknown_key", "it is signed with a key of no known project")
	}
	// Several projects may have the same key name with different secrets.
	sums := map[*Reader]string{}
	for r := range readers {
		if sum, ok := authentic(token, r.Secret(key)); ok {
			sums[r] = sum
		} else {
			delete(readers, r)
		}
	}
	if len(readers) == 0 {
		return refuse(http.StatusUnauthorized, "forged", "its signature does not fit its key, or has expired")
	}
	if only.Name != "" {
		maps.DeleteFunc(readers, func(_ *Reader, project call.Project) bool {
			secret, _ := project.Secret()
			return secret != only
		})
		if len(readers) == 0 {
			return refuse(http.StatusForbidden, "other_project", "the webhook is signed with a key of another project than %s", only)
		}
	}

	size := int64(maxWebhook)
	if n := req.ContentLength; n >= 0 {
		size = min(n, maxWebhook+1)
	}
	if size > maxWebhook {
		return refuse(http.StatusRequestEntityTooLarge, "too_large", "a webhook has at most %d bytes", maxWebhook)
	}
	charged := owner(readers)
	if !w.bodies.take(charged, size) {
		return refuse(http.StatusServiceUnavailable, "too_many", "too many webhooks of the project are under way; LiveKit sends this one again")
	}
	defer w.bodies.giveBack(charged, size)
	body, err := io.ReadAll(http.MaxBytesReader(rw, req.Body, maxWebhook))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "too_large", "a webhook has at most %d bytes", maxWebhook)
	case err != nil:
		return refuse(http.StatusBadRequest, "unreadable", "the body ends early, or does not come in time")
	}
	sum := sha256.Sum256(body)
	maps.DeleteFunc(readers, func(r *Reader, _ call.Project) bool {
		return subtle.ConstantTimeCompare([]byte(sums[r]), []byte(base64.StdEncoding.EncodeToString(sum[:]))) != 1
	})
	if len(readers) == 0 {
		return refuse(http.StatusUnauthorized, "forged", "its signature does not fit its body")
	}
	event, id, err := parseEvent(body)
	if err != nil {
		return refuse(http.StatusBadRequest, "unreadable", "the body is no webhook event") // the error repeats the body
	}
	if id != "" {
		seen := sha256.Sum256([]byte(key + "\n" + id)) // of fixed length, whatever is sent
		if _, again := w.seen.Get(seen); again {
			return refuse(http.StatusConflict, "replayed", "the webhook event was received before")
		}
		w.seen.Add(seen, struct{}{})
	}
	return body, readers, event, nil
}

// keyOf returns the API key with which a token claims to be signed.
func keyOf(token string) (string, error) {
	var claims jwt.RegisteredClaims
	_, _, err := jwt.NewParser().ParseUnverified(token, &claims)
	return claims.Issuer, err
}

// authentic reports whether a token is signed with a secret and valid now, allowing for a
// different clock. It returns the checksum of the body for which the token is.
func authentic(token, secret string) (sum string, ok bool) {
	claims := struct {
		jwt.RegisteredClaims

		Sum string `json:"sha256"`
	}{}
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithLeeway(clocksApart), jwt.WithExpirationRequired())
	return claims.Sum, err == nil && secret != ""
}

// Event is what is read of a webhook event.
type Event struct {
	// Name is the name of the event, such as participant_joined.
	Name string
	Room string
	// Participant is the sid of the participant that it is about, and Agent reports whether
	// that is an agent.
	Participant string
	Agent       bool
}

// matters reports whether an event may change which agents are in its room, or their
// attributes. Most of the events that LiveKit sends for a call are about callers. An event
// that a room has ended does not matter if no agent is known in it, nor one that an agent
// publishes if the agent's pod is known.
func (e Event) matters(seats, named bool) bool {
	switch e.Name {
	case "track_published":
		return e.Agent && !named
	case "room_finished":
		return seats
	case "room_started", "track_unpublished":
		return false
	default:
		return e.Agent
	}
}

// leaves reports whether an event may mean that a room stops waiting for an agent.
func (e Event) leaves(waits bool) bool {
	switch e.Name {
	case "participant_left", "participant_connection_aborted", "room_finished":
		return waits
	}
	return false
}

// parseEvent reads an event and its id from LiveKit's JSON.
func parseEvent(body []byte) (event Event, id string, err error) {
	var said struct {
		Event string `json:"event"`
		ID    string `json:"id"`
		Room  struct {
			Name string `json:"name"`
		} `json:"room"`
		Participant struct {
			SID  string `json:"sid"`
			Kind any    `json:"kind"` // by name or number
		} `json:"participant"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return Event{}, "", err
	}
	kind := said.Participant.Kind
	return Event{Name: said.Event, Room: said.Room.Name, Participant: said.Participant.SID, Agent: kind == "AGENT" || kind == 4.0}, said.ID, nil
}

// owner returns the namespace to which a webhook is charged; empty if the default project
// is one of its projects.
func owner(readers map[*Reader]call.Project) string {
	var namespaces []string
	for _, project := range readers {
		namespaces = append(namespaces, namespaceOf(project))
	}
	return slices.Min(namespaces)
}

// forward passes a verified request on to the peers, each address once, without making
// LiveKit wait. If too many requests are being passed on, it does nothing: the peers' own
// sweeps will see the change.
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
				w.log.Debug("Cannot forward a webhook", "peer", peer, "err", err)
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

// Wait waits until everything is passed on.
func (w *Webhooks) Wait() { w.underway.Wait() }
