// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	protocol "github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/encoding/protojson"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

// signed is a webhook request as LiveKit signs it, with a clock that is ahead by the given
// time.
func signed(t *testing.T, path, key, secret, body string, ahead time.Duration) *http.Request {
	t.Helper()
	sum := sha256.Sum256([]byte(body))
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": key, "nbf": time.Now().Add(ahead).Unix(), "exp": time.Now().Add(ahead + 5*time.Minute).Unix(),
		"sha256": base64.StdEncoding.EncodeToString(sum[:]),
	}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/webhook+json")
	req.Header.Set("Authorization", token)
	return req
}

// twoProjects runs the default project and team/livekit, each with a LiveKit that is swept
// once and then never again within a test.
func twoProjects(t *testing.T) (*Projects, map[call.Project]*fakeLiveKit, *Metrics) {
	t.Helper()
	team := call.SecretProject("team", "livekit", call.SecretKeys{})
	fakes := map[call.Project]*fakeLiveKit{call.DefaultProject: newFakeLiveKit(), team: newFakeLiveKit()}
	credentials := map[call.Project]livekit.Credentials{}
	for project, fake := range fakes {
		ts := httptest.NewServer(fake)
		t.Cleanup(ts.Close)
		name := map[call.Project]string{call.DefaultProject: "default", team: "team"}[project]
		fake.secret = name + "-secret"
		credentials[project] = livekit.Credentials{URL: ts.URL, APIKey: name + "-key", APISecret: fake.secret}
	}
	metrics := NewMetrics(prometheus.NewRegistry())
	p := NewProjects(ProjectsConfig{
		Default: func(context.Context) (Version, error) {
			return Version{Credentials: credentials[call.DefaultProject]}, nil
		},
		Secret: func(context.Context, types.NamespacedName, call.SecretKeys) (Version, error) {
			return Version{Credentials: credentials[team]}, nil
		},
		Transport: http.DefaultTransport,
		Settings:  Settings{Resync: time.Hour, MaxStaleness: 2 * time.Hour, Timeout: time.Minute, Concurrency: 2},
		Metrics:   metrics,
		Log:       slog.New(slog.DiscardHandler),
	})
	p.Want(map[call.Project]call.Births{team: {}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for project := range fakes {
		trial.Eventually(t, "project is read", func() bool { return p.Fresh(project, time.Now()) == nil })
	}
	return p, fakes, metrics
}

const joined = `{"event":"participant_joined","id":"EV_1","room":{"name":"r"},"participant":{"sid":"PA_1","kind":"AGENT"}}`

// TestWebhookOfAnotherClock accepts what LiveKit signs with a clock that is ahead or behind.
func TestWebhookOfAnotherClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"Ahead": 10 * time.Minute, "Behind": -10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			projects, _, metrics := twoProjects(t)
			rec := httptest.NewRecorder()
			NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler().
				ServeHTTP(rec, signed(t, WebhookPath, "default-key", "default-secret", joined, ahead))
			if rec.Code != http.StatusOK {
				t.Errorf("status %d (%s), want 200", rec.Code, rec.Body)
			}
		})
	}
}

