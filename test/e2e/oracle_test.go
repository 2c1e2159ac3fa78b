// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	lksdk "github.com/livekit/server-sdk-go/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/client/custom_metrics"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// The projects of the oracle: the adapter's own, a team's, one whose agents name no pod,
// and one whose Secret is missing.
const (
	ownProject = iota
	teamProject
	namelessProject
	missingProject
)

// oraclePod is a pod and its calls.
type oraclePod struct {
	rooms     int    // agents of the pod, each in a room of its own
	worker    string // body of GET /worker; a number is a status; nothing is no server
	witnesses string
	port      int // of GET /worker
	project   int
	others    string // other participants in LiveKit
	then      string // what happens to the pod in the end
}

const (
	pythonIdle = `{"worker_type":"JT_ROOM","sdk_version":"1.7.0"}`
	pythonBusy = `{"worker_type":"JT_ROOM","active_jobs":3.0,"sdk_version":"1.7.0"}`
	nodeIdle   = `{"worker_type":"JT_ROOM","active_jobs":0,"sdk_version":"1.9.0","project_type":"nodejs"}`
	nodeBusy   = `{"worker_type":"JT_ROOM","active_jobs":2,"sdk_version":"1.9.0","project_type":"nodejs"}`
)

// oracleCase is a namespace with its pods, and the expected metrics.
type oracleCase struct {
	reason  string
	pods    map[string]oraclePod
	disable bool             // the namespace is not enabled
	list    map[string]int64 // of the pods; nil is a 503
	because string           // in the 503
	none    bool             // the namespace itself has no metric: 404
}

