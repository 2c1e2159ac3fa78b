// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Dialect is the SDK that a process imitates: LiveKit Agents for Python or for Node. They differ in what GET /worker
// answers, in what GET / answers while LiveKit is away, in job reports and in the exit code after a drain.
type Dialect string

// The dialects.
const (
	Python Dialect = "python"
	Node   Dialect = "node"
)

const (
	sdkVersion      = "1.7.0"
	workerType      = "JT_ROOM"
	protocolVersion = 1
)

// parseDialect parses the value of DialectAnnotation.
func parseDialect(value string) (Dialect, error) {
	switch Dialect(value) {
	case "", Python:
		return Python, nil
	case Node:
		return Node, nil
	}
	return "", fmt.Errorf("annotation %s is %q; use %q or %q", DialectAnnotation, value, Python, Node)
}

// workerInfo is what a process reports about itself.
type workerInfo struct {
	AgentName  string
	ActiveJobs int
	Load       float32
}

// encode writes info as the body of GET /worker.
func (d Dialect) encode(info workerInfo) []byte {
	if d == Node {
		return info.node()
	}
	return info.python()
}

// exitCode is the exit code of a drained process.
func (d Dialect) exitCode() int32 {
	if d == Node {
		return 143
	}
	return 0
}

// reportsJobs reports whether the worker reports the state of its jobs to LiveKit. Node never does.
func (d Dialect) reportsJobs() bool { return d == Python }

// node is a plain object: every field, always.
func (i workerInfo) node() []byte {
	body, _ := json.Marshal(struct { // cannot fail: strings, numbers and booleans only
		AgentName       string `json:"agent_name"`
		AgentNameIsEnv  bool   `json:"agent_name_is_env"`
		Deployment      string `json:"deployment"`
		WorkerType      string `json:"worker_type"`
		ActiveJobs      int    `json:"active_jobs"`
		SDKVersion      string `json:"sdk_version"`
		ProjectType     string `json:"project_type"`
		ProtocolVersion int    `json:"protocol_version"`
	}{i.AgentName, false, "", workerType, i.ActiveJobs, sdkVersion, "nodejs", protocolVersion})
	return body
}

// python is a protobuf message written as JSON: fields at zero are left out, and counts are floats.
func (i workerInfo) python() []byte {
	var fields []string
	add := func(name, value string) { fields = append(fields, fmt.Sprintf("  %q: %s", name, value)) }
	add("worker_type", strconv.Quote(workerType))
	if i.AgentName != "" {
		quoted, _ := json.Marshal(i.AgentName) // cannot fail: a string
		add("agent_name", string(quoted))
	}
	if i.ActiveJobs != 0 {
		add("active_jobs", pythonFloat(float32(i.ActiveJobs)))
	}
	add("sdk_version", strconv.Quote(sdkVersion))
	if i.Load != 0 {
		add("worker_load", pythonFloat(i.Load))
	}
	add("protocol_version", strconv.Itoa(protocolVersion))
	return []byte("{\n" + strings.Join(fields, ",\n") + "\n}")
}

// pythonFloat formats a float as Python does: 2.0, not 2.
func pythonFloat(v float32) string {
	s := strconv.FormatFloat(float64(v), 'f', -1, 32)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
