// SPDX-License-Identifier: Apache-2.0

package call

import (
	"fmt"
	"strings"
)

// The labels, annotations and attributes that callguard and its users exchange. They are
// part of the public API; Annotations explains each.
const (
	GuardedLabel   = "callguard.dev/guarded"
	EnabledLabel   = "callguard.dev/enabled"
	ReleasedLabel  = "callguard.dev/released"
	KeepGraceLabel = "callguard.dev/keep-grace"

	WitnessesAnnotation      = "callguard.dev/witnesses"
	GatePortAnnotation       = "callguard.dev/gate-port"
	WorkerPortAnnotation     = "callguard.dev/worker-port"
	AgentContainerAnnotation = "callguard.dev/agent-container"
	SecretAnnotation         = "callguard.dev/livekit-secret"
	SecretKeysAnnotation     = "callguard.dev/livekit-secret-keys"
	AgentNameAnnotation      = "callguard.dev/agent-name"
	WaitingRoomsAnnotation   = "callguard.dev/waiting-rooms"
	DispatchAgainAnnotation  = "callguard.dev/dispatch-again"
	LaunchLimitAnnotation    = "callguard.dev/launch-limit"
	DeadlineAnnotation       = "callguard.dev/drain-deadline"
	OnDeadlineAnnotation     = "callguard.dev/on-deadline"
	LeaveAnnotation          = "callguard.dev/leave"
	AsideAnnotation          = "callguard.dev/aside"
	HashAnnotation           = "callguard.dev/hash"
	ToldBeforeAnnotation     = "callguard.dev/autoscalers-before"
	DrainingAnnotation       = "callguard.dev/draining"
	MinAvailableAnnotation   = "callguard.dev/min-available"
	DisableAnnotation        = "callguard.dev/disable"
	SameURLAnnotation        = "callguard.dev/same-url"
	ServerAnnotation         = "callguard.dev/livekit-url"
	FormerServerAnnotation   = "callguard.dev/livekit-url-before"

	// PodAttribute is the attribute of an agent participant that names its pod by UID.
	PodAttribute = "callguard.dev/pod"

	// TryRoomPrefix begins the names of the rooms of calls that "kubectl calls try" makes.
	// They count like all others, except in the statistics of how long calls last.
	TryRoomPrefix = "callguard-try-"
)

// The names of callguard's two Deployments, of their objects and of their programs.
const (
	GuardName   = "drain-guard"
	AdapterName = "metrics-adapter"
)

// Writer is who may write an annotation or label, and when.
type Writer string

// The writers.
const (
	// AtBirth is the team, in the pod template. The value is fixed when the pod
	// is created.
	AtBirth Writer = "the pod template; fixed when the pod is created"
	// Team is whoever may edit the object, at any time.
	Team Writer = "anyone who may edit the object"
	// Administrator is whoever may edit namespaces.
	Administrator Writer = "an administrator"
	// GuardOnce is drain-guard, once in a pod's life.
	GuardOnce Writer = GuardName + ", once"
	// GuardOnly is drain-guard.
	GuardOnly Writer = GuardName
)

// The kinds of objects that have annotations and labels.
const (
	OnPod       = "pod"
	OnWorkload  = "Deployment, StatefulSet or DaemonSet"
	OnNamespace = "namespace"
	OnSecret    = "Secret that `livekit-secret` names"
	OnLease     = "Lease `drain-guard`"
)

// Annotation describes one annotation or label of callguard.
type Annotation struct {
	Key     string
	Label   bool
	On      string // the kind of object
	Writer  Writer
	Readers string // the programs that read it
	Default string // what applies without it
	Means   string

	// wrong returns what is wrong with a pod's value, and a value that would work. It
	// is nil if any value will do. It may depend on the pod's other annotations.
	wrong func(of map[string]string) error
}

// Annotations lists them all. Trimming, the check of pods' settings, the test of the
// admission policy and docs/reference/annotations.md follow from it. The caller must
// not change it.
func Annotations() []Annotation { return annotations }

var annotations = table() //nolint:gochecknoglobals // constant; each look at a pod reads it