func oracle() map[string]oracleCase {
	rooms, worker := "rooms", "worker"
	return map[string]oracleCase{
		"no-pods":             {reason: "An enabled namespace without pods holds no calls.", list: map[string]int64{}},
		"idle":                {reason: "Known to be idle by its rooms.", pods: map[string]oraclePod{"a": {witnesses: rooms}}, list: map[string]int64{"a": 0}},
		"one-call":            {reason: "An agent in a room is a call.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms}}, list: map[string]int64{"a": 1}},
		"five-calls":          {reason: "Each room is a call.", pods: map[string]oraclePod{"a": {rooms: 5, witnesses: rooms}}, list: map[string]int64{"a": 5}},
		"two-pods":            {reason: "Each pod has its own.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms}, "b": {rooms: 2, witnesses: rooms}}, list: map[string]int64{"a": 1, "b": 2}},
		"busy-and-idle":       {reason: "Idle pods are in the list.", pods: map[string]oraclePod{"a": {rooms: 3, witnesses: rooms}, "b": {witnesses: rooms}}, list: map[string]int64{"a": 3, "b": 0}},
		"default-idle":        {reason: "Both witnesses say idle.", pods: map[string]oraclePod{"a": {worker: pythonIdle}}, list: map[string]int64{"a": 0}},
		"default-busy":        {reason: "The largest known number counts: the worker's.", pods: map[string]oraclePod{"a": {rooms: 1, worker: pythonBusy}}, list: map[string]int64{"a": 3}},
		"default-rooms":       {reason: "The largest known number counts: the rooms'.", pods: map[string]oraclePod{"a": {rooms: 4, worker: pythonBusy}}, list: map[string]int64{"a": 4}},
		"default-no-worker":   {reason: "One witness that knows is enough.", pods: map[string]oraclePod{"a": {rooms: 2}}, list: map[string]int64{"a": 2}},
		"worker-python-idle":  {reason: "Python leaves zero out.", pods: map[string]oraclePod{"a": {worker: pythonIdle, witnesses: worker}}, list: map[string]int64{"a": 0}},
		"worker-python-busy":  {reason: "Python writes floats.", pods: map[string]oraclePod{"a": {worker: pythonBusy, witnesses: worker}}, list: map[string]int64{"a": 3}},
		"worker-node-idle":    {reason: "Node writes integers.", pods: map[string]oraclePod{"a": {worker: nodeIdle, witnesses: worker}}, list: map[string]int64{"a": 0}},
		"worker-node-busy":    {reason: "Node writes integers.", pods: map[string]oraclePod{"a": {worker: nodeBusy, witnesses: worker}}, list: map[string]int64{"a": 2}},
		"worker-other-port":   {reason: "The agent's port is an annotation.", pods: map[string]oraclePod{"a": {worker: nodeBusy, witnesses: worker, port: 9099}}, list: map[string]int64{"a": 2}},
		"worker-silent":       {reason: "Nothing listens: unknown.", pods: map[string]oraclePod{"a": {witnesses: worker}}, because: "1 of 1 pods are unknown"},
		"worker-500":          {reason: "A failing agent is unknown.", pods: map[string]oraclePod{"a": {worker: "500", witnesses: worker}}, because: "500"},
		"worker-404":          {reason: "Another server on the port is unknown.", pods: map[string]oraclePod{"a": {worker: "404", witnesses: worker}}, because: "404"},
		"worker-rubbish":      {reason: "An empty object is no zero.", pods: map[string]oraclePod{"a": {worker: "{}", witnesses: worker}}, because: "sdk_version"},
		"worker-and-rooms-no": {reason: "Rooms alone are not asked where they are no witness.", pods: map[string]oraclePod{"a": {rooms: 5, worker: nodeBusy, witnesses: worker}}, list: map[string]int64{"a": 2}},
		"witness-typo":        {reason: "A typo means the default.", pods: map[string]oraclePod{"a": {rooms: 1, worker: pythonBusy, witnesses: "worke"}}, list: map[string]int64{"a": 3}},
		"half-unknown":        {reason: "Half of the pods are enough; the unknown one is left out.", pods: map[string]oraclePod{"a": {worker: nodeBusy, witnesses: worker}, "b": {witnesses: worker}}, list: map[string]int64{"a": 2}},
		"most-unknown":        {reason: "Less than half is too little.", pods: map[string]oraclePod{"a": {worker: nodeBusy, witnesses: worker}, "b": {witnesses: worker}, "c": {witnesses: worker}}, because: "2 of 3 pods are unknown"},
		"pending":             {reason: "A pod without a running container holds none.", pods: map[string]oraclePod{"a": {witnesses: rooms, then: "pend"}, "b": {rooms: 1, witnesses: rooms}}, list: map[string]int64{"a": 0, "b": 1}},
		"pending-worker":      {reason: "Its worker is not even asked.", pods: map[string]oraclePod{"a": {witnesses: worker, then: "pend"}}, list: map[string]int64{"a": 0}},
		"terminating-busy":    {reason: "A terminating pod holds its calls to the end.", pods: map[string]oraclePod{"a": {rooms: 2, witnesses: rooms, then: "terminate"}}, list: map[string]int64{"a": 2}},
		"terminating-idle":    {reason: "It lives until it is gone.", pods: map[string]oraclePod{"a": {witnesses: rooms, then: "terminate"}}, list: map[string]int64{"a": 0}},
		"gone":                {reason: "A pod that is gone is gone, though its agent lingers.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms, then: "delete"}, "b": {rooms: 1, witnesses: rooms}}, list: map[string]int64{"b": 1}},
		"all-gone":            {reason: "Nothing is left to list.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms, then: "delete"}}, list: map[string]int64{}},
		"failed":              {reason: "A pod that has failed is not alive.", pods: map[string]oraclePod{"a": {witnesses: rooms, then: "fail"}, "b": {rooms: 1, witnesses: rooms}}, list: map[string]int64{"b": 1}},
		"crashed":             {reason: "A pod whose container waits to start again holds none.", pods: map[string]oraclePod{"a": {worker: nodeBusy, witnesses: worker, then: "crash"}}, list: map[string]int64{"a": 0}},
		"unguarded":           {reason: "A pod without the label is not ours.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms, then: "unguard"}, "b": {witnesses: rooms}}, list: map[string]int64{"b": 0}},
		"not-enabled":         {reason: "Without the administrator's label the pod's has no effect.", disable: true, pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms}}, list: map[string]int64{}, none: true},
		"caller":              {reason: "A caller who names the pod is not its agent.", pods: map[string]oraclePod{"a": {witnesses: rooms, others: "caller"}}, list: map[string]int64{"a": 0}},
		"sip":                 {reason: "A SIP caller is not an agent.", pods: map[string]oraclePod{"a": {witnesses: rooms, others: "sip"}}, list: map[string]int64{"a": 0}},
		"egress":              {reason: "A recorder is not an agent.", pods: map[string]oraclePod{"a": {witnesses: rooms, others: "egress"}}, list: map[string]int64{"a": 0}},
		"avatar":              {reason: "An avatar joins on behalf of an agent.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms, others: "avatar"}}, list: map[string]int64{"a": 1}},
		"two-in-a-room":       {reason: "A call is a room, not an agent.", pods: map[string]oraclePod{"a": {witnesses: rooms, others: "two"}}, list: map[string]int64{"a": 1}},
		"same-identity":       {reason: "A duplicate identity takes the first one's place.", pods: map[string]oraclePod{"a": {witnesses: rooms, others: "duplicate"}}, list: map[string]int64{"a": 1}},
		"phantom":             {reason: "An agent of a pod that is not alive does not count.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms, others: "phantom"}}, list: map[string]int64{"a": 1}},
		"with-callers":        {reason: "Callers in the room change nothing.", pods: map[string]oraclePod{"a": {rooms: 1, witnesses: rooms, others: "guests"}}, list: map[string]int64{"a": 1}},
		"other-project":       {reason: "A pod is counted in its own project.", pods: map[string]oraclePod{"a": {rooms: 2, witnesses: rooms, project: teamProject}}, list: map[string]int64{"a": 2}},
		"two-projects":        {reason: "Two projects in one namespace.", pods: map[string]oraclePod{"a": {rooms: 2, witnesses: rooms, project: teamProject}, "b": {rooms: 1, witnesses: rooms}}, list: map[string]int64{"a": 2, "b": 1}},
		"wrong-project":       {reason: "An agent in another project than its pod's is not found.", pods: map[string]oraclePod{"a": {witnesses: rooms, others: "elsewhere"}}, list: map[string]int64{"a": 0}},
		"nameless":            {reason: "While agents name no pod, rooms alone cannot tell.", pods: map[string]oraclePod{"a": {witnesses: rooms, project: namelessProject}}, because: "name no pod in attribute callguard.dev/pod"},
		"nameless-worker":     {reason: "A pod with another witness is known.", pods: map[string]oraclePod{"a": {worker: nodeBusy, project: namelessProject}}, list: map[string]int64{"a": 2}},
		"nameless-and-own":    {reason: "Pods of other projects are not concerned.", pods: map[string]oraclePod{"a": {witnesses: rooms, project: namelessProject}, "b": {rooms: 1, witnesses: rooms}}, list: map[string]int64{"b": 1}},
		"missing-secret":      {reason: "A project that cannot be read is unknown.", pods: map[string]oraclePod{"a": {witnesses: rooms, project: missingProject}}, because: `secrets "none" not found`},
		"missing-secret-both": {reason: "Not even next to a pod that is known.", pods: map[string]oraclePod{"a": {worker: nodeBusy, project: missingProject}, "b": {rooms: 1, witnesses: rooms}}, because: `secrets "none" not found`},
		"missing-secret-idle": {reason: "A worker needs no project.", pods: map[string]oraclePod{"a": {worker: nodeIdle, witnesses: worker, project: missingProject}}, list: map[string]int64{"a": 0}},
	}
}

// sum is the expected metric of the namespace.
func (c oracleCase) sum() int64 {
	total := int64(0)
	for _, n := range c.list {
		total += n
	}
	return total
}

// TestOracle sets up all cases at once and reads each with the client that
// kube-controller-manager uses, in JSON and in protobuf.
func TestOracle(t *testing.T) {
	cases := oracle()
	if len(cases) < 40 {
		t.Fatalf("the table has %d cases", len(cases))
	}
	var setup sync.WaitGroup
	problems := make(chan error, len(cases))
	slots := make(chan struct{}, 6)
	stages := map[string]*oracleStage{}
	for name, c := range cases {
		s := &oracleStage{namespace: "oracle-" + name, c: c}
		stages[name] = s
		t.Cleanup(func() { s.clear(t) })
		setup.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			problems <- s.set(t.Context())
		})
	}
	setup.Wait()
	close(problems)
	for err := range problems {
		trial.Must(t, err)
	}

	protobuf := rest.CopyConfig(stage.Config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	for encoding, config := range map[string]*rest.Config{"json": stage.Config, "protobuf": protobuf} {
		client := metricsClient(t, config)
		for _, name := range sorted(cases) {
			t.Run(name+"/"+encoding, func(t *testing.T) {
				s := stages[name]
				eventually(t, 40*time.Second, cases[name].reason, func() (bool, error) {
					err := s.check(client)
					return err == nil, err
				})
			})
		}
	}
}

// oracleStage is a case in the cluster.
type oracleStage struct {
	namespace string
	c         oracleCase
	undo      []func()
}

// check compares the metrics with the expected ones.
func (s *oracleStage) check(client custom_metrics.CustomMetricsClient) error {
	list, listErr := client.NamespacedMetrics(s.namespace).GetForObjects(podKind(), labels.Everything(), "active_calls", labels.Everything())
	value, sumErr := client.RootScopedMetrics().GetForObject(corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind(), s.namespace, "active_calls", labels.Everything())
	if s.c.because != "" {
		for _, err := range []error{listErr, sumErr} {
			if err == nil {
				return fmt.Errorf("got %v and %v, want a 503 with %q", list, value, s.c.because)
			}
			if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), s.c.because) {
				return fmt.Errorf("got %w (list %v), want a 503 with %q", err, list, s.c.because)
			}
		}
		return nil
	}
	if listErr != nil {
		return listErr
	}
	got := map[string]int64{}
	for _, item := range list.Items {
		if d := item.DescribedObject; d.Kind != "Pod" || d.APIVersion != "v1" || d.Namespace != s.namespace {
			return fmt.Errorf("described object %+v", d)
		}
		if age := time.Since(item.Timestamp.Time); age < -time.Second || age > time.Minute {
			return fmt.Errorf("the sample of %s is %s old", item.DescribedObject.Name, age)
		}
		got[item.DescribedObject.Name] = item.Value.Value()
	}
	if diff := cmp.Diff(s.c.list, got); diff != "" {
		return fmt.Errorf("the list is wrong, -want, +got:\n%s", diff)
	}
	if s.c.none {
		if !apierrors.IsNotFound(sumErr) {
			return errors.Join(fmt.Errorf("the namespace's metric is %v, want a 404", value), sumErr)
		}
		return nil
	}
	if sumErr != nil {
		return sumErr
	}
	if value.Value.Value() != s.c.sum() {
		return fmt.Errorf("the namespace's sum is %s, want %d", value.Value.String(), s.c.sum())
	}
	return nil
}

func (s *oracleStage) set(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace, Labels: map[string]string{call.EnabledLabel: "true"}}}
	if s.c.disable {
		ns.Labels = nil
	}
	if _, err := stage.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := s.secrets(ctx); err != nil {
		return err
	}
	for name, p := range s.c.pods {
		if err := s.pod(ctx, name, p); err != nil {
			return fmt.Errorf("pod %s of %s: %w", name, s.namespace, err)
		}
	}
	return nil
}

