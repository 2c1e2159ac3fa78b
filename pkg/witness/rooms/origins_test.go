// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

const team = call.Project("team/livekit")

// at returns a time in minutes after noon.
func at(minutes int) time.Time {
	return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(minutes) * time.Minute)
}

// says returns a version with a server and a key, written at a time in minutes after noon.
func says(server string, minutes int) Version {
	return Version{Credentials: livekit.Credentials{URL: "https://" + server, APIKey: "key-" + server, APISecret: "secret"}, Since: at(minutes)}
}

func original(v Version) Version {
	v.Original = true
	return v
}

func undated(v Version) Version {
	v.Since = time.Time{}
	return v
}

func always(v Version) Version {
	v.Always = true
	return v
}

// under returns a version whose URL is in a key of a Secret.
func under(key string, v Version) Version {
	v.URLKey = key
	return v
}

// read is one read of a project whose newest pod was created this many minutes after noon.
type read struct {
	version Version
	newest  int
}

func TestWhichServersAPodMayWorkFor(t *testing.T) {
	cases := map[string]struct {
		reason string
		reads  []read
		told   string // by the pod's gate
		born   int
		want   []string
		why    string // the end of the reason, if it is not known
	}{
		"Original":          {reason: "A Secret that is as it was made was never another.", reads: []read{{original(says("a", 5)), 9}}, born: 0, want: []string{"https://a"}},
		"Later":             {reason: "Created after the current content was written.", reads: []read{{says("a", 5), 9}}, born: 9, want: []string{"https://a"}},
		"SameSecond":        {reason: "An install makes both at once.", reads: []read{{says("a", 5), 9}}, born: 5, want: []string{"https://a"}},
		"WrittenBeforeUs":   {reason: "The overwritten content is unknown.", reads: []read{{says("b", 5), 9}}, born: 0, why: "annotate the Secret callguard.dev/same-url=https://b"},
		"OwnerSaysSo":       {reason: "A key was rotated, says the owner.", reads: []read{{always(says("b", 5)), 9}}, born: 0, want: []string{"https://b"}},
		"GateSaysSo":        {reason: "The gate has been started with it.", reads: []read{{says("b", 5), 9}}, told: "wss://b/", born: 0, want: []string{"https://b"}},
		"GateSaysAnother":   {reason: "Without a key of a server nothing is known about it.", reads: []read{{says("b", 5), 9}}, told: "wss://a", born: 0, why: "is not known which LiveKit project has its calls"},
		"Rewritten":         {reason: "It works for the one it was born with, or since it started again for the new one.", reads: []read{{original(says("a", 0)), 3}, {says("b", 5), 9}}, born: 3, want: []string{"https://a", "https://b"}},
		"BornAfterwards":    {reason: "Only the new one.", reads: []read{{original(says("a", 0)), 3}, {says("b", 5), 9}}, born: 6, want: []string{"https://b"}},
		"Thrice":            {reason: "Any that there was since it was born.", reads: []read{{original(says("a", 0)), 1}, {says("b", 2), 3}, {says("c", 4), 5}}, born: 3, want: []string{"https://b", "https://c"}},
		"ThereAndBack":      {reason: "Each once.", reads: []read{{original(says("a", 0)), 1}, {says("b", 2), 3}, {says("a", 4), 5}}, born: 1, want: []string{"https://b", "https://a"}},
		"KeyRotated":        {reason: "All keys of a server see the same rooms.", reads: []read{{original(says("a", 0)), 3}, {says("a", 5), 9}}, born: 3, want: []string{"https://a"}},
		"WrittenOtherwise":  {reason: "The same server.", reads: []read{{original(says("a", 0)), 3}, {says("a/", 5), 9}}, born: 3, want: []string{"https://a"}},
		"MadeAgain":         {reason: "The Secret was deleted and made again as another.", reads: []read{{original(says("a", 0)), 3}, {original(says("b", 5)), 9}}, born: 3, want: []string{"https://a", "https://b"}},
		"NotReadSince":      {reason: "It may have been written over since the last read.", reads: []read{{original(says("a", 0)), 3}}, born: 4, why: "has not been looked up since this pod was born"},
		"Files":             {reason: "The first content of files counts as what they always had.", reads: []read{{undated(says("a", 0)), 3}}, born: 0, want: []string{"https://a"}},
		"OtherKey":          {reason: "One key was removed, and another was written long ago: it is unknown since when that one is used.", reads: []read{{under("url", says("b", 5)), 9}, {under("LIVEKIT_URL", original(says("a", 0))), 9}}, born: 6, want: []string{"https://b", "https://a"}},
		"OtherKeySameURL":   {reason: "The same server under another key.", reads: []read{{under("LIVEKIT_URL", original(says("a", 0))), 3}, {under("url", says("a", 5)), 9}}, born: 3, want: []string{"https://a"}},
		"FilesChanged":      {reason: "Pods that exist when it is seen may be older.", reads: []read{{undated(says("a", 0)), 3}, {undated(says("b", 0)), 9}}, born: 9, want: []string{"https://a", "https://b"}},
		"FilesChangedLater": {reason: "Those that come later are not.", reads: []read{{undated(says("a", 0)), 3}, {undated(says("b", 0)), 9}, {undated(says("b", 0)), 11}}, born: 11, want: []string{"https://b"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var now Version
			o := NewOrigins(func(context.Context, call.Project) (Version, error) { return now, nil })
			for _, r := range tc.reads {
				now = r.version
				if _, err := o.Get(t.Context(), team, at(r.newest)); err != nil {
					t.Fatal(err)
				}
			}
			o.Tell("pod", tc.told)
			got, err := o.Of(&call.Pod{UID: "pod", Project: team, Born: at(tc.born)})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s -want, +got:\n%s", tc.reason, diff)
			}
			if (err != nil) != (tc.why != "") || err != nil && !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%s: %v; want %q", tc.reason, err, tc.why)
			}
		})
	}
}

