// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/callguard/callguard/pkg/call"
)

// frame is one message of a websocket: binary protobuf or JSON text, as the
// worker chose.
type frame struct {
	kind int
	body []byte
}

// read decodes a frame. Unknown fields are ignored.
func (f frame) read(m proto.Message) error {
	if f.kind == websocket.TextMessage {
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(f.body, m)
	}
	return proto.Unmarshal(f.body, m)
}

// worker reads a frame of a worker, and server one of LiveKit.
func (f frame) worker() (*livekit.WorkerMessage, error) {
	m := &livekit.WorkerMessage{}
	return m, f.read(m)
}

func (f frame) server() (*livekit.ServerMessage, error) {
	m := &livekit.ServerMessage{}
	return m, f.read(m)
}

// write encodes a message from the gate itself.
func write(kind int, m proto.Message) (frame, error) {
	var body []byte
	var err error
	if kind == websocket.TextMessage {
		body, err = protojson.Marshal(m)
	} else {
		kind = websocket.BinaryMessage
		body, err = proto.Marshal(m)
	}
	if err != nil {
		return frame{}, fmt.Errorf("cannot encode a frame: %w", err)
	}
	return frame{kind: kind, body: body}, nil
}

// stamp adds the pod's UID to an accepted offer.
func (f frame) stamp(m *livekit.WorkerMessage, pod string) (frame, error) {
	if f.kind == websocket.TextMessage {
		return f.edit("availability", func(fields map[string]json.RawMessage) error {
			attributes := maps.Clone(m.GetAvailability().GetParticipantAttributes())
			if attributes == nil {
				attributes = map[string]string{}
			}
			attributes[call.PodAttribute] = pod
			return set(fields, "participantAttributes", "participant_attributes", attributes)
		})
	}
	answer := m.GetAvailability()
	if answer.ParticipantAttributes == nil {
		answer.ParticipantAttributes = map[string]string{}
	}
	answer.ParticipantAttributes[call.PodAttribute] = pod
	return write(f.kind, m)
}

// address gives an assignment the URL to join at.
func (f frame) address(m *livekit.ServerMessage, url string) (frame, error) {
	if f.kind == websocket.TextMessage {
		return f.edit("assignment", func(fields map[string]json.RawMessage) error { return set(fields, "url", "url", url) })
	}
	m.GetAssignment().Url = &url
	return write(f.kind, m)
}

// full changes a worker's status update so that it takes no job.
func (f frame) full(m *livekit.WorkerMessage) (frame, error) {
	if f.kind == websocket.TextMessage {
		return f.edit("updateWorker", func(fields map[string]json.RawMessage) error {
			if err := set(fields, "status", "status", livekit.WorkerStatus_WS_FULL.String()); err != nil {
				return err
			}
			return set(fields, "load", "load", 1)
		})
	}
	m.GetUpdateWorker().Status, m.GetUpdateWorker().Load = livekit.WorkerStatus_WS_FULL.Enum(), 1
	return write(f.kind, m)
}

// edit changes one message of a JSON frame and keeps everything else unchanged: protojson
// would lose the fields that it does not know.
func (f frame) edit(message string, change func(map[string]json.RawMessage) error) (frame, error) {
	var outer, inner map[string]json.RawMessage
	if err := json.Unmarshal(f.body, &outer); err != nil {
		return frame{}, fmt.Errorf("cannot edit a JSON frame: %w", err)
	}
	name := message
	if outer[name] == nil {
		name = snake(message)
	}
	if err := json.Unmarshal(outer[name], &inner); err != nil {
		return frame{}, fmt.Errorf("cannot edit %s of a JSON frame: %w", message, err)
	}
	if inner == nil {
		inner = map[string]json.RawMessage{}
	}
	if err := change(inner); err != nil {
		return frame{}, err
	}
	if err := set(outer, name, name, inner); err != nil {
		return frame{}, err
	}
	body, err := json.Marshal(outer)
	return frame{kind: f.kind, body: body}, err
}

// set writes a field under the one of its two JSON names that is in use.
func set(fields map[string]json.RawMessage, camel, snake string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("cannot set %s of a JSON frame: %w", camel, err)
	}
	delete(fields, snake)
	fields[camel] = raw
	return nil
}

// snake returns the name of a message in a .proto file.
func snake(camel string) string {
	if camel == "updateWorker" {
		return "update_worker"
	}
	return camel
}

// refusal returns the answer no to an offer. The job does not end with it: LiveKit asks
// another worker.
func refusal(kind int, jobID string) (frame, error) {
	return write(kind, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{
		Availability: &livekit.AvailabilityResponse{JobId: jobID},
	}})
}

// fullWorker returns the message to LiveKit that a worker takes no job.
func fullWorker(kind int) (frame, error) {
	return write(kind, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{
		UpdateWorker: &livekit.UpdateWorkerStatus{Status: livekit.WorkerStatus_WS_FULL.Enum(), Load: 1},
	}})
}