// secrets creates the Secrets that pods of the namespace name, and lets the adapter get
// only those.
func (s *oracleStage) secrets(ctx context.Context) error {
	named := map[int]string{}
	for _, p := range s.c.pods {
		if secret := secretName(p.project); secret != "" {
			named[p.project] = secret
		}
	}
	for project, name := range named {
		if project != missingProject {
			lk := stage.LiveKits[project]
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
				StringData: map[string]string{"url": lk.URL, "api-key": lk.APIKey, "api-secret": lk.APISecret},
			}
			if _, err := stage.Client.CoreV1().Secrets(s.namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
		meta := metav1.ObjectMeta{Namespace: s.namespace, Name: "callguard-" + name}
		role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{name}, Verbs: []string{"get"}}}}
		binding := &rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: lab.AdapterNamespace, Name: lab.AdapterName}},
		}
		_, err := stage.Client.RbacV1().Roles(s.namespace).Create(ctx, role, metav1.CreateOptions{})
		_, bindErr := stage.Client.RbacV1().RoleBindings(s.namespace).Create(ctx, binding, metav1.CreateOptions{})
		if err := errors.Join(err, bindErr); err != nil {
			return err
		}
	}
	return nil
}

func secretName(project int) string {
	return map[int]string{teamProject: "team", namelessProject: "nameless", missingProject: "none"}[project]
}