// TestWhenASecretWasWritten: the time comes from the API server's record of each field.
func TestWhenASecretWasWritten(t *testing.T) {
	made := metav1.NewTime(at(0))
	wrote := func(minutes int, fields string) metav1.ManagedFieldsEntry {
		when := metav1.NewTime(at(minutes))
		return metav1.ManagedFieldsEntry{Time: &when, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	all := `{"f:data":{".":{},"f:api-key":{},"f:api-secret":{},"f:url":{}},"f:type":{}}`
	ours, livekits := call.SecretKeys{URL: "url", APIKey: "api-key", APISecret: "api-secret"}, call.SecretKeys{URL: "LIVEKIT_URL", APIKey: "LIVEKIT_API_KEY", APISecret: "LIVEKIT_API_SECRET"}
	cases := map[string]struct {
		reason   string
		fields   []metav1.ManagedFieldsEntry
		same     string
		keys     call.SecretKeys
		since    int
		original bool
		always   bool
	}{
		"AsMade":       {"Nobody has written it since.", []metav1.ManagedFieldsEntry{wrote(0, all)}, "", ours, 0, true, false},
		"Rewritten":    {"Whoever writes all three.", []metav1.ManagedFieldsEntry{wrote(5, all)}, "", ours, 5, false, false},
		"KeyAlone":     {"Another has written the key, and not the URL.", []metav1.ManagedFieldsEntry{wrote(0, all), wrote(5, `{"f:data":{"f:api-key":{}}}`)}, "", ours, 0, true, false},
		"Label":        {"Nor is a label the URL.", []metav1.ManagedFieldsEntry{wrote(0, all), wrote(5, `{"f:metadata":{"f:labels":{}}}`)}, "", ours, 0, true, false},
		"Said":         {"Its owner says that it was never another.", []metav1.ManagedFieldsEntry{wrote(5, all)}, "https://livekit.example/", ours, 5, false, true},
		"LiveKits":     {"The URL is where LiveKit has it.", []metav1.ManagedFieldsEntry{wrote(0, all), wrote(5, `{"f:data":{"f:LIVEKIT_URL":{}}}`)}, "", livekits, 5, false, false},
		"AnothersKey":  {"A key that is not read is not the URL.", []metav1.ManagedFieldsEntry{wrote(0, all), wrote(5, `{"f:data":{"f:LIVEKIT_URL":{}}}`)}, "", ours, 0, true, false},
		"SaidOfBefore": {"What the owner said of an earlier URL counts no more.", []metav1.ManagedFieldsEntry{wrote(5, all)}, "wss://old.example", ours, 5, false, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := versionOf(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made, ManagedFields: tc.fields, Annotations: map[string]string{call.SameURLAnnotation: tc.same}},
				Data: map[string][]byte{
					"url": []byte("wss://livekit.example\n"), "api-key": []byte("key"), "api-secret": []byte("secret"),
					"LIVEKIT_URL": []byte("wss://livekit.example"), "LIVEKIT_API_KEY": []byte("key"), "LIVEKIT_API_SECRET": []byte("secret"),
				},
			}, tc.keys)
			want := Version{Credentials: livekit.Credentials{URL: "wss://livekit.example", APIKey: "key", APISecret: "secret"}, URLKey: tc.keys.URL, Since: at(tc.since), Original: tc.original, Always: tc.always}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestRememberedCredentials: a Secret that was deleted, or may not be read any more, is
// remembered for as long as a pod names it.
func TestRememberedCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone, named atomic.Bool
		var asked atomic.Int64
		named.Store(true)
		o := NewOrigins(func(_ context.Context, project call.Project) (Version, error) {
			asked.Add(1)
			if gone.Load() || project != team {
				return Version{}, errors.New("forbidden")
			}
			return original(says("a", 0)), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- o.Keep(ctx, func() map[call.Project]call.Births {
				if named.Load() {
					return map[call.Project]call.Births{team: {}}
				}
				return nil
			})
		}()
		time.Sleep(10 * time.Minute)
		if n := asked.Load(); n == 0 || n > 12 {
			t.Errorf("the Secret was read %d times in ten minutes", n)
		}
		gone.Store(true)
		time.Sleep(time.Hour)
		if got, err := o.Get(t.Context(), team, at(0)); err != nil || got.URL != "https://a" {
			t.Errorf("an hour after it is gone: %+v, %v", got, err)
		}
		if _, err := o.Get(t.Context(), "team/other", at(0)); err == nil {
			t.Error("a Secret that was never read is known")
		}
		named.Store(false)
		time.Sleep(time.Minute)
		if _, err := o.Get(t.Context(), team, at(0)); err == nil {
			t.Error("no pod names it any more, and it is remembered")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSecretRewritten changes a Secret to another LiveKit during a call: an older pod keeps
// its call until that ends, a newer pod is idle, and a process that starts afterwards does
// not know.
func TestSecretRewritten(t *testing.T) {
	first, second := newFakeLiveKit(), newFakeLiveKit()
	first.rooms["r"] = agentOf("PA_1", "old")
	var now atomic.Pointer[Version]
	credentials := func(lk *fakeLiveKit, minutes int) Version {
		server := httptest.NewServer(lk)
		t.Cleanup(server.Close)
		return Version{Credentials: livekit.Credentials{URL: server.URL, APIKey: "key", APISecret: "secret"}, Since: at(minutes)}
	}
	a, b := original(credentials(first, 0)), credentials(second, 5)
	first.secret, second.secret = "secret", "secret"
	now.Store(&a)
	run := func() *Projects {
		p := NewProjects(ProjectsConfig{
			Secret:    func(context.Context, types.NamespacedName, call.SecretKeys) (Version, error) { return *now.Load(), nil },
			Transport: http.DefaultTransport, OnlyWanted: true, Settings: testSettings(),
			Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return p
	}
	is := func(p *Projects, pod *call.Pod, want int) func() bool {
		return func() bool {
			n, known := p.Reading(pod, time.Now()).Calls()
			return known && n == want
		}
	}
	old, young := &call.Pod{UID: "old", Project: team, Born: at(1)}, &call.Pod{UID: "young", Project: team, Born: at(9)}
	p := run()
	p.Want(map[call.Project]call.Births{team: call.Births{}.With(old.Born)})
	trial.Eventually(t, "the call is read", is(p, old, 1))

	now.Store(&b)
	p.Want(map[call.Project]call.Births{team: call.Births{}.With(old.Born).With(young.Born)})
	trial.Eventually(t, "the new pod is idle", is(p, young, 0))
	trial.Eventually(t, "the old pod has its call", is(p, old, 1))
	late := run()
	late.Want(map[call.Project]call.Births{team: call.Births{}.With(old.Born).With(young.Born)})
	trial.Eventually(t, "who comes late knows the new pod", is(late, young, 0))
	if r := late.Reading(old, time.Now()); r.Known() || !strings.Contains(r.Reason(), "may have changed since this pod was born") {
		t.Errorf("a later process reports about the old pod: %+v", r)
	}
	for until := time.Now().Add(3 * testSettings().MaxStaleness); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if is(p, old, 0)() {
			t.Fatal("the call reads as zero")
		}
	}
	first.set(func() { clear(first.rooms) })
	trial.Eventually(t, "the call is over", is(p, old, 0))
	second.set(func() { second.rooms["s"] = agentOf("PA_2", "old") })
	trial.Eventually(t, "its container has started again, and has a call on the new server", is(p, old, 1))
	second.set(func() { clear(second.rooms) })
	trial.Eventually(t, "that call is over, too", is(p, old, 0))
	second.set(func() {
		second.break_ = func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusBadGateway); return true }
	})
	trial.Eventually(t, "nobody knows while the new server does not answer", func() bool { return !p.Reading(old, time.Now()).Known() })
	p.Want(map[call.Project]call.Births{team: call.Births{}.With(young.Born)})
	trial.Eventually(t, "the old server is read no more", func() bool {
		p.mu.RLock()
		defer p.mu.RUnlock()
		return len(p.readers[team]) == 1
	})
}
