// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/witness/poll"
	"github.com/callguard/callguard/test/trial"
)

func TestParse(t *testing.T) {
	cases := map[string]struct {
		reason string
		body   string
		want   int
		known  bool
		fails  string
	}{
		"Busy":       {reason: "A gate's number counts.", body: `{"pod":"a","known":true,"calls":3}`, want: 3, known: true},
		"Idle":       {reason: "A zero that is said is one.", body: `{"pod":"a","known":true,"calls":0}`, known: true},
		"Unknown":    {reason: "A gate that cannot tell says so.", body: `{"pod":"a","known":false,"calls":0,"reason":"just started"}`},
		"OtherPod":   {reason: "An address is used again; another pod's zero is not this one's.", body: `{"pod":"b","known":true,"calls":0}`, fails: `that of pod "b"`},
		"NoCalls":    {reason: "A missing number is not zero.", body: `{"pod":"a","known":true}`, fails: "names no calls"},
		"NoKnown":    {reason: "Another server's page is no gate's.", body: `{"calls":0}`, fails: "names no calls"},
		"Negative":   {reason: "Fewer than none is a mistake.", body: `{"pod":"a","known":true,"calls":-1}`, fails: "no number of calls"},
		"TooMany":    {reason: "More than any pod holds is a mistake.", body: `{"pod":"a","known":true,"calls":10000000}`, fails: "no number of calls"},
		"HTML":       {reason: "A proxy's page is not zero.", body: `<html>`, fails: "not a gate's"},
		"Null":       {reason: "Nothing said is not zero.", body: `null`, fails: "not a gate's"},
		"NewField":   {reason: "A newer gate may say more.", body: `{"pod":"a","known":true,"calls":1,"mood":"good"}`, want: 1, known: true},
		"Used":       {reason: "A worker has come.", body: `{"pod":"a","known":true,"used":true,"calls":1}`, want: 1, known: true},
		"Unused":     {reason: "The agent may go past its gate.", body: `{"pod":"a","known":false,"used":false,"calls":0,"reason":"no worker has come to it"}`},
		"Cut":        {reason: "Half an answer is none.", body: `{"pod":"a","known":true,"calls":0,`, fails: "not a gate's"},
		"CutJobs":    {reason: "The jobs are not needed, so they may be cut off.", body: `{"pod":"a","known":true,"calls":2,"jobs":[{"id":"AJ_1"`, want: 2, known: true},
		"JobsFirst":  {reason: "The order of fields is not guaranteed.", body: `{"jobs":[{"id":"AJ_1"}],"pod":"a","known":true,"calls":2}`, want: 2, known: true},
		"CutFirst":   {reason: "Fields after jobs that are cut off are unknown.", body: `{"jobs":[{"id":"AJ_1"`, fails: "names no calls"},
		"WrongTypes": {reason: "A number in quotes is not one.", body: `{"pod":"a","known":true,"calls":"0"}`, fails: "not a gate's"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			answer, err := parse([]byte(tc.body), "a")
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Fatalf("%s parse(%s) = %v; want an error that says %q", tc.reason, tc.body, err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, known := answer.reading(time.Time{}).Calls()
			if got != tc.want || known != tc.known {
				t.Errorf("%s %d, %t; want %d, %t", tc.reason, got, known, tc.want, tc.known)
			}
		})
	}
}

// TestAbility reads whether a pod can take calls. The guard reports it as one word of a
// closed set, whatever a pod writes.
func TestAbility(t *testing.T) {
	cases := map[string]struct {
		reason string
		body   string
		want   call.Ability
	}{
		"Before":  {reason: "An older gate does not report it: it is judged as before.", body: `{"pod":"a","known":true,"calls":0}`, want: call.Unsaid},
		"Able":    {reason: "A worker is registered.", body: `{"pod":"a","known":true,"calls":0,"able":true,"registered":1}`, want: call.Able},
		"Refused": {reason: "LiveKit refuses its key.", body: `{"pod":"a","known":true,"calls":0,"able":false,"unable":"refused"}`, want: call.Refused},
		"Unknown": {reason: "A gate that does not know its calls knows that.", body: `{"pod":"a","known":false,"calls":0,"able":false,"unable":"gone"}`, want: call.Gone},
		"Newer":   {reason: "A reason that is not known is one all the same.", body: `{"pod":"a","known":true,"calls":0,"able":false,"unable":"on-holiday"}`, want: call.OtherwiseNo},
		"Foreign": {reason: "Text from a pod goes no further.", body: `{"pod":"a","known":true,"calls":0,"able":false,"unable":"+4930123456 <script>"}`, want: call.OtherwiseNo},
		"Claims":  {reason: "A word that is no reason is none.", body: `{"pod":"a","known":true,"calls":0,"able":false,"unable":"able"}`, want: call.OtherwiseNo},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			answer, err := parse([]byte(tc.body), "a")
			if err != nil {
				t.Fatal(err)
			}
			if got := answer.reading(time.Now()).Ability(); got != tc.want {
				t.Errorf("%s\n%q; want %q", tc.reason, got, tc.want)
			}
		})
	}
}