func TestWebhookRefused(t *testing.T) {
	tampered := func(req *http.Request, body string) *http.Request {
		req.Body = http.NoBody
		other := httptest.NewRequest(http.MethodPost, req.URL.Path, strings.NewReader(body))
		other.Header = req.Header
		return other
	}
	unsigned := httptest.NewRequest(http.MethodPost, WebhookPath, strings.NewReader(joined))
	bearer := httptest.NewRequest(http.MethodPost, WebhookPath, strings.NewReader(joined))
	bearer.Header.Set("Authorization", "Bearer rubbish")
	cases := map[string]struct {
		req     *http.Request
		status  int
		outcome string
	}{
		"Unsigned":      {unsigned, 401, "unsigned"},
		"NoToken":       {bearer, 401, "forged"},
		"WrongSecret":   {signed(t, WebhookPath, "default-key", "guessed", joined, 0), 401, "forged"},
		"OtherBody":     {tampered(signed(t, WebhookPath, "default-key", "default-secret", joined, 0), strings.Replace(joined, `"r"`, `"x"`, 1)), 401, "forged"},
		"Expired":       {signed(t, WebhookPath, "default-key", "default-secret", joined, -clocksApart-6*time.Minute), 401, "forged"},
		"NotYet":        {signed(t, WebhookPath, "default-key", "default-secret", joined, clocksApart+time.Minute), 401, "forged"},
		"UnknownKey":    {signed(t, WebhookPath, "some-key", "default-secret", joined, 0), 401, "unknown_key"},
		"OtherProject":  {signed(t, WebhookPath+"/team/livekit", "default-key", "default-secret", joined, 0), 403, "other_project"},
		"NoSuchProject": {signed(t, WebhookPath+"/team/none", "team-key", "team-secret", joined, 0), 403, "other_project"},
		"TooLarge":      {signed(t, WebhookPath, "default-key", "default-secret", strings.Repeat(" ", maxWebhook+1), 0), 413, "too_large"},
		"NotJSON":       {signed(t, WebhookPath, "default-key", "default-secret", "rubbish", 0), 400, "unreadable"},
		"WrongMethod":   {httptest.NewRequest(http.MethodGet, WebhookPath, nil), 405, ""},
	}
	projects, fakes, metrics := twoProjects(t)
	handler := NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler()
	requests := fakes[call.DefaultProject].requests.Load() + fakes["team/livekit"].requests.Load()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := 0.0
			if tc.outcome != "" {
				before = testutil.ToFloat64(metrics.webhooks.WithLabelValues(tc.outcome))
			}
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, tc.req)
			if rec.Code != tc.status {
				t.Errorf("status %d (%s), want %d", rec.Code, rec.Body, tc.status)
			}
			if tc.outcome != "" && testutil.ToFloat64(metrics.webhooks.WithLabelValues(tc.outcome)) != before+1 {
				t.Errorf("outcome %q was not counted", tc.outcome)
			}
			if tc.status == http.StatusUnauthorized && rec.Body.String() != (&refusal{status: tc.status}).said()+"\n" {
				t.Errorf("the answer is %q: it has to be the same for every invalid signature, so that it does not reveal which keys exist", rec.Body)
			}
			if strings.Contains(rec.Body.String(), "-secret") {
				t.Errorf("the answer names a secret: %s", rec.Body)
			}
		})
	}
	for project, fake := range fakes {
		r, err := projects.reader(project)
		if err != nil {
			t.Fatal(err)
		}
		if r.hints.size != 0 || r.queue.Len() != 0 {
			t.Errorf("a refused webhook changed project %s", project)
		}
		requests -= fake.requests.Load()
	}
	if requests != 0 {
		t.Errorf("refused webhooks made %d requests to LiveKit", -requests)
	}
}

// TestNothingOfUnsignedBodiesIsRead: requests without a project's key take no memory.
func TestNothingOfUnsignedBodiesIsRead(t *testing.T) {
	projects, _, metrics := twoProjects(t)
	handler := NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler()
	for name, req := range map[string]*http.Request{
		"Unsigned":    httptest.NewRequest(http.MethodPost, WebhookPath, nil),
		"UnknownKey":  signed(t, WebhookPath, "some-key", "default-secret", joined, 0),
		"WrongSecret": signed(t, WebhookPath, "default-key", "guessed", joined, 0),
		"TooLarge":    signed(t, WebhookPath, "default-key", "default-secret", strings.Repeat(" ", maxWebhook+1), 0),
	} {
		req.Body = untouched{t, name}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		if rec.Code != http.StatusUnauthorized && rec.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d (%s)", name, rec.Code, rec.Body)
		}
	}
}

