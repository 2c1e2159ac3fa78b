// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

// signed is a webhook request as LiveKit signs it, by a clock that is ahead by the time given.
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

// twoProjects runs the default project and team/livekit, each with a LiveKit
// that is swept once and then never again within a test.
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

// TestWebhookOfAnotherClock takes what LiveKit signs by a clock that is ahead or behind.
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
		if len(r.hints) != 0 || r.queue.Len() != 0 {
			t.Errorf("a refused webhook changed project %s", project)
		}
		requests -= fake.requests.Load()
	}
	if requests != 0 {
		t.Errorf("refused webhooks made %d requests to LiveKit", -requests)
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

// TestTooManyProjects has a namespace name more projects than are read for one: those
// that were read stay, the others say why they are not, and no other namespace minds.
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

// TestWebhookOfASecretWithNamedKeys: the path of a Secret is that of its projects, under
// whatever keys pods find them.
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

// TestWebhookPastTheProxy: replicas are reached by their addresses, which no proxy knows.
func TestWebhookPastTheProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:3128") // nobody is there
	projects, _, metrics := twoProjects(t)
	passed := make(chan string, 1)
	peer := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { passed <- req.URL.Path }))
	t.Cleanup(peer.Close)
	w := NewWebhooks(projects, []string{strings.TrimPrefix(peer.URL, "http://")}, metrics, slog.New(slog.DiscardHandler))
	transport, ok := w.client.Transport.(*http.Transport)
	if !ok || transport.Proxy != nil {
		t.Error("webhooks are passed on through a proxy") // loopback alone would not show it
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