func (s *oracleStage) pod(ctx context.Context, name string, p oraclePod) error {
	template := lab.Template()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name, pod.Namespace = name, s.namespace
	pod.Labels[fleet.UnplayedLabel] = "true"
	pod.Annotations = map[string]string{}
	for key, value := range map[string]string{call.WitnessesAnnotation: p.witnesses, call.SecretAnnotation: secretName(p.project)} {
		if value != "" {
			pod.Annotations[key] = value
		}
	}
	port := call.DefaultWorkerPort
	if p.port != 0 {
		port = p.port
		pod.Annotations[call.WorkerPortAnnotation] = fmt.Sprint(port)
	}
	if p.then == "unguard" {
		delete(pod.Labels, call.GuardedLabel)
	}
	if p.then == "pend" {
		pod.Spec.NodeSelector = map[string]string{"no-such": "node"}
	}
	pod, err := stage.Client.CoreV1().Pods(s.namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil || p.then == "pend" {
		return err
	}
	err = lab.Eventually(ctx, time.Minute, "pod "+name+" runs", func() (bool, error) {
		pod, err = stage.Client.CoreV1().Pods(s.namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != "", err
	})
	if err != nil {
		return err
	}
	if p.worker != "" {
		if err := s.serve(ctx, net.JoinHostPort(pod.Status.PodIP, fmt.Sprint(port)), p.worker); err != nil {
			return err
		}
	}
	if err := s.participants(ctx, pod, p); err != nil {
		return err
	}
	return s.end(ctx, pod, p.then)
}

// serve answers GET /worker in place of the pod.
func (s *oracleStage) serve(ctx context.Context, address, answer string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var status int
		if _, err := fmt.Sscanf(answer, "%d", &status); err == nil {
			w.WriteHeader(status)
			return
		}
		_, _ = w.Write([]byte(answer)) // the adapter may have given up
	})}
	go func() { _ = server.Serve(listener) }() // ends with Close
	s.undo = append(s.undo, func() { _ = server.Close() })
	return nil
}