// untouched is a body that must not be read.
type untouched struct {
	t    *testing.T
	name string
}

func (u untouched) Read([]byte) (int, error) {
	u.t.Errorf("%s: the body was read", u.name)
	return 0, io.EOF
}

func (u untouched) Close() error { return nil }

// TestBodiesAreChargedToTheirNamespace: one tenant's stalled webhooks do not keep out another
// tenant's, nor the default project's.
func TestBodiesAreChargedToTheirNamespace(t *testing.T) {
	b := newShares(maxBodies, 0, bodiesShare, maxBodies)
	taken := 0
	for b.take("hostile", maxWebhook) {
		taken++
	}
	if taken != bodiesShare/maxWebhook {
		t.Errorf("one namespace had %d bodies at once, want %d", taken, bodiesShare/maxWebhook)
	}
	if !b.take("team", maxWebhook) || !b.take("", maxWebhook) {
		t.Error("others have their share")
	}
	for range taken {
		b.giveBack("hostile", maxWebhook)
	}
	b.giveBack("team", maxWebhook)
	b.giveBack("", maxWebhook)
	if b.all != 0 || len(b.taken) != 0 {
		t.Errorf("%d bytes of %v are still used", b.all, b.taken)
	}
}

// TestStalledRequestsOfOutsiders: a thousand clients that never finish a body, or send no
// header, take little memory, and LiveKit's webhooks still get through.
func TestStalledRequestsOfOutsiders(t *testing.T) {
	const outsiders, honest = 1000, 50
	projects, _, metrics := twoProjects(t)
	w := NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, listener) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	address := listener.Addr().String()
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}

	before := memory()
	half := strings.Repeat(" ", 128<<10)
	var crowd sync.WaitGroup
	for i := range outsiders {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // the other end may have closed it
		crowd.Go(func() {                   // until the server ends it
			_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			head := "POST /webhooks HTTP/1.1\r\nHost: x\r\n"
			if i%2 == 0 {
				head += "Authorization: guessed\r\nContent-Length: 262144\r\n\r\n" + half
			}
			_, _ = io.WriteString(conn, head)
		})
	}
	client := &http.Client{Timeout: 5 * time.Second}
	for i := range honest {
		body := strings.Replace(joined, "EV_1", fmt.Sprintf("EV_%d", i), 1)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+WebhookPath, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = signed(t, WebhookPath, "default-key", "default-secret", body, 0).Header
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("webhook %d among stalled requests: %v", i, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("webhook %d among stalled requests: %s", i, resp.Status)
		}
	}
	crowd.Wait()
	if after := memory(); after > before+30<<20 {
		t.Errorf("memory went from %d to %d MiB; want no more than 30 MiB for %d connections", before>>20, after>>20, outsiders)
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, seed := range []string{joined, `{"participant":{"kind":4}}`, `{"room":null}`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		event, id, err := parseEvent(body)
		if err != nil && (event != Event{} || id != "") || len(event.Room) > 3*len(body) || len(id) > 3*len(body) {
			t.Errorf("parseEvent(%q) = %+v, %q, %v", body, event, id, err)
		}
	})
}

// TestEventOfLiveKit: an event written by LiveKit's own library is read.
func TestEventOfLiveKit(t *testing.T) {
	sent := &protocol.WebhookEvent{
		Event: "participant_left", Id: "EV_1", Room: &protocol.Room{Name: "r"},
		Participant: &protocol.ParticipantInfo{Sid: "PA_1", Kind: protocol.ParticipantInfo_AGENT, Attributes: map[string]string{"a": "b"}},
	}
	want := Event{Name: "participant_left", Room: "r", Participant: "PA_1", Agent: true}
	for _, how := range []protojson.MarshalOptions{{}, {UseProtoNames: true}, {UseEnumNumbers: true}, {EmitUnpopulated: true}} {
		raw, err := how.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		if event, id, err := parseEvent(raw); event != want || id != "EV_1" || err != nil {
			t.Errorf("%s reads %+v, %q, %v; want %+v", raw, event, id, err, want)
		}
	}
}

