// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	protocol "github.com/livekit/protocol/livekit"
	"github.com/twitchtv/twirp"
	"golang.org/x/sync/errgroup"
)

// number names a room as telephony does, and hush stands for the content of a foreign answer. Neither
// may be in an error.
const (
	number = "call-+4930123456"
	hush   = "hush-hush"
)

func TestRooms(t *testing.T) {
	lk := newFake()
	lk.rooms[number], lk.rooms["b"] = nil, nil
	c := clientOf(t, lk, nil)
	got, err := c.Rooms(t.Context(), "none", number)
	if err != nil {
		t.Fatal(err)
	}
	want := []RoomInfo{{Name: number, SID: "RM_" + number, NumParticipants: 1, NumPublishers: 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if all, err := c.Rooms(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("all rooms: %v, %v", all, err)
	}
}

// TestWhoIsInARoom asks about rooms in every state that LiveKit has. If a room's node is asked, LiveKit
// takes three seconds to answer that nobody does.
func TestWhoIsInARoom(t *testing.T) {
	caller := &protocol.ParticipantInfo{Sid: "PA_c", Kind: protocol.ParticipantInfo_SIP, Attributes: map[string]string{"sip.phoneNumber": number}}
	avatar := agentOf("PA_v", "pod")
	avatar.Attributes[publishOnBehalf] = "agent-PA_1"
	hosted := agentOf("PA_h", "")
	hosted.KindDetails = []protocol.ParticipantInfo_KindDetail{protocol.ParticipantInfo_CLOUD_AGENT}
	gone := agentOf("PA_g", "pod")
	gone.State = protocol.ParticipantInfo_DISCONNECTED
	one := []Agent{{SID: "PA_1", Identity: "agent-PA_1", Pod: "pod", Joined: time.Unix(1767268800, 0), State: Active}}
	cases := map[string]struct {
		reason  string
		change  func(*fake)
		want    Room
		failure bool
		asked   []string
		timeout time.Duration
	}{
		"Agent": {reason: "An agent and its caller; one request.", asked: []string{"ListParticipants"},
			change: func(f *fake) {
				f.rooms[number] = []*protocol.ParticipantInfo{caller, agentOf("PA_1", "pod"), avatar, hosted, gone}
			},
			want: Room{Open: true, Agents: one, Others: 3, AnyAgent: true, Counts: Counts{Participants: 1, Quiet: 3}}},
		"WaitsForItsAgent": {reason: "A room that nobody has joined is still open.", asked: []string{"ListParticipants", "ListRooms"},
			change: func(f *fake) { f.rooms[number] = nil }, want: Room{Open: true, SID: "RM_" + number}},
		"None": {reason: "There is no such room.", change: func(*fake) {}, asked: []string{"ListParticipants", "ListRooms"}},
		"ClosedAtItsNode": {reason: "No node answers for a room that has closed.", change: func(f *fake) { f.byNodes = true },
			asked: []string{"ListParticipants", "ListRooms"}},
		"NodeDied": {reason: "The list still has it, so its participants are unknown.", failure: true, asked: []string{"ListParticipants", "ListRooms"},
			change: func(f *fake) { f.rooms[number], f.silent[number] = nil, true }, want: Room{Open: true, SID: "RM_" + number}},
		"TooImpatient": {reason: "Less time than LiveKit's own makes an error of a closed room.", timeout: 2 * time.Second,
			change: func(f *fake) { f.byNodes = true }, failure: true, asked: []string{"ListParticipants"}},
		"NotFound": {reason: "Later servers say so.", asked: []string{"ListParticipants", "ListRooms"},
			change: func(f *fake) {
				f.instead = func(w http.ResponseWriter, r *http.Request) bool {
					if strings.HasSuffix(r.URL.Path, "/ListParticipants") {
						_ = twirp.WriteError(w, twirp.NotFoundError("requested room does not exist"))
						return true
					}
					return false
				}
			}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lk := newFake()
				tc.change(lk)
				got, err := clientOf(t, lk, func(c *Config) { c.Timeout = tc.timeout }).Room(t.Context(), number)
				if (err != nil) != tc.failure {
					t.Errorf("%s error: %v", tc.reason, err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s -want, +got:\n%s", tc.reason, diff)
				}
				lk.mu.Lock() // a cancelled request may still be served
				asked := slices.Clone(lk.asked)
				lk.mu.Unlock()
				if diff := cmp.Diff(tc.asked, asked); diff != "" {
					t.Errorf("%s asked: -want, +got:\n%s", tc.reason, diff)
				}
				if err != nil && strings.Contains(err.Error(), number) {
					t.Errorf("the error names the room: %v", err)
				}
				synctest.Wait()
				time.Sleep(nobodyAnswers) // cancelled requests have ended
			})
		})
	}
}

