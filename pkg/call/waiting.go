// SPDX-License-Identifier: Apache-2.0

package call

import (
	"fmt"
	"slices"
	"time"
)

// MaxAgentName bounds the name of an agent, in bytes.
const MaxAgentName = 128

// Values of WaitingRoomsAnnotation.
const (
	NamedRooms = "named" // only rooms that ask for an agent by name; the default
	EveryRoom  = "every" // also those that ask for any agent, as LiveKit does for each room that names none
)

// Demand describes which of the calls that wait for an agent a pod could take, according
// to its annotations.
type Demand struct {
	Project Project
	// AgentName is the name with which its agent registers at LiveKit; empty if no
	// annotation names it.
	AgentName string
	// EveryRoom reports whether a caller waits, too, in a room that asks for no agent
	// by name.
	EveryRoom bool
	// Again reports whether such rooms are dispatched again when a pod can take
	// calls.
	Again bool
}

// DemandOf reads the annotations of a pod, or of the template of one. For invalid values
// the defaults apply.
func DemandOf(namespace string, annotations map[string]string) Demand {
	name, _ := ParseAgentName(annotations[AgentNameAnnotation])
	every, _ := ParseWaitingRooms(annotations[WaitingRoomsAnnotation])
	again, _ := ParseDispatchAgain(annotations[DispatchAgainAnnotation])
	return Demand{Project: ProjectOf(namespace, annotations), AgentName: name, EveryRoom: every, Again: again}
}

// ProjectOf returns the LiveKit project that the annotations of a pod name.
func ProjectOf(namespace string, annotations map[string]string) Project {
	secret := annotations[SecretAnnotation]
	if secret == "" {
		return DefaultProject
	}
	keys, _ := ParseSecretKeys(annotations[SecretKeysAnnotation])
	return SecretProject(namespace, secret, keys)
}

// ParseAgentName reads the value of AgentNameAnnotation.
func ParseAgentName(value string) (string, error) {
	if len(value) > MaxAgentName {
		return "", fmt.Errorf("annotation %s is %.200q, of %d bytes; use a name of at most %d, such as \"desk\"",
			AgentNameAnnotation, value, len(value), MaxAgentName)
	}
	return value, nil
}

// ParseWaitingRooms reads the value of WaitingRoomsAnnotation: whether a caller in a room
// that asks for no agent by name waits, too.
func ParseWaitingRooms(value string) (every bool, err error) {
	switch value {
	case "", NamedRooms, EveryRoom:
		return value == EveryRoom, nil
	}
	return false, fmt.Errorf("annotation %s is %q; use %q or %q", WaitingRoomsAnnotation, value, NamedRooms, EveryRoom)
}

// ParseDispatchAgain reads the value of DispatchAgainAnnotation.
func ParseDispatchAgain(value string) (bool, error) {
	switch value {
	case "", "false", "true":
		return value == "true", nil
	}
	return false, fmt.Errorf("annotation %s is %q; use \"true\" or \"false\"", DispatchAgainAnnotation, value)
}

// WaitingRoom is a room with a caller and no agent, which asked for an agent and got
// none.
type WaitingRoom struct {
	// Room is its name. It is shown to nobody, because rooms may be named after
	// telephone numbers.
	Room  string
	Since time.Time
	// Wants are the names of the agents it asked for and did not get, each once; an empty
	// one is that of any agent without a name.
	Wants []string
}

// Waiting is what is known of a project's callers that no agent has answered.
type Waiting struct {
	Rooms []WaitingRoom
	// Unknown counts the rooms with a caller and no agent of which it is not known
	// whether they asked for one; Why is the reason.
	Unknown int
	Why     string
	// At is the time at which all of this was true.
	At time.Time
}

// Takers reports for each demand of one project whether it could take a room's call. If
// the room asks for an agent by name, these are the demands with that name or, if there
// are none, all demands without a name. A room that asks for any agent is for demands
// without a name and with EveryRoom.
func (r WaitingRoom) Takers(demands []Demand) []bool {
	takes := make([]bool, len(demands))
	for _, want := range r.Wants {
		said := want != "" && slices.ContainsFunc(demands, func(d Demand) bool { return d.AgentName == want })
		for i, d := range demands {
			switch {
			case want == "":
				takes[i] = takes[i] || d.AgentName == "" && d.EveryRoom
			case said:
				takes[i] = takes[i] || d.AgentName == want
			default:
				takes[i] = takes[i] || d.AgentName == ""
			}
		}
	}
	return takes
}