func (s *oracleStage) participants(ctx context.Context, pod *corev1.Pod, p oraclePod) error {
	room := func(n int) string { return fmt.Sprintf("%s-%s-%s-%d", lab.Telephone(0), s.namespace, pod.Name, n) }
	agent, of := lksdk.ParticipantAgent, attributed(pod)
	join := func(project int, who lab.Participant) error {
		leave, err := lab.Join(ctx, stage.LiveKits[project], who)
		if err == nil {
			s.undo = append(s.undo, leave)
		}
		return err
	}
	for i := range p.rooms {
		if err := join(p.project, lab.Participant{Room: room(i), Identity: "agent", Kind: agent, Attributes: of}); err != nil {
			return err
		}
	}
	var others []lab.Participant
	switch p.others {
	case "caller":
		others = []lab.Participant{{Room: room(50), Identity: "caller", Attributes: of}}
	case "sip":
		others = []lab.Participant{{Room: room(50), Identity: "sip", Kind: lksdk.ParticipantSIP, Attributes: of}}
	case "egress":
		others = []lab.Participant{{Room: room(50), Identity: "egress", Kind: lksdk.ParticipantEgress, Attributes: of}}
	case "avatar":
		others = []lab.Participant{{Room: room(50), Identity: "avatar", Kind: agent, Attributes: map[string]string{call.PodAttribute: string(pod.UID), "lk.publish_on_behalf": "agent"}}}
	case "two":
		others = []lab.Participant{{Room: room(50), Identity: "one", Kind: agent, Attributes: of}, {Room: room(50), Identity: "two", Kind: agent, Attributes: of}}
	case "duplicate":
		others = []lab.Participant{{Room: room(50), Identity: "one", Kind: agent, Attributes: of}, {Room: room(50), Identity: "one", Kind: agent, Attributes: of}}
	case "phantom":
		others = []lab.Participant{{Room: room(50), Identity: "ghost", Kind: agent, Attributes: map[string]string{call.PodAttribute: "00000000-0000-0000-0000-000000000000"}}}
	case "guests":
		others = []lab.Participant{{Room: room(0), Identity: "guest-1"}, {Room: room(0), Identity: "guest-2", Kind: lksdk.ParticipantSIP}}
	case "elsewhere":
		return join(teamProject, lab.Participant{Room: room(50), Identity: "agent", Kind: agent, Attributes: of})
	}
	if p.project == namelessProject {
		others = append(others, lab.Participant{Room: room(60), Identity: "nameless", Kind: agent})
	}
	for _, who := range others {
		if err := join(p.project, who); err != nil {
			return err
		}
	}
	return nil
}

