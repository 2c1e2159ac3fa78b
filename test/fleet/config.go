// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// GuardedLabel marks the pods that the fleet simulates, with the value "true".
const GuardedLabel = "callguard.dev/guarded"

// UnplayedLabel keeps the fleet from simulating a guarded pod, whatever its value: the test does so itself.
const UnplayedLabel = "fleet.callguard.dev/unplayed"

// PodAttribute is the participant attribute that names an agent's pod by its UID.
const PodAttribute = "callguard.dev/pod"

// DrainingAnnotation is the guard's mark on a pod that should accept no new call. Agents obey it like one with a load
// function of three lines: once the mark is in the file that the kubelet updates, they report that they are full and
// refuse every offer, and their running jobs continue.
const DrainingAnnotation = "callguard.dev/draining"

// Annotations that set how a pod's process behaves. They are read when the process starts; "hang" of WorkerAnnotation
// also while it runs.
const (
	// DialectAnnotation is the SDK whose answers the process gives: "python" (the default) or "node".
	DialectAnnotation = "fleet.callguard.dev/dialect"
	// WorkerAnnotation "off" disables the HTTP server of the process. While it is "hang", GET /worker gets no answer.
	WorkerAnnotation = "fleet.callguard.dev/worker"
	// UnattributedAnnotation "true" omits PodAttribute from the agents of the process.
	UnattributedAnnotation = "fleet.callguard.dev/unattributed"
	// SpeaksAnnotation "true" makes the agents of the process publish a silent audio track.
	SpeaksAnnotation = "fleet.callguard.dev/speaks"
	// AgentNameAnnotation replaces Config.AgentName for one pod.
	AgentNameAnnotation = "fleet.callguard.dev/agent-name"
	// MaxJobsAnnotation replaces Config.MaxJobs for one pod.
	MaxJobsAnnotation = "fleet.callguard.dev/max-jobs"
	// DeafAnnotation "true" makes the process an unmodified agent, which ignores DrainingAnnotation. Every agent behind a
	// gate is one, too.
	DeafAnnotation = "fleet.callguard.dev/deaf"
)

// Annotations of a pod that give its worker the timing of its SDK. Each is read when the process starts. Times are in
// seconds: "8", or "0-40" for a random time between, drawn for each process from Config.Seed.
const (
	// ProcessSecondsAnnotation is how long a job process takes to initialise. Without it processes are always warm, and the
	// worker reports changes to LiveKit at once; with it, every 2.5 s, as the SDKs do.
	ProcessSecondsAnnotation = "fleet.callguard.dev/process-seconds"
	// InitializeTimeoutAnnotation is the SDK's initialize_process_timeout, 10 s by default.
	InitializeTimeoutAnnotation = "fleet.callguard.dev/initialize-timeout-seconds"
	// IdleProcessesAnnotation is how many processes the worker keeps warm, 4 by default.
	IdleProcessesAnnotation = "fleet.callguard.dev/idle-processes"
	// LaunchFailureAnnotation is the chance, from 0 to 1, that a launch fails.
	LaunchFailureAnnotation = "fleet.callguard.dev/launch-failure"
	// AnswerSecondsAnnotation is how long the worker takes to answer an offer. LiveKit gives up after 3 s.
	AnswerSecondsAnnotation = "fleet.callguard.dev/answer-seconds"
	// ShutdownSecondsAnnotation is how long a job process keeps working after its agent has left the room.
	ShutdownSecondsAnnotation = "fleet.callguard.dev/shutdown-seconds"
)

// Annotations that set what else a pod's node runs.
const (
	// GateAnnotation puts a real call-gate between the agent and LiveKit. Its value selects which: see Config.Gate.
	GateAnnotation = "fleet.callguard.dev/gate"
	// GateArgsAnnotation adds flags to the gate's, separated by spaces.
	GateArgsAnnotation = "fleet.callguard.dev/gate-args"
	// ProbedAnnotation "true" makes the fleet run the readiness probes of the pod's containers and write the results, as a
	// kubelet does. hack/cluster starts such a pod unready; all others are ready from the start.
	ProbedAnnotation = "fleet.callguard.dev/probed"
)

const (
	defaultPort    = 8081
	defaultMaxJobs = 10

	// noticeDelay is how long a kubelet takes to write an annotation to the file of a running pod.
	noticeDelay = 300 * time.Millisecond

	// patience is how long an agent or a caller may be away without the call counting as lost.
	patience = 30 * time.Second
)

// Project is one LiveKit project: where it is and the key that signs its tokens.
type Project struct {
	URL, APIKey, APISecret string
	// Via is where workers and gates reach the server, if not at URL. Agents are in their rooms by URL.
	Via string
}

// Config is what a Fleet needs.
type Config struct {
	// Client lists and watches pods and nodes.
	Client kubernetes.Interface
	// NodeClient returns a client with the identity of a node. It writes container statuses, which the cluster accepts only
	// from kubelets.
	NodeClient func(node string) (kubernetes.Interface, error)
	// LiveKit returns the project that a pod works for. False means not known yet; the fleet asks again.
	LiveKit func(*corev1.Pod) (Project, bool)
	// Before, where set, listens at the address of a gate's status, where others ask, and carries what comes to the address of
	// the gate itself, until stop is called. Probes ask the gate itself, as on its node.
	Before func(address, to string) (stop func(), err error)
	// MaxJobs is how many jobs a worker runs at once, 10 when 0. LiveKit offers nothing to workers whose load is
	// above agents.target_load of its own configuration (default 0.7): set that to 1 where MaxJobs must be reached.
	MaxJobs int
	// AgentName is the name that workers register with. If empty, LiveKit dispatches an agent to every new room.
	AgentName string
	// Port is where processes answer HTTP on their pod's IP, 8081 if 0.
	Port int
	// Seed makes random times repeatable, pod by pod.
	Seed uint64
	// Gate starts a call-gate process of the kind that GateAnnotation names, with these flags and environment variables.
	// Without it no pod has a gate.
	Gate func(pod *corev1.Pod, kind string, args, env []string) (GateProcess, error)
	// Volumes is a folder for the files that are mounted into gates: the drain annotation, and the journal.
	Volumes string
	// Log receives the fleet's messages at Info and the LiveKit SDK's at Debug. Nil discards them.
	Log *slog.Logger
}

// GateProcess is a running call-gate.
type GateProcess interface {
	// Stop asks it to end, Kill does not ask. Both wait until it has ended, and may be called after that.
	Stop() error
	Kill() error
	// Pause stops it: it does nothing, and nobody is told. Continue resumes it. Kill ends it also while paused.
	Pause() error
	Continue() error
	// Done is closed when it has ended.
	Done() <-chan struct{}
}

// complete sets defaults and reports everything that is missing at once.
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