func TestWebhookIsReadAtOnceInItsProjectOnly(t *testing.T) {
	projects, fakes, metrics := twoProjects(t)
	handler := NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler()
	for _, fake := range fakes {
		fake.set(func() { fake.rooms["r"] = agentOf("PA_1", "pod") })
	}
	send := func(path, key, body string) int {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, signed(t, path, key+"-key", key+"-secret", body, 0))
		return rec.Code
	}
	if code := send(WebhookPath+"/team/livekit", "team", joined); code != 200 {
		t.Fatalf("status %d", code)
	}
	inDefault, inTeam := &call.Pod{UID: "pod", Project: call.DefaultProject}, &call.Pod{UID: "pod", Project: "team/livekit"}
	calls := func(pod *call.Pod) int {
		n, known := projects.Reading(pod, time.Now()).Calls()
		if !known {
			t.Fatalf("unknown: %s", projects.Reading(pod, time.Now()).Reason())
		}
		return n
	}
	trial.Eventually(t, "the call is read", func() bool { return calls(inTeam) == 1 })
	if calls(inDefault) != 0 {
		t.Error("a webhook of one project was heeded in another")
	}
	if code := send(WebhookPath, "team", joined); code != 409 {
		t.Errorf("a replayed event got %d, want 409", code)
	}

	fakes["team/livekit"].set(func() { delete(fakes["team/livekit"].rooms, "r") })
	left := strings.NewReplacer("participant_joined", "participant_left", "EV_1", "EV_2").Replace(joined)
	if code := send(WebhookPath, "team", left); code != 200 {
		t.Fatalf("status %d", code)
	}
	trial.Eventually(t, "the call is over without a second look", func() bool { return calls(inTeam) == 0 })
}

func TestWebhookBeforeTheListSaysSo(t *testing.T) {
	projects, fakes, metrics := twoProjects(t)
	handler := NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler()
	handler.ServeHTTP(httptest.NewRecorder(), signed(t, WebhookPath, "default-key", "default-secret", joined, 0))
	fake := fakes[call.DefaultProject]
	before := fake.requests.Load()
	trial.Eventually(t, "the room is read again though its list was empty", func() bool { return fake.requests.Load() > before+1 })
	fake.set(func() { fake.rooms["r"] = agentOf("PA_1", "pod") })
	trial.Eventually(t, "the late entry is read", func() bool {
		n, _ := projects.Reading(&call.Pod{UID: "pod", Project: call.DefaultProject}, time.Now()).Calls()
		return n == 1
	})
}

func TestWebhookReachesPeersOnce(t *testing.T) {
	projects, _, metrics := twoProjects(t)
	log := slog.New(slog.DiscardHandler)
	var received atomic.Int64
	var other http.Handler
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		received.Add(1)
		other.ServeHTTP(w, r)
	}))
	defer peer.Close()
	var first *Webhooks
	self := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { first.Handler().ServeHTTP(w, r) }))
	defer self.Close()
	addresses := []string{strings.TrimPrefix(self.URL, "http://"), strings.TrimPrefix(peer.URL, "http://")}
	otherProjects, otherFakes, otherMetrics := twoProjects(t)
	second := NewWebhooks(otherProjects, addresses, otherMetrics, log)
	other = second.Handler()
	first = NewWebhooks(projects, addresses, metrics, log)

	otherFakes[call.DefaultProject].set(func() { otherFakes[call.DefaultProject].rooms["r"] = agentOf("PA_1", "pod") })
	req := signed(t, WebhookPath, "default-key", "default-secret", joined, 0)
	sent, err := http.NewRequestWithContext(t.Context(), http.MethodPost, self.URL+WebhookPath, bytes.NewReader([]byte(joined)))
	if err != nil {
		t.Fatal(err)
	}
	sent.Header = req.Header
	resp, err := http.DefaultClient.Do(sent)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first.Wait()
	second.Wait()
	if resp.StatusCode != 200 || received.Load() != 1 {
		t.Errorf("status %d, the peer received it %d times; want 200 and once", resp.StatusCode, received.Load())
	}
	trial.Eventually(t, "the peer reads the room", func() bool {
		n, _ := otherProjects.Reading(&call.Pod{UID: "pod", Project: call.DefaultProject}, time.Now()).Calls()
		return n == 1
	})
}