func table() []Annotation {
	const (
		both  = AdapterName + ", " + GuardName
		guard = GuardName
		all   = both + ", call-gate"
	)
	return []Annotation{
		{Key: EnabledLabel, Label: true, On: OnNamespace, Writer: Administrator, Readers: both + ", policies", Default: "callguard ignores the namespace",
			Means: "`true`: guarded pods of the namespace are locked. It can be removed only with `disable`"},
		{Key: DisableAnnotation, On: OnNamespace, Writer: Administrator, Readers: "policies", Default: "`enabled` stays",
			Means: "`true`: label `enabled` may be removed; then nothing protects the namespace's calls"},
		{Key: GuardedLabel, Label: true, On: OnPod, Writer: AtBirth, Readers: both + ", policies", Default: "callguard ignores the pod",
			Means: "`true`: the pod is counted, and locked until its calls are over"},
		{Key: WitnessesAnnotation, On: OnPod, Writer: AtBirth, Readers: both, Default: "`rooms,worker`; `rooms,gate` with a gate port",
			Means: "the witnesses of the pod's calls: LiveKit's `rooms`, the agent's own `worker` page, the `gate`. `gate` alone is enough where LiveKit's API is far or rate-limited",
			wrong: func(a map[string]string) error {
				_, err := ParseWitnesses(a[WitnessesAnnotation], a[GatePortAnnotation])
				return err
			}},
		{Key: GatePortAnnotation, On: OnPod, Writer: AtBirth, Readers: both, Default: "none; `8089` where `witnesses` names `gate`",
			Means: "the pod has a call-gate, which answers `GET /calls` there",
			wrong: func(a map[string]string) error { _, err := ParseGatePort(a[GatePortAnnotation]); return err }},
		{Key: WorkerPortAnnotation, On: OnPod, Writer: AtBirth, Readers: both, Default: "`8081`",
			Means: "where the agent serves `GET /worker`",
			wrong: func(a map[string]string) error { _, err := ParseWorkerPort(a[WorkerPortAnnotation]); return err }},
		{Key: AgentContainerAnnotation, On: OnPod, Writer: AtBirth, Readers: both, Default: "the container with the port of `GET /worker`; all, where none or several have it",
			Means: "which container is the agent, in a pod that has other regular ones: while it does not run, its `GET /worker` is not asked"},
		{Key: SecretAnnotation, On: OnPod, Writer: AtBirth, Readers: both, Default: "callguard's own project",
			Means: "a Secret in the namespace with `LIVEKIT_URL`, `LIVEKIT_API_KEY`, `LIVEKIT_API_SECRET` (or `url`, `api-key`, `api-secret`, which take precedence); callguard needs `get` on it. For another LiveKit, create another Secret"},
		{Key: SecretKeysAnnotation, On: OnPod, Writer: AtBirth, Readers: both, Default: "those",
			Means: "names of its keys, if they differ: `url=…,api-key=…,api-secret=…`, or some of them",
			wrong: func(a map[string]string) error {
				keys, err := ParseSecretKeys(a[SecretKeysAnnotation])
				switch {
				case err != nil:
					return fmt.Errorf("annotation %s is %w", SecretKeysAnnotation, err)
				case keys != (SecretKeys{}) && a[SecretAnnotation] == "":
					return fmt.Errorf("annotation %s is %q, of no Secret; name it in annotation %s, such as livekit", SecretKeysAnnotation, keys, SecretAnnotation)
				}
				return nil
			}},
		{Key: AgentNameAnnotation, On: OnPod, Writer: AtBirth, Readers: AdapterName, Default: "calls that wait for a name which no workload of the project says count for each workload that says none",
			Means: "the name with which the agent registers at LiveKit, such as `desk`: calls that wait for an agent of that name count in `waiting_calls`",
			wrong: func(a map[string]string) error { _, err := ParseAgentName(a[AgentNameAnnotation]); return err }},
		{Key: WaitingRoomsAnnotation, On: OnPod, Writer: AtBirth, Readers: AdapterName, Default: "`named`: only a room that asks for an agent by name can wait",
			Means: "`every`: each room of the LiveKit project wants an agent, so a caller who is in one without an agent waits, too. Not where people talk among themselves",
			wrong: func(a map[string]string) error { _, err := ParseWaitingRooms(a[WaitingRoomsAnnotation]); return err }},
		{Key: DispatchAgainAnnotation, On: OnPod, Writer: AtBirth, Readers: AdapterName, Default: "LiveKit looks for an agent once, and a call that gets none is lost",
			Means: "`true`: when a pod of the workload becomes able to take calls, metrics-adapter has LiveKit look for an agent again for the calls that wait for it",
			wrong: func(a map[string]string) error { _, err := ParseDispatchAgain(a[DispatchAgainAnnotation]); return err }},
		{Key: LaunchLimitAnnotation, On: OnPod, Writer: AtBirth, Readers: guard, Default: "`--settle` of drain-guard",
			Means: "how long an agent without call-gate may take to start a job it was assigned, such as `2m`: raise it where processes are not warm. `--max-hold` bounds it",
			wrong: func(a map[string]string) error { _, err := ParseLaunchLimit(a[LaunchLimitAnnotation]); return err }},
		{Key: DeadlineAnnotation, On: OnPod, Writer: AtBirth, Readers: guard, Default: "none",
			Means: "how long the pod may be held, counted from when it should leave, such as `2h`",
			wrong: func(a map[string]string) error {
				_, err := ParseDeadline(a[DeadlineAnnotation], a[OnDeadlineAnnotation])
				return err
			}},
		{Key: OnDeadlineAnnotation, On: OnPod, Writer: AtBirth, Readers: guard, Default: "`Hold`",
			Means: "`Release` releases the pod then, with its calls, and an Event says so"},
		{Key: LeaveAnnotation, On: OnPod, Writer: Team, Readers: guard, Default: "the pod stays",
			Means: "with any value: the pod should leave, as soon as its calls have ended"},
		{Key: AsideAnnotation, On: OnPod, Writer: GuardOnly, Readers: guard, Default: "",
			Means: "why and since when the pod has been set aside, such as `drain 2026-01-02T15:04:05Z`"},
		{Key: HashAnnotation, On: OnPod, Writer: GuardOnly, Readers: guard, Default: "",
			Means: "the `pod-template-hash`, or `rollouts-pod-template-hash`, that the pod had before"},
		{Key: ToldBeforeAnnotation, On: OnPod, Writer: GuardOnly, Readers: guard, Default: "",
			Means: "the annotations for node autoscalers that the pod had before it was set aside; it gets them back when it is released"},
		{Key: DrainingAnnotation, On: OnPod, Writer: GuardOnce, Readers: all, Default: "",
			Means: "why and since when the pod accepts no new calls, in the same form"},
		{Key: ReleasedLabel, Label: true, On: OnPod, Writer: GuardOnce, Readers: both + ", policies, budgets", Default: "the pod is locked",
			Means: "the pod may be evicted and deleted; the value says why it should leave"},
		{Key: KeepGraceLabel, Label: true, On: OnPod, Writer: Team, Readers: "policies", Default: "anyone who may delete the pod may shorten its termination grace period",
			Means: "`true`: a pod that is not guarded and ends by itself, such as LiveKit's, keeps its termination grace, up to a day, when it is deleted"},
		{Key: MinAvailableAnnotation, On: OnWorkload, Writer: Team, Readers: guard, Default: "all replicas; in a rollout all but `maxUnavailable`",
			Means: "how many pods, such as `2` or `50%`, must be able to take calls while others leave"},
		{Key: SameURLAnnotation, On: OnSecret, Writer: Team, Readers: both, Default: "pods older than the Secret's URL are unknown",
			Means: "repeats the Secret's URL, and confirms that all pods that name the Secret were created with it"},
		{Key: ServerAnnotation, On: OnLease, Writer: GuardOnly, Readers: guard, Default: "", Means: "the LiveKit of callguard's own project"},
		{Key: FormerServerAnnotation, On: OnLease, Writer: GuardOnly, Readers: guard, Default: "", Means: "the former URL; older pods are unknown until this annotation is deleted or they are gone"},
	}
}

// PodAnnotations returns the keys of callguard's annotations that its programs read
// from pods.
func PodAnnotations() (keys []string) {
	for _, a := range Annotations() {
		if a.On == OnPod && !a.Label {
			keys = append(keys, a.Key)
		}
	}
	return keys
}

// Mistakes returns what is wrong with the annotations of a pod, each with a value that
// would work. Until a value is corrected, its default applies.
func Mistakes(of map[string]string) (mistakes []error) {
	for _, a := range Annotations() {
		if a.wrong == nil {
			continue
		}
		if err := a.wrong(of); err != nil {
			mistakes = append(mistakes, err)
		}
	}
	return mistakes
}

// Reference returns the table of docs/reference/annotations.md.
func Reference() string {
	var b strings.Builder
	b.WriteString("| key | on | who writes it | who reads it | without it | meaning |\n|---|---|---|---|---|---|\n")
	for _, a := range Annotations() {
		kind := "annotation"
		if a.Label {
			kind = "label"
		}
		fmt.Fprintf(&b, "| %s `%s` | %s | %s | %s | %s | %s |\n", kind, a.Key, a.On, a.Writer, a.Readers, a.Default, a.Means)
	}
	return b.String()
}
