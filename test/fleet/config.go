// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// GuardedLabel marks the pods the fleet plays, with the value "true".
const GuardedLabel = "callguard.dev/guarded"

// UnplayedLabel keeps the fleet, with any value, from playing a guarded pod: a test does so itself.
const UnplayedLabel = "fleet.callguard.dev/unplayed"

// PodAttribute is the participant attribute that names an agent's pod by its UID.
const PodAttribute = "callguard.dev/pod"

// DrainingAnnotation is the guard's mark on a pod that is to take no new call. Agents obey it as one with a load
// function of three lines does: once the mark is in the file that the kubelet keeps, they report that they are full and
// refuse every offer, and their running jobs go on.
const DrainingAnnotation = "callguard.dev/draining"

// Annotations of a pod that say how its process behaves. Each is read when the process starts, and WorkerAnnotation
// "hang" also while it runs.
const (
	// DialectAnnotation is "python" (the default) or "node": whose answers the process gives.
	DialectAnnotation = "fleet.callguard.dev/dialect"
	// WorkerAnnotation "off" leaves out the HTTP server of the process. "hang" leaves GET /worker without an answer for as
	// long as it stands.
	WorkerAnnotation = "fleet.callguard.dev/worker"
	// UnattributedAnnotation "true" leaves PodAttribute out of the agents of the process.
	UnattributedAnnotation = "fleet.callguard.dev/unattributed"
	// SpeaksAnnotation "true" has the agents of the process publish a track of audio, which is silent.
	SpeaksAnnotation = "fleet.callguard.dev/speaks"
	// AgentNameAnnotation replaces Config.AgentName for one pod.
	AgentNameAnnotation = "fleet.callguard.dev/agent-name"
	// MaxJobsAnnotation replaces Config.MaxJobs for one pod.
	MaxJobsAnnotation = "fleet.callguard.dev/max-jobs"
	// DeafAnnotation "true" makes the process an unmodified agent, which knows nothing of DrainingAnnotation. So is every
	// agent behind a gate.
	DeafAnnotation = "fleet.callguard.dev/deaf"
)

// Annotations of a pod that give its worker the timing of its SDK. Each is read when the process starts. Times are in
// seconds: "8", or "0-40" for a random time between, drawn for each process from Config.Seed.
const (
	// ProcessSecondsAnnotation is how long a job process takes to initialise. Without it processes are always warm, and the
	// worker tells LiveKit at once what changes; with it, it tells every 2.5 s, as the SDKs do.
	ProcessSecondsAnnotation = "fleet.callguard.dev/process-seconds"
	// InitializeTimeoutAnnotation is the SDK's initialize_process_timeout, 10 s by default.
	InitializeTimeoutAnnotation = "fleet.callguard.dev/initialize-timeout-seconds"
	// IdleProcessesAnnotation is how many processes the worker keeps warm, 4 by default.
	IdleProcessesAnnotation = "fleet.callguard.dev/idle-processes"
	// LaunchFailureAnnotation is the chance, from 0 to 1, that a launch fails.
	LaunchFailureAnnotation = "fleet.callguard.dev/launch-failure"
	// AnswerSecondsAnnotation is how long the worker takes to answer an offer. LiveKit gives up after 3 s.
	AnswerSecondsAnnotation = "fleet.callguard.dev/answer-seconds"
	// ShutdownSecondsAnnotation is how long a job process works on after its agent has left the room.
	ShutdownSecondsAnnotation = "fleet.callguard.dev/shutdown-seconds"
)

// Annotations of a pod that say what else its node runs.
const (
	// GateAnnotation puts a real call-gate between the agent and LiveKit. Its value says which: see Config.Gate.
	GateAnnotation = "fleet.callguard.dev/gate"
	// GateArgsAnnotation adds flags to the gate's, separated by spaces.
	GateArgsAnnotation = "fleet.callguard.dev/gate-args"
	// ProbedAnnotation "true" has the fleet ask the readiness probes of the pod's containers and write what they say, as a
	// kubelet does. hack/cluster starts such a pod unready; all others are ready from their start.
	ProbedAnnotation = "fleet.callguard.dev/probed"
)