// TestErrors: LiveKit, and proxies in front of it, fail in every way. The errors say what happened and
// what to do, and repeat neither rooms nor answers.
func TestErrors(t *testing.T) {
	answers := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	twirpError := func(code twirp.ErrorCode) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = twirp.WriteError(w, code.Error(hush+number)) }
	}
	cases := map[string]struct {
		reason string
		server http.HandlerFunc
		want   string
		denied bool
	}{
		"WrongKey":     {reason: "LiveKit says so.", server: twirpError(twirp.Unauthenticated), denied: true, want: `LiveKit refuses API key "key" (401 Unauthorized); check that the secret`},
		"NoRight":      {reason: "The same.", server: twirpError(twirp.PermissionDenied), denied: true, want: `LiveKit refuses API key "key" (403 Forbidden); check that the secret`},
		"Internal":     {reason: "LiveKit's own trouble.", server: twirpError(twirp.Internal), want: "it answers 500 Internal Server Error; LiveKit's log says why"},
		"Unavailable":  {reason: "A node is gone.", server: twirpError(twirp.Unavailable), want: "none of its nodes answers"},
		"BadRoute":     {reason: "A Twirp server, but no LiveKit.", server: twirpError(twirp.BadRoute), want: "it answers 404 Not Found, and not as LiveKit does; check the URL"},
		"Proxy500":     {reason: "A page.", server: answers(500, "text/html", hush), want: "it answers 500 Internal Server Error, and not as LiveKit does"},
		"Proxy503":     {reason: "Not LiveKit's word, so the room may be there.", server: answers(503, "text/plain", "no healthy upstream "+hush), want: "it answers 503 Service Unavailable, and not as LiveKit does"},
		"Redirect":     {reason: "LiveKit does not.", server: answers(302, "text/html", hush), want: "it answers 302 Found, and not as LiveKit does"},
		"EmptyPage":    {reason: "It is not \"no rooms\".", server: answers(200, "text/html; x="+hush, ""), want: "it answers 200 OK, and not as LiveKit does"},
		"Rubbish":      {reason: "The right type, and no list.", server: answers(200, "application/protobuf", hush), want: "its answer is not LiveKit's"},
		"JSON":         {reason: "Another answer than the requested one.", server: answers(200, "application/json", "{}"), want: "it answers 200 OK, and not as LiveKit does"},
		"NoLiveKitID":  {reason: "An unknown status.", server: answers(299, "text/html", hush), want: "it answers 299 , and not as LiveKit does"},
		"Cut":          {reason: "It hangs up.", server: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "it ends the connection before its answer is complete"},
		"NotHTTP":      {reason: "net/http would repeat it.", server: hijacked("SSH-2.0-" + hush + "\r\n\r\n"), want: "it answers what is not HTTP; check the URL"},
		"BadHeader":    {reason: "The same.", server: hijacked("HTTP/1.1 200 OK\r\n" + hush + "\r\n\r\n"), want: "it answers what is not HTTP; check the URL"},
		"ShortContent": {reason: "Less than it said.", server: hijacked("HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 9\r\n\r\n"), want: "it ends the connection before its answer is complete"},
		"HugeHeader":   {reason: "Its headers are bounded.", server: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat(hush, 20_000)) }, want: "it answers what is not HTTP"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ts := httptest.NewUnstartedServer(tc.server)
			ts.Config.ErrorLog = nil
			ts.Start()
			t.Cleanup(ts.Close)
			c := clientOf(t, nil, func(c *Config) { c.URL, c.Transport = ts.URL, BoundHeaders(http.DefaultTransport) })
			_, err := c.Participants(t.Context(), number)
			if err == nil {
				t.Fatalf("%s no error", tc.reason)
			}
			if text := err.Error(); !strings.HasPrefix(text, "cannot list who is in a room of LiveKit: ") || !strings.Contains(text, tc.want) {
				t.Errorf("%s %q, want %q", tc.reason, text, tc.want)
			}
			if text := err.Error(); strings.Contains(text, hush) || strings.Contains(text, "4930") || strings.Contains(text, "secret ") && strings.Contains(text, `"secret"`) {
				t.Errorf("the error repeats what it must not: %q", text)
			}
			if Denied(err) != tc.denied {
				t.Errorf("Denied is %t", Denied(err))
			}
		})
	}
	c := clientOf(t, nil, func(c *Config) { c.URL, c.Transport = "http://127.0.0.1:1", http.DefaultTransport })
	if _, err := c.Rooms(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without a server: %v", err)
	}
}

