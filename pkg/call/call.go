// SPDX-License-Identifier: Apache-2.0

// Package call defines the types that all of callguard shares: the pod that may hold
// calls, the witness that counts them, and the reading it gives.
//
// A call is a LiveKit room that an agent participant of a pod is in. The package
// does no I/O and decides nothing; it imports no other package of callguard.
package call

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// DefaultWorkerPort is where LiveKit Agents for Python and Node serve
	// GET /worker in production mode.
	DefaultWorkerPort = 8081
	// DefaultGatePort is where call-gate serves GET /calls.
	DefaultGatePort = 8089

	// AsideSuffix ends the hash of a pod that was set aside.
	AsideSuffix = "-aside"

	templateHashLabel = "pod-template-hash"
	rolloutHashLabel  = "rollouts-pod-template-hash"
)

// HashLabels are the labels by which ReplicaSets select pods of their own template: those of
// Argo Rollouts, and those of Deployments.
func HashLabels() []string { return []string{rolloutHashLabel, templateHashLabel} }

// HashLabel is the one of these labels that counts for a pod; empty where it has none.
func HashLabel(labels map[string]string) string {
	for _, key := range HashLabels() {
		if labels[key] != "" {
			return key
		}
	}
	return ""
}

// Witness is a source that can say how many calls a pod holds.
type Witness string

// The witnesses.
const (
	Rooms  Witness = "rooms"  // LiveKit's room state
	Worker Witness = "worker" // the agent's own GET /worker
	Gate   Witness = "gate"   // the call-gate beside the agent
)

// Witnesses lists the witnesses.
func Witnesses() []Witness { return []Witness{Rooms, Worker, Gate} }

// DefaultWitnesses are asked about a pod that names none and has no call-gate.
func DefaultWitnesses() []Witness { return []Witness{Rooms, Worker} }

// ParseWitnesses reads the value of WitnessesAnnotation beside that of
// GatePortAnnotation. An empty value means the default, which is "rooms,gate" for
// a pod that gives a gate port. The error names what is wrong and a value that
// would work; the default is returned beside it.
func ParseWitnesses(value, gatePort string) ([]Witness, error) {
	fallback := DefaultWitnesses()
	if gatePort != "" {
		fallback = []Witness{Rooms, Gate}
	}
	if strings.TrimSpace(value) == "" {
		return fallback, nil
	}
	var ws []Witness
	for part := range strings.SplitSeq(value, ",") {
		w := Witness(strings.TrimSpace(part))
		if !slices.Contains(Witnesses(), w) {
			return fallback, fmt.Errorf("annotation %s is %q: there is no witness %q; use %q, or others of %q, %q and %q",
				WitnessesAnnotation, value, w, join(fallback), Rooms, Worker, Gate)
		}
		if !slices.Contains(ws, w) {
			ws = append(ws, w)
		}
	}
	return ws, nil
}

func join(ws []Witness) string {
	var names []string
	for _, w := range ws {
		names = append(names, string(w))
	}
	return strings.Join(names, ",")
}

// ParseWorkerPort reads the value of WorkerPortAnnotation. An empty value means
// the default, which is also returned beside an error.
func ParseWorkerPort(value string) (int, error) {
	return parsePort(WorkerPortAnnotation, value, DefaultWorkerPort)
}

// ParseGatePort reads the value of GatePortAnnotation. An empty value means the
// default, which is also returned beside an error.
func ParseGatePort(value string) (int, error) {
	return parsePort(GatePortAnnotation, value, DefaultGatePort)
}

func parsePort(annotation, value string, fallback int) (int, error) {
	if value == "" {
		return fallback, nil
	}
	port, err := strconv.Atoi(value)
	if err != nil || port < 1 || port > 65535 {
		return fallback, fmt.Errorf("annotation %s is %q; use a port from 1 to 65535, such as %d", annotation, value, fallback)
	}
	return port, nil
}

// Project names a LiveKit project: DefaultProject, or "namespace/secret", or
// "namespace/secret (keys)" where a pod names its keys.
type Project string

// DefaultProject is the project of the add-on's own flags.
const DefaultProject Project = "default"

// SecretProject returns the project whose URL and API key are in a Secret, under
// these keys.
func SecretProject(namespace, secret string, keys SecretKeys) Project {
	project := namespace + "/" + secret
	if named := keys.String(); named != "" {
		project += " (" + named + ")"
	}
	return Project(project)
}