// TestReasonsAreShort: reasons appear in Events.
func TestReasonsAreShort(t *testing.T) {
	answer, err := parse([]byte(`{"pod":"a","known":false,"calls":0,"reason":"`+strings.Repeat("long \\n", 10_000)+`"}`), "a")
	if err != nil {
		t.Fatal(err)
	}
	if why := answer.reading(time.Now()).Reason(); len(why) > maxReason+100 || strings.ContainsAny(why, "\n\t") {
		t.Errorf("%d bytes: %q", len(why), why)
	}
}

// TestJobsComeLast: the part of an answer that readers use comes before the part of
// unlimited length.
func TestJobsComeLast(t *testing.T) {
	able := true
	raw, err := json.Marshal(Answer{Reason: "r", Draining: "d", Able: &able, AbleSince: time.Now(), Unable: "u", UnableWhy: "w", LiveKit: "l", Jobs: []Job{{}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, after, found := strings.Cut(string(raw), `"jobs":[`); !found || strings.TrimLeft(after, "]}") == "" || !strings.HasSuffix(after, "}]}") {
		t.Errorf("the jobs are not the last field of %s", raw)
	}
}

// TestPodOfAThousandJobs: an honest answer may be longer than the part that is read.
func TestPodOfAThousandJobs(t *testing.T) {
	answer := Answer{Pod: "a", Known: true, Used: true, Calls: 1000, Running: 1000, Registered: 1, LiveKit: "https://livekit.example.com"}
	for i := range answer.Calls {
		answer.Jobs = append(answer.Jobs, Job{ID: fmt.Sprintf("AJ_%06d", i), State: "running", Since: time.Now(), Started: time.Now()})
	}
	r, pod := answering(t, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) })
	reading, got := r.Ask(t.Context(), pod)
	if n, known := reading.Calls(); n != 1000 || !known || got.LiveKit != answer.LiveKit {
		t.Errorf("%d, %t (%s), %+v; want a thousand calls", n, known, reading.Reason(), got)
	}
}

// answering returns a reader and the pod whose gate gives this answer.
func answering(t *testing.T, gate http.HandlerFunc) (*Reader, *call.Pod) {
	t.Helper()
	server := httptest.NewServer(gate)
	t.Cleanup(server.Close)
	address := server.Listener.Addr().(*net.TCPAddr)
	return NewReader(poll.Config{Interval: time.Second, Timeout: 10 * time.Second, Registry: prometheus.NewRegistry()}),
		&call.Pod{UID: "a", IP: address.IP.String(), GatePort: address.Port, Running: true, Witnesses: []call.Witness{call.Gate}}
}

// TestHostileAnswersTakeNoMemory: the owner of a pod controls what its gate answers. A
// reader allocates far less for it than the answer's length.
func TestHostileAnswersTakeNoMemory(t *testing.T) {
	const (
		asks = 10
		most = 512 << 10 // bytes for each, including the test's server
	)
	head := `{"pod":"a","known":true,"calls":0,`
	long := func(before, each, after string) []byte {
		return []byte(before + strings.Repeat(each, (4<<20)/len(each)) + after)
	}
	var packed bytes.Buffer
	packer := gzip.NewWriter(&packed)
	_, _ = packer.Write(long(head+`"jobs":[{}`, ",{}", "]}"))
	_ = packer.Close()
	for name, tc := range map[string]struct {
		body   []byte
		header http.Header
		known  bool
	}{
		"Jobs":   {body: long(head+`"jobs":[{}`, ",{}", "]}"), known: true},
		"Reason": {body: long(head+`"reason":"`, "why ", `"}`)},
		"Fields": {body: long(head+`"a":0`, `,"b":[[[[]]]]`, `}`)},
		"Nested": {body: long(head+`"a":`, "[", "")},
		"Spaces": {body: long("", " ", head)},
		"Packed": {body: packed.Bytes(), header: http.Header{"Content-Encoding": {"gzip"}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, pod := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				maps.Copy(w.Header(), tc.header)
				_, _ = w.Write(tc.body)
			})
			// A learner reads more than other readers.
			r := NewLearner(poll.Config{Interval: time.Second, Timeout: 10 * time.Second, Registry: prometheus.NewRegistry()}, nil)
			r.Ask(t.Context(), pod)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range asks {
				reading, answer := r.Ask(t.Context(), pod)
				if reading.Known() != tc.known || !tc.known && reading.Reason() == "" || answer.Jobs != nil {
					t.Fatalf("known: %t (%q), %d jobs; want %t, and none", reading.Known(), reading.Reason(), len(answer.Jobs), tc.known)
				}
			}
			runtime.ReadMemStats(&after)
			if each := (after.TotalAlloc - before.TotalAlloc) / asks; each > most {
				t.Errorf("each answer took %d bytes; want at most %d", each, most)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"pod":"a","known":true,"calls":3,"jobs":[{"id":"AJ_1"}]}`, `{"pod":"a","at":"2026-01-02T16:00:00Z","known":true,"calls":1,"jobs":[{"id":"AJ_1","started":"2026-01-02T15:59:00Z"}]}`, `{"pod":"a","known":false,"reason":"x"}`, `{"pod":null`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, err := parse(body, "a")
		if answer.Jobs != nil || answer.Calls < 0 || answer.Calls > maxCalls || err != nil && answer.Known || err == nil && answer.Pod != "a" {
			t.Errorf("parse(%q) = %+v, %v", body, answer, err)
		}
		learnt, learntErr := parseLives(body, "a")
		if lives := learnt.Lives; len(lives) > maxLives || lives != nil && !learnt.Whole {
			t.Errorf("of %q the ages of %d calls were read, of all: %t", body, len(lives), learnt.Whole)
		}
		learnt.Lives, learnt.Whole = nil, false
		if diff := cmp.Diff(answer, learnt); diff != "" || (err == nil) != (learntErr == nil) {
			t.Errorf("a learner reads %q as something else: %v, %v\n%s", body, err, learntErr, diff)
		}
	})
}

// TestReader: a gate answers, fails in every way, and recovers.
func TestReader(t *testing.T) {
	var status atomic.Int64
	var body atomic.Value
	status.Store(http.StatusOK)
	body.Store(`{"pod":"a","known":true,"calls":2,"draining":"drain 2026-01-02T15:04:05Z"}`)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != Path {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(int(status.Load()))
		_, _ = fmt.Fprint(w, body.Load())
	}))
	defer server.Close()
	host, portText, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	pod := &call.Pod{UID: "a", IP: host, GatePort: port, Running: true, Witnesses: []call.Witness{call.Gate}}
	r := NewReader(poll.Config{
		Pod: func(uid types.UID) *call.Pod {
			if uid == pod.UID {
				return pod
			}
			return nil
		},
		Interval: 20 * time.Millisecond, MaxStaleness: 10 * time.Second, Timeout: time.Second, Concurrency: 2,
		Registry: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	reading, answer := r.Ask(ctx, pod)
	if n, known := reading.Calls(); n != 2 || !known || answer.Draining == "" || answer.Drained {
		t.Errorf("Ask = %d, %t, %+v; want 2 calls of a draining gate", n, known, answer)
	}
	r.Watch(pod.UID)
	trial.Eventually(t, "the gate is asked", func() bool { n, known := r.Reading(pod, time.Now()).Calls(); return known && n == 2 })

	status.Store(http.StatusBadGateway)
	trial.Eventually(t, "Ask fails", func() bool {
		reading, answer := r.Ask(ctx, pod)
		return !reading.Known() && cmp.Equal(answer, Answer{})
	})
	if n, known := r.Reading(pod, time.Now()).Calls(); !known || n != 2 {
		t.Errorf("an earlier reading must stay valid for a while; got %d, %t", n, known)
	}
	trial.Eventually(t, "the failure is the reason once the reading is stale", func() bool {
		return strings.Contains(r.Reading(pod, time.Now().Add(time.Minute)).Reason(), "502")
	})

	status.Store(http.StatusOK)
	body.Store(`{"pod":"a","known":false,"calls":0,"reason":"just started"}`)
	trial.Eventually(t, "a gate that cannot tell is unknown at once", func() bool { return !r.Reading(pod, time.Now()).Known() })
	body.Store(`{"pod":"a","known":true,"calls":0,"draining":"drain 2026-01-02T15:04:05Z","drained":true}`)
	trial.Eventually(t, "it is drained", func() bool { reading, answer := r.Ask(ctx, pod); return reading.Known() && answer.Drained })

	if reading, _ := r.Ask(ctx, &call.Pod{UID: "b", IP: host, GatePort: port}); reading.Known() {
		t.Error("the answer of another pod's gate must not count")
	}
	if reading, _ := r.Ask(ctx, &call.Pod{UID: "a"}); reading.Known() {
		t.Error("a pod without an address is unknown")
	}
}

// TestUnused asks a gate to which no worker has connected, for readers that may end calls
// because of the answer, and for others.
func TestUnused(t *testing.T) {
	for body, want := range map[string][2]bool{ // known to the former, and to the latter
		`{"pod":"a","known":false,"used":false,"calls":0}`: {false, true},
		`{"pod":"a","known":false,"used":true,"calls":0}`:  {false, false},
		`{"pod":"a","known":false,"calls":0}`:              {false, false}, // a gate of an earlier version
		`{"pod":"a","known":true,"used":true,"calls":0}`:   {true, true},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, body) }))
		address := server.Listener.Addr().(*net.TCPAddr)
		pod := &call.Pod{UID: "a", IP: address.IP.String(), GatePort: address.Port, Running: true, Witnesses: []call.Witness{call.Gate}}
		for i, newReader := range []func(poll.Config) *Reader{NewReader, NewLenientReader} {
			r := newReader(poll.Config{Interval: time.Second, Timeout: 5 * time.Second, Registry: prometheus.NewRegistry()})
			if reading, _ := r.Ask(t.Context(), pod); reading.Known() != want[i] {
				t.Errorf("%s is known: %t to reader %d; want %t", body, reading.Known(), i, want[i])
			}
		}
		server.Close()
	}
}