func hijacked(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte(answer))
		_ = conn.Close()
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Minute) })
		began := time.Now()
		_, err := clientOf(t, hangs, nil).Rooms(t.Context())
		if err == nil || !strings.Contains(err.Error(), "it does not answer within 5s") {
			t.Errorf("a server that hangs: %v", err)
		}
		if took := time.Since(began); took != DefaultTimeout || took <= nobodyAnswers {
			t.Errorf("it took %s", took)
		}
		time.Sleep(time.Minute)
	})
}

func TestValidate(t *testing.T) {
	err := Credentials{URL: "livekit:7880"}.Validate()
	for _, want := range []string{`"livekit:7880"`, "wss://livekit.example.com", "API key is empty", "API secret is empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() = %v, want it to say %s", err, want)
		}
	}
	if err := (Credentials{URL: "x", APISecret: "hush"}).Validate(); strings.Contains(err.Error(), "hush") {
		t.Errorf("the error names the secret: %v", err)
	}
	if _, err := New(Config{Credentials: Credentials{"wss://u:hush@livekit", "key", "secret"}}); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("a URL with a password: %v", err)
	}
}

// TestOneURL: all programs interpret LiveKit's URL in the same way, and reach the same server with it. A
// proxy that cleans paths answers unclean ones with a redirect.
func TestOneURL(t *testing.T) {
	lk := newFake()
	lk.rooms["r"] = nil
	for _, form := range []string{"http://%s", "http://%s/", "http://%s//", "WS://%s", " ws://%s\n", "HTTP://%s/"} {
		mux := http.NewServeMux() // ServeMux cleans paths
		mux.Handle("/", lk)
		ts := httptest.NewServer(mux)
		c := clientOf(t, nil, func(c *Config) {
			c.URL, c.Transport = fmt.Sprintf(form, strings.TrimPrefix(ts.URL, "http://")), http.DefaultTransport
		})
		if rooms, err := c.Rooms(t.Context()); err != nil || len(rooms) != 1 {
			t.Errorf("%q: %v, %v", form, rooms, err)
		}
		ts.Close()
	}
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Minute) })
		ctx, cancel := contextThatEnds(t, time.Second)
		defer cancel()
		if _, err := clientOf(t, hangs, nil).Rooms(ctx); !errors.Is(err, ctx.Err()) {
			t.Errorf("a request that was given up: %v", err)
		}
		time.Sleep(time.Minute)
	})
}

// TestTokensOutlastOtherClocks: a LiveKit whose clock is ten minutes ahead or behind accepts the tokens.
func TestTokensOutlastOtherClocks(t *testing.T) {
	lk := newFake()
	var claims jwt.RegisteredClaims
	lk.instead = func(_ http.ResponseWriter, r *http.Request) bool {
		if _, _, err := jwt.NewParser().ParseUnverified(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), &claims); err != nil {
			t.Error(err)
		}
		return false
	}
	if _, err := clientOf(t, lk, nil).Rooms(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, ahead := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		if now := time.Now().Add(ahead); claims.NotBefore.After(now) || claims.ExpiresAt.Before(now) {
			t.Errorf("a LiveKit that is %s ahead refuses a token that is valid from %s to %s", ahead, claims.NotBefore, claims.ExpiresAt)
		}
	}
}

// TestConnectionsAreKept sends 2,000 requests, sixteen at once: the connections of the first ones are
// reused.
func TestConnectionsAreKept(t *testing.T) {
	var opened atomic.Int64
	ts := httptest.NewUnstartedServer(says(nil))
	ts.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	ts.Start()
	t.Cleanup(ts.Close)
	transport := NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	c := clientOf(t, nil, func(c *Config) { c.URL, c.Transport = ts.URL, transport })
	const atOnce = 16
	var all errgroup.Group
	all.SetLimit(atOnce)
	for range 2000 {
		all.Go(func() error {
			_, err := c.Participants(t.Context(), "room")
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := opened.Load(); n > 2*atOnce {
		t.Errorf("2,000 requests, %d at once, opened %d connections", atOnce, n)
	}
}