const (
	defaultPort    = 8081
	defaultMaxJobs = 10

	// noticeDelay is how long a kubelet takes to bring an annotation into the file of a running pod.
	noticeDelay = 300 * time.Millisecond

	// patience is how long an agent or a caller may be away and still be in the same call.
	patience = 30 * time.Second
)

// Project is one LiveKit project: where it is and the key that signs its tokens.
type Project struct {
	URL, APIKey, APISecret string
	// Via is where workers and gates reach the server, if not at URL. Agents are in their rooms by URL.
	Via string
}

// Config holds what a Fleet needs.
type Config struct {
	// Client lists and watches pods and nodes.
	Client kubernetes.Interface
	// NodeClient gives the client with the identity of a node. Statuses of containers are written with it,
	// because the cluster accepts them from kubelets only.
	NodeClient func(node string) (kubernetes.Interface, error)
	// LiveKit says which project a pod works for. False means not known yet; the fleet asks again.
	LiveKit func(*corev1.Pod) (Project, bool)
	// Before, where set, listens at the address of a gate's status, where others ask, and carries what comes to the address of
	// the gate itself, until stop is called. Probes ask the gate itself, as on its node.
	Before func(address, to string) (stop func(), err error)
	// MaxJobs is how many jobs a worker runs at once, 10 when 0. LiveKit offers nothing to workers whose load is
	// above agents.target_load of its own configuration (default 0.7): set that to 1 where MaxJobs must be reached.
	MaxJobs int
	// AgentName is the name workers register with. Empty means LiveKit dispatches an agent to every new room.
	AgentName string
	// Port is where processes answer HTTP on their pod's IP, 8081 when 0.
	Port int
	// Seed makes random times repeat themselves, pod by pod.
	Seed uint64
	// Gate starts a call-gate process of the kind that GateAnnotation names, with these flags and these variables of its
	// environment. Without it no pod has a gate.
	Gate func(pod *corev1.Pod, kind string, args, env []string) (GateProcess, error)
	// Volumes is a folder for what gates have mounted: the order to drain, and the journal.
	Volumes string
	// Log receives what the fleet does at Info and what the LiveKit SDK says at Debug. Nil discards.
	Log *slog.Logger
}

// GateProcess is a call-gate that runs.
type GateProcess interface {
	// Stop asks it to end, Kill does not ask. Both wait until it has ended, and are fine if it has.
	Stop() error
	Kill() error
	// Pause holds it: it does nothing, and nobody is told. Continue lets it go on. Kill ends it also then.
	Pause() error
	Continue() error
	// Done is closed when it has ended.
	Done() <-chan struct{}
}

// complete fills in defaults and reports every missing need at once.
func (c Config) complete() (Config, error) {
	var errs []error
	if c.Client == nil {
		errs = append(errs, errors.New("fleet: Config.Client is nil; give a client that may list and watch pods and nodes"))
	}
	if c.NodeClient == nil {
		errs = append(errs, errors.New("fleet: Config.NodeClient is nil; give a function that returns the client of a node"))
	}
	if c.LiveKit == nil {
		errs = append(errs, errors.New("fleet: Config.LiveKit is nil; give a function that returns the project of a pod"))
	}
	if c.MaxJobs < 0 {
		errs = append(errs, errors.New("fleet: Config.MaxJobs is negative; use 1 or more, or 0 for the default"))
	}
	if c.Gate != nil && c.Volumes == "" {
		errs = append(errs, errors.New("fleet: Config.Volumes is empty; give a folder for the files of gates"))
	}
	if c.MaxJobs == 0 {
		c.MaxJobs = defaultMaxJobs
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