// Secret returns the Secret that holds the project's URL and key, and whether
// there is one.
func (p Project) Secret() (types.NamespacedName, bool) {
	where, _, _ := strings.Cut(string(p), " ")
	namespace, name, ok := strings.Cut(where, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok
}

// Keys returns the keys of that Secret, as pods name them.
func (p Project) Keys() SecretKeys {
	_, named, _ := strings.Cut(strings.TrimSuffix(string(p), ")"), " (")
	keys, _ := ParseSecretKeys(named) // SecretProject wrote it
	return keys
}

// Births are when the oldest and the newest pod of a project were created, by the API
// server's clock.
type Births struct{ Oldest, Newest time.Time }

// With returns the births including one more pod.
func (b Births) With(born time.Time) Births {
	if b.Newest.IsZero() || born.Before(b.Oldest) {
		b.Oldest = born
	}
	if born.After(b.Newest) {
		b.Newest = born
	}
	return b
}

// State is how far a guarded pod is on its way out. It only moves forward.
type State string

// The states, in order.
const (
	Serving  State = "serving"
	Aside    State = "aside"
	Draining State = "draining"
	Released State = "released"
)

// States lists the states in order.
func States() []State { return []State{Serving, Aside, Draining, Released} }

// HashOf is the hash of its template that a pod was born with, also of one that was set
// aside; empty for a pod that neither a Deployment nor an Argo Rollout made.
func HashOf(labels map[string]string) string {
	return strings.TrimSuffix(labels[HashLabel(labels)], AsideSuffix)
}

// IsAside reports whether a pod was set aside, by its labels.
func IsAside(labels map[string]string) bool {
	return strings.HasSuffix(labels[HashLabel(labels)], AsideSuffix)
}

// IsReleased reports whether a pod may be evicted and deleted, by its labels. The
// admission policies and the PodDisruptionBudgets only check that the label exists, so
// an empty value counts, too.
func IsReleased(labels map[string]string) bool {
	_, is := labels[ReleasedLabel]
	return is
}

// StateOf reads a pod's state from its labels and annotations. The one that is
// furthest on wins.
func StateOf(labels, annotations map[string]string) State {
	switch {
	case IsReleased(labels):
		return Released
	case annotations[DrainingAnnotation] != "":
		return Draining
	case IsAside(labels):
		return Aside
	default:
		return Serving
	}
}

// Owner is the object that controls a pod or a ReplicaSet.
type Owner struct {
	Kind, Name string
	UID        types.UID
}

// Pod is what callguard needs to know of a guarded pod. What a sum over many pods reads comes
// first, so that it is in few lines of the processor's cache.
type Pod struct {
	types.NamespacedName

	UID       types.UID
	State     State
	Witnesses []Witness
	Project   Project

	// Running reports whether a container runs that may hold calls, according to the
	// kubelet. A pod without one holds no call.
	Running bool
	// Ready reports whether the kubelet considers the pod ready.
	Ready bool
	// Terminating reports whether the pod is being deleted.
	Terminating bool
	// Born is when the pod was created, by the API server's clock.
	Born time.Time

	Labels   map[string]string
	Node, IP string
	Owner    Owner
	// Hash is the suffix of the name of the pod's ReplicaSet, if a Deployment created
	// that.
	Hash       string
	Demand     Demand
	WorkerPort int
	GatePort   int
}

// Compare orders pods by namespace and name.
func (p *Pod) Compare(other *Pod) int {
	if c := strings.Compare(p.Namespace, other.Namespace); c != 0 {
		return c
	}
	return strings.Compare(p.Name, other.Name)
}

// Asks reports whether w is among the pod's witnesses.
func (p *Pod) Asks(w Witness) bool { return slices.Contains(p.Witnesses, w) }

// Reading is one witness's answer about one pod. The zero Reading is unknown:
// there was no answer yet.
type Reading struct {
	calls  int
	at     time.Time
	reason string
	known  bool
	newest time.Time
	sealed bool
	others bool
	spared bool
	// ability is what a gate reports in addition to its number, even if that is
	// unknown.
	ability Ability
}

// Known returns a reading of n calls that was true at the given time.
func Known(n int, at time.Time) Reading { return Reading{calls: n, at: at, known: true} }

// Unknown returns the reading of a witness that could not tell, with the
// reason.
func Unknown(format string, args ...any) Reading {
	return Reading{reason: Plain(fmt.Sprintf(format, args...), MaxText)}
}

// Spared returns the unknown reading of a witness that did not have to be asked,
// with the reason.
func Spared(why string) Reading { return Reading{reason: why, spared: true} }

// Spared reports whether the witness did not have to be asked.
func (r Reading) Spared() bool { return r.spared }

// WithNewest returns the reading with the time at which the latest of its calls
// began.
func (r Reading) WithNewest(began time.Time) Reading {
	r.newest = began
	return r
}

// Newest returns when the latest of the calls began; zero if that is unknown.
func (r Reading) Newest() time.Time { return r.newest }

// WithSeal returns the reading of a witness that knows that no further call can
// begin.
func (r Reading) WithSeal() Reading {
	r.sealed = true
	return r
}

// Sealed reports whether the reading is known, and no further call can begin.
func (r Reading) Sealed() bool { return r.known && r.sealed }

// WithUnattributed returns the reading of a witness that sees calls which it
// cannot assign to a pod: the pod may hold more than the reading says.
func (r Reading) WithUnattributed() Reading {
	r.others = true
	return r
}

// Unattributed reports whether there are such calls.
func (r Reading) Unattributed() bool { return r.others }

// WithAbility returns the reading of a gate with the pod's ability to take calls.
func (r Reading) WithAbility(a Ability) Reading {
	r.ability = a
	return r
}

// Ability returns the pod's ability to take calls as the gate reports it; empty if it
// did not answer, and for all other witnesses.
func (r Reading) Ability() Ability { return r.ability }

// Calls returns the number of calls, and false when it is unknown.
func (r Reading) Calls() (int, bool) { return r.calls, r.known }

// Known reports whether the number of calls is known.
func (r Reading) Known() bool { return r.known }

// At returns the time at which a known reading was true.
func (r Reading) At() time.Time { return r.at }

// Reason returns why an unknown reading is unknown.
func (r Reading) Reason() string {
	if !r.known && r.reason == "" {
		return "there is no answer yet"
	}
	return r.reason
}
