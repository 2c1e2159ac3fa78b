// SPDX-License-Identifier: Apache-2.0

// This story needs the guard for itself for minutes, so make e2e-long runs it.

//go:build long

package drain

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// TestHostileTenants combines all known ways in which neighbours and outsiders could exhaust the memory of adapter
// and guard, while an ordinary tenant drains nodes and has its calls counted. Neither program is killed, and that
// tenant notices nothing.
func TestHostileTenants(t *testing.T) {
	if *memory == 0 {
		t.Fatal("this is about memory: give -memory 256, the limit of the chart")
	}
	well := tell(t, 4)
	well.deploy(4)
	usual := well.rounds(3)

	ill := beginIn(t, well.ns+"-ill", 3, true)
	greedy := ill.beside("greedy")
	projects := ill.beside("projects")
	elsewhere := ill.ns + "-elsewhere" // not enabled
	_, err := stage.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: elsewhere}}, metav1.CreateOptions{})
	well.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), setUp)
		defer cancel()
		if err := stage.DeleteNamespace(ctx, elsewhere); err != nil {
			t.Error(err)
		}
	})
	anyNode := func(d *appsv1.Deployment) { d.Spec.Template.Spec.NodeSelector = map[string]string{storyLabel: ill.ns} }

	t.Log("X1: the gates of 16 pods answer with a mebibyte")
	greedy.deploy(16, anyNode, annotated(map[string]string{call.WitnessesAnnotation: string(call.Gate)}, nil))
	answers := greedy.answerWith(manyJobs)
	t.Log("X6: four projects, each of 20,000 rooms and of 20,000 agents in each room that is asked for")
	server := httptest.NewServer(hostileLiveKit(t))
	t.Cleanup(server.Close)
	for i := range 4 {
		name := fmt.Sprintf("project-%d", i)
		projects.must(stage.Secret(t.Context(), projects.ns, name, local.LiveKit{URL: server.URL, APIKey: "key-" + name, APISecret: strings.Repeat("s", 32) + name}))
		projects.must(create(t, projects.ns, name, anyNode, annotated(map[string]string{call.SecretAnnotation: name}, nil)))
	}
	t.Log("X4: a thousand unsigned webhooks whose bodies never come")
	stalled := stallWebhooks(t, 1000)
	over, stop := context.WithCancel(t.Context())
	var outsider sync.WaitGroup
	outsider.Go(func() {
		for over.Err() == nil {
			stalled.again(over)
		}
	})
	defer outsider.Wait()
	defer stop()
	t.Log("X3: 120 Events of a megabyte and 100 Deployments with 0.7 MB of labels, in a namespace that is not enabled")
	events(t, elsewhere, 120)
	labelled(t, elsewhere, 100)
	for _, s := range []*story{greedy, projects} { // the guard asks the witnesses of pods that should leave
		s.does("annotate", "pods", "--all", "callguard.dev/leave=please")
	}

	now := well.rounds(3)
	t.Logf("usual: %v; beside hostile tenants: %v; gates were asked %d times", usual, now, answers())
	for what, times := range map[string][2]time.Duration{"a drain": {usual.drain, now.drain}, "a metric": {usual.metric, now.metric}} {
		// Polling is only accurate to a second.
		if times[1] > 2*times[0]+time.Second {
			t.Errorf("%s takes %s beside hostile tenants, %s without; want at most twice as long", what, times[1], times[0])
		}
	}
	well.noneDropped()
	taken, err := stage.Memory()
	well.must(err)
	for _, m := range taken {
		t.Logf("%s took %d MiB at most, of %d", m.Program, m.Peak>>20, *memory)
		if m.Kills > 0 {
			t.Errorf("%s was killed %d times for want of memory", m.Program, m.Kills)
		}
	}
	if len(taken) < 2 {
		t.Errorf("the memory of %d programs was watched, want adapter and guard", len(taken))
	}
	if err := stage.Adapter.Alive(); err != nil {
		t.Error(err)
	}
	if answers() == 0 || stalled.up.Load() < 2000 {
		t.Errorf("hostile gates were asked %d times, %d webhooks were begun; want some, and thousands", answers(), stalled.up.Load())
	}
}

// pace is how long things take for a tenant.
type pace struct {
	// drain is from a cordon until no new call is accepted, and from hanging up until the pod may leave.
	drain time.Duration
	// metric is from the answer to a call until the metrics API shows it.
	metric time.Duration
}

// rounds drains a node of the story this many times, with a call on it, and returns the median times.
func (s *story) rounds(n int) pace {
	s.t.Helper()
	var drains, metrics []time.Duration
	for i := range n {
		s.steady(4)
		s.eventually(inTime, "the metric has no calls", func() (bool, error) { return s.counts(0) })
		before := len(s.calls)
		s.first(4)
		began := time.Now()
		s.eventually(inTime, "the metric has the calls", func() (bool, error) { return s.counts(4) })
		metrics = append(metrics, time.Since(began))

		node := s.nodes[i%len(s.nodes)]
		pods := s.pods(on(node))
		began = time.Now()
		drain := s.drain(node)
		s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) {
			return s.so(!slices.ContainsFunc(pods, func(p string) bool { return s.watch.since(p, call.Draining).IsZero() }))
		})
		took := time.Since(began)
		s.hangUpOn(pods...)
		began = time.Now()
		s.eventually(inTime, "the pods of the node may go", func() (bool, error) {
			return s.so(!slices.ContainsFunc(pods, func(p string) bool { return s.watch.since(p, call.Released).IsZero() }))
		})
		drains = append(drains, took+time.Since(began))
		s.ends(drain, inTime)
		s.does("uncordon", node)
		s.hangUp(s.calls[before:]...)
	}
	return pace{middle(drains), middle(metrics)}
}