func TestUnattributedAgents(t *testing.T) {
	projects, fakes, metrics := twoProjects(t)
	handler := NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler()
	fake := fakes[call.DefaultProject]
	fake.set(func() { fake.rooms["r"] = agentOf("PA_1", "") })
	handler.ServeHTTP(httptest.NewRecorder(), signed(t, WebhookPath, "default-key", "default-secret", joined, 0))
	alone := &call.Pod{UID: "pod", Project: call.DefaultProject, Witnesses: []call.Witness{call.Rooms}}
	both := &call.Pod{UID: "pod", Project: call.DefaultProject, Witnesses: call.DefaultWitnesses()}
	elsewhere := &call.Pod{UID: "pod", Project: "team/livekit", Witnesses: []call.Witness{call.Rooms}}
	trial.Eventually(t, "a pod with no other witness is unknown", func() bool { return !projects.Reading(alone, time.Now()).Known() })
	if !projects.Reading(both, time.Now()).Known() {
		t.Error("a pod with another witness is known all the same")
	}
	if !projects.Reading(elsewhere, time.Now()).Known() {
		t.Error("another project's pods are not concerned")
	}
}

func TestProjectsComeAndGo(t *testing.T) {
	projects, _, _ := twoProjects(t)
	projects.Want(nil)
	trial.Eventually(t, "a project that no pod names is read no more", func() bool { return projects.Fresh("team/livekit", time.Now()) != nil })
	if err := projects.Fresh(call.DefaultProject, time.Now()); err != nil {
		t.Errorf("the default project stays: %v", err)
	}
	projects.Want(map[call.Project]call.Births{"team/livekit": {}})
	trial.Eventually(t, "it is read again", func() bool { return projects.Fresh("team/livekit", time.Now()) == nil })
}

// TestTooManyProjects: a namespace names more projects than are read for one. Those that were
// read stay, the others report the reason, and no other namespace is affected.
func TestTooManyProjects(t *testing.T) {
	projects, _, _ := twoProjects(t)
	wanted := map[call.Project]call.Births{"team/livekit": {}, "other/livekit": {}}
	for i := range maxProjects {
		wanted[call.Project(fmt.Sprintf("team/a%02d", i))] = call.Births{}
	}
	projects.Want(wanted)
	for _, project := range []call.Project{"team/livekit", "team/a00", "team/a18", "other/livekit", call.DefaultProject} {
		trial.Eventually(t, string(project)+" is read", func() bool { return projects.Fresh(project, time.Now()) == nil })
	}
	err := projects.Fresh("team/a19", time.Now())
	if want := "LiveKit project team/a19 is not read: the pods of its namespace name more than 20"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the one too many: %v; want %q", err, want)
	}
	delete(wanted, "team/a00")
	projects.Want(wanted)
	trial.Eventually(t, "it is read when there is room", func() bool { return projects.Fresh("team/a19", time.Now()) == nil })
}