// end does to a pod what its case says.
func (s *oracleStage) end(ctx context.Context, pod *corev1.Pod, then string) error {
	pods := stage.Client.CoreV1().Pods(s.namespace)
	switch then {
	case "terminate":
		long := int64(600)
		s.undo = append(s.undo, func() { s.deleteNow(context.WithoutCancel(ctx), pod.Name) })
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &long})
	case "delete":
		s.deleteNow(ctx, pod.Name)
	case "fail":
		return s.patchStatus(ctx, pod, `{"status":{"phase":"Failed","containerStatuses":[{"name":"agent","image":"x","imageID":"","state":{"terminated":{"exitCode":1}}}]}}`)
	case "crash":
		return s.patchStatus(ctx, pod, `{"status":{"containerStatuses":[{"name":"agent","image":"x","imageID":"","ready":false,"restartCount":1,"state":{"running":null,"waiting":{"reason":"CrashLoopBackOff"}}}]}}`)
	}
	return nil
}

func (s *oracleStage) deleteNow(ctx context.Context, name string) {
	now := int64(0)
	_ = stage.Client.CoreV1().Pods(s.namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}) // check sees a pod that stays
}

// patchStatus writes a pod's status as its kubelet does.
func (s *oracleStage) patchStatus(ctx context.Context, pod *corev1.Pod, patch string) error {
	config, err := stage.Cluster.NodeConfig(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	node, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, err = node.CoreV1().Pods(s.namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

func (s *oracleStage) clear(t *testing.T) {
	var all sync.WaitGroup
	for _, undo := range s.undo {
		all.Go(undo)
	}
	all.Wait()
	none := int64(0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := errors.Join(
		stage.Client.CoreV1().Pods(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &none}, metav1.ListOptions{}),
		stage.Client.CoreV1().Namespaces().Delete(ctx, s.namespace, metav1.DeleteOptions{}))
	if err != nil {
		t.Error(err)
	}
}