func middle(times []time.Duration) time.Duration {
	slices.SortFunc(times, cmp.Compare)
	return times[len(times)/2].Round(10 * time.Millisecond)
}

// answerWith answers at the gates' port of every pod of the story, and returns how often it was asked.
func (s *story) answerWith(answer func(pod *corev1.Pod) []byte) func() int64 {
	s.t.Helper()
	list, err := stage.Client.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	var asked atomic.Int64
	for i := range list.Items {
		body := answer(&list.Items[i])
		listener, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", net.JoinHostPort(list.Items[i].Status.PodIP, strconv.Itoa(call.DefaultGatePort)))
		s.must(err)
		server := &http.Server{ReadHeaderTimeout: soon, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			_, _ = w.Write(body) // the client may have hung up
		})}
		go func() { _ = server.Serve(listener) }()
		s.t.Cleanup(func() { _ = server.Close() })
	}
	return asked.Load
}

// manyJobs is an answer of a mebibyte with far too many jobs.
func manyJobs(pod *corev1.Pod) []byte {
	return fmt.Appendf(nil, `{"pod":%q,"known":true,"jobs":[%s{}],"calls":0}`, pod.UID, strings.Repeat("{},", 1<<20/3))
}

// hostileLiveKit answers like a LiveKit server with far too many rooms, and a crowd in each.
func hostileLiveKit(t *testing.T) http.Handler {
	t.Helper()
	const many = 20_000
	rooms, crowd := &livekit.ListRoomsResponse{}, &livekit.ListParticipantsResponse{}
	for i := range many {
		rooms.Rooms = append(rooms.Rooms, &livekit.Room{
			Sid: fmt.Sprintf("RM_%d", i), Name: fmt.Sprintf("%0200d", i), NumParticipants: 1, NumPublishers: 1, Metadata: strings.Repeat("m", 500),
		})
		crowd.Participants = append(crowd.Participants, &livekit.ParticipantInfo{
			Sid: fmt.Sprintf("PA_%d", i), Identity: fmt.Sprintf("agent-%0100d", i), Kind: livekit.ParticipantInfo_AGENT, State: livekit.ParticipantInfo_ACTIVE,
			Attributes: map[string]string{call.PodAttribute: fmt.Sprintf("%036d", i), "more": strings.Repeat("a", 300)},
		})
	}
	encode := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	list, in := encode(rooms), encode(crowd)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/protobuf")
		if strings.HasSuffix(r.URL.Path, "/ListRooms") {
			_, _ = w.Write(list) // the client may have hung up
			return
		}
		_, _ = w.Write(in)
	})
}

// create creates a Deployment of one agent with its own name, and does not wait for it.
func create(t *testing.T, namespace, name string, with ...func(*appsv1.Deployment)) error {
	t.Helper()
	d := lab.Agent(namespace, 1)
	own := map[string]string{"app": name}
	d.Name, d.Spec.Selector.MatchLabels = name, own
	maps.Copy(d.Spec.Template.Labels, own)
	if d.Spec.Template.Annotations == nil {
		d.Spec.Template.Annotations = map[string]string{}
	}
	for _, change := range with {
		change(d)
	}
	_, err := stage.Client.AppsV1().Deployments(namespace).Create(t.Context(), d, metav1.CreateOptions{})
	return err
}

// stalledWebhooks sends the headers of unsigned webhooks, without bodies.
type stalledWebhooks struct {
	at *url.URL
	n  int
	up atomic.Int64 // how many were sent
}

// stallWebhooks sends this many at once.
func stallWebhooks(t *testing.T, n int) *stalledWebhooks {
	t.Helper()
	at, err := url.Parse(stage.Adapter.Webhooks)
	if err != nil {
		t.Fatal(err)
	}
	w := &stalledWebhooks{at: at, n: n}
	w.again(t.Context())
	return w
}

// again sends them, waits until they are answered or dropped, and hangs up.
func (w *stalledWebhooks) again(ctx context.Context) {
	var all sync.WaitGroup
	for range w.n {
		conn, err := (&net.Dialer{Timeout: soon}).DialContext(ctx, "tcp", w.at.Host)
		if err != nil {
			continue // refused: that is fine, too
		}
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/webhook+json\r\nContent-Length: 262144\r\n\r\n{", w.at.Path, w.at.Host); err == nil {
			w.up.Add(1)
		}
		all.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			_, _ = io.Copy(io.Discard, conn) // until it ends
			_ = conn.Close()
		})
	}
	all.Wait()
}

// events creates Events of a megabyte each.
func events(t *testing.T, namespace string, n int) {
	t.Helper()
	at := metav1.Now()
	for i := range n {
		_, err := stage.Client.CoreV1().Events(namespace).Create(t.Context(), &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("large-%d", i)},
			InvolvedObject: corev1.ObjectReference{Kind: "ReplicaSet", APIVersion: "apps/v1", Namespace: namespace, Name: "none"},
			Reason:         "FailedDelete", Message: strings.Repeat("m", 1000), Type: corev1.EventTypeWarning, FirstTimestamp: at, LastTimestamp: at, Count: 1,
			Source: corev1.EventSource{Component: strings.Repeat("c", 1_000_000)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// labelled creates Deployments without pods whose labels have 0.7 MB each.
func labelled(t *testing.T, namespace string, n int) {
	t.Helper()
	labels := map[string]string{}
	for i := range 2200 {
		labels[fmt.Sprintf("%s.example.com/key-%d", strings.Repeat("p", 63)+strings.Repeat("."+strings.Repeat("q", 60), 2), i)] = strings.Repeat("v", 63)
	}
	for i := range n {
		_, err := stage.Client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("large-%d", i), Labels: labels},
			Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "large"}},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "large"}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "none", Image: "none"}}},
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}