// TestWebhookOfASecretWithNamedKeys: the path of a Secret serves all of its projects, whatever
// names its keys have in pods.
func TestWebhookOfASecretWithNamedKeys(t *testing.T) {
	project := call.SecretProject("team", "livekit", call.SecretKeys{URL: "address"})
	server := httptest.NewServer(newFakeLiveKit())
	t.Cleanup(server.Close)
	metrics := NewMetrics(prometheus.NewRegistry())
	projects := NewProjects(ProjectsConfig{
		Secret: func(_ context.Context, _ types.NamespacedName, keys call.SecretKeys) (Version, error) {
			if keys.URL != "address" {
				return Version{}, fmt.Errorf("it was read under key %q", keys.URL)
			}
			return Version{Credentials: livekit.Credentials{URL: server.URL, APIKey: "team-key", APISecret: "team-secret"}}, nil
		},
		Transport: http.DefaultTransport, Settings: Settings{Resync: time.Hour, MaxStaleness: 2 * time.Hour, Timeout: time.Minute, Concurrency: 2},
		Metrics: metrics, Log: slog.New(slog.DiscardHandler),
	})
	projects.Want(map[call.Project]call.Births{project: {}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- projects.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	trial.Eventually(t, "the project's key is known", func() bool { return len(projects.verifiers("team-key")) == 1 })
	rec := httptest.NewRecorder()
	NewWebhooks(projects, nil, metrics, slog.New(slog.DiscardHandler)).Handler().ServeHTTP(rec, signed(t, WebhookPath+"/team/livekit", "team-key", "team-secret", joined, 0))
	if rec.Code != http.StatusOK {
		t.Errorf("status %d (%s), want 200", rec.Code, rec.Body)
	}
}

// TestWebhookPastTheProxy: replicas are reached by their addresses, which no proxy can reach.
func TestWebhookPastTheProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:3128") // nothing listens there
	projects, _, metrics := twoProjects(t)
	passed := make(chan string, 1)
	peer := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { passed <- req.URL.Path }))
	t.Cleanup(peer.Close)
	w := NewWebhooks(projects, []string{strings.TrimPrefix(peer.URL, "http://")}, metrics, slog.New(slog.DiscardHandler))
	transport, ok := w.client.Transport.(*http.Transport)
	if !ok || transport.Proxy != nil {
		t.Error("webhooks are forwarded through a proxy") // loopback alone would not show it
	}
	w.Handler().ServeHTTP(httptest.NewRecorder(), signed(t, WebhookPath, "default-key", "default-secret", joined, 0))
	select {
	case path := <-passed:
		if path != WebhookPath {
			t.Errorf("it is passed on to %s", path)
		}
	case <-time.After(10 * time.Second):
		t.Error("it is not passed on")
	}
}

// TestTenantsHaveTheirOwnTransport: only the administrator's own server is reached without a
// check of its address.
func TestTenantsHaveTheirOwnTransport(t *testing.T) {
	used := ""
	by := func(name string) http.RoundTripper {
		return transport(func(*http.Request) (*http.Response, error) { used = name; return nil, io.EOF })
	}
	administrators := Version{Credentials: livekit.Credentials{URL: "ws://livekit.livekit.svc:7880", APIKey: "k", APISecret: "s"}}
	p := NewProjects(ProjectsConfig{
		Transport: by("own"), Tenants: func(namespace string) http.RoundTripper { return by("tenant of " + namespace) },
		Default: func(context.Context) (Version, error) { return administrators, nil },
	})
	if _, err := p.origins.Get(t.Context(), call.DefaultProject, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		project call.Project
		server  string
		want    string
	}{
		"Tenant":        {"team/livekit", "wss://livekit.example.com", "tenant of team"},
		"NotKnown":      {"team/livekit", "", "tenant of team"},
		"SameServer":    {"team/livekit", administrators.Server(), "own"},
		"Administrator": {call.DefaultProject, administrators.Server(), "own"},
	} {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://livekit.example.com/", nil)
			answer, err := p.config(tc.project, &bound{server: tc.server}).Transport.RoundTrip(req)
			if err == nil {
				_ = answer.Body.Close()
			}
			if used != tc.want {
				t.Errorf("it is asked by the transport %q, want %q", used, tc.want)
			}
		})
	}
}

// transport is a function as http.RoundTripper.
type transport func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f transport) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
