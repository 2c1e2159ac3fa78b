// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// maxDispatches is how many dispatches of a room are kept.
	maxDispatches = 100
	// maxOrder is the maximum size of a dispatch without its agent's name, in bytes: metadata,
	// attributes and the like.
	maxOrder = 64 << 10
)

// The field numbers and values of LiveKit's dispatches.
const (
	dispatchName, dispatchState = 2, 5

	stateJobs, stateDeleted = 1, 3

	jobState = 8

	jobStatus, jobParticipant, jobWorker = 1, 6, 7

	statusRunning, statusSuccess, statusFailed = 1, 2, 3

	createName, createRoom = 1, 2
)

// created returns the field number in a request for a new dispatch that corresponds to one
// in a dispatch: metadata, restart policy, deployment, attributes, thread.
func created(number protowire.Number) (protowire.Number, bool) {
	switch number {
	case 4:
		return 3, true
	case 6, 7, 8, 9:
		return number - 2, true
	default:
		return 0, false
	}
}

// Dispatch is an agent that a room asked for.
type Dispatch struct {
	// AgentName is empty if any agent without a name will do. LiveKit asks for that by itself
	// in a room that names none.
	AgentName string
	// Taken reports whether an agent was sent, whatever has become of it.
	Taken bool

	order   []byte // its other fields, in the form of a request for a new one
	tooLong bool   // it has more than maxOrder bytes, or its name is too long
}

// Dispatches returns the agents that a room has asked for. A closed room has none.
func (c *Client) Dispatches(ctx context.Context, room string) ([]Dispatch, error) {
	request := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), room)
	var list []Dispatch
	err := c.ask(ctx, dispatchService, "ListDispatch", map[string]any{"roomAdmin": true, "room": room}, request, func(a *answer) (err error) {
		list, err = a.dispatches()
		return err
	})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the dispatches of a room of LiveKit: %w", err)
	}
	return list, nil
}

// Dispatch asks again for the agent that a dispatch of a room asked for, with the same
// metadata and attributes. LiveKit looks for it at once, and only once.
func (c *Client) Dispatch(ctx context.Context, room string, d Dispatch) error {
	if d.tooLong {
		return fmt.Errorf("a dispatch has more than %d KiB of metadata, or a name of more than %d bytes, and is not repeated", maxOrder>>10, call.MaxAgentName)
	}
	request := protowire.AppendString(protowire.AppendTag(nil, createName, protowire.BytesType), d.AgentName)
	request = protowire.AppendString(protowire.AppendTag(request, createRoom, protowire.BytesType), room)
	request = append(request, d.order...)
	err := c.ask(ctx, dispatchService, "CreateDispatch", map[string]any{"roomAdmin": true, "room": room}, request, func(a *answer) error {
		return a.walk(-1, func(protowire.Number, protowire.Type, uint64) error { return nil })
	})
	if err != nil {
		return fmt.Errorf("cannot dispatch an agent to a room of LiveKit: %w", err)
	}
	return nil
}

// dispatches reads the answer to ListDispatch. Deleted ones are left out.
func (a *answer) dispatches() ([]Dispatch, error) {
	var list []Dispatch
	err := a.list(func(end int64) error {
		var d Dispatch
		deleted := false
		err := a.walk(end, func(number protowire.Number, kind protowire.Type, value uint64) (err error) {
			to, is := created(number)
			switch {
			case number == dispatchName && kind == protowire.BytesType:
				if d.AgentName, err = a.text(value, call.MaxAgentName); value > call.MaxAgentName {
					d.AgentName, d.tooLong = d.AgentName+"…", true // no pod may have such a name
				}
			case number == dispatchState && kind == protowire.BytesType:
				err = a.state(a.pos+int64(value), &d, &deleted)
			case is && kind == protowire.VarintType:
				d.order = protowire.AppendVarint(protowire.AppendTag(d.order, to, kind), value)
			case is && kind == protowire.BytesType && value+uint64(len(d.order)) > maxOrder:
				d.tooLong = true
			case is && kind == protowire.BytesType:
				var said string
				if said, err = a.text(value, maxOrder); err == nil {
					d.order = protowire.AppendString(protowire.AppendTag(d.order, to, kind), said)
				}
			}
			return err
		})
		if err == nil && !deleted && len(list) < maxDispatches {
			list = append(list, d)
		}
		return err
	})
	return list, err
}

// state reads the state of a dispatch.
func (a *answer) state(end int64, d *Dispatch, deleted *bool) error {
	return a.walk(end, func(number protowire.Number, kind protowire.Type, value uint64) error {
		switch {
		case number == stateDeleted && kind == protowire.VarintType:
			*deleted = value != 0
		case number == stateJobs && kind == protowire.BytesType:
			return a.walk(a.pos+int64(value), func(number protowire.Number, kind protowire.Type, value uint64) error {
				if number != jobState || kind != protowire.BytesType {
					return nil
				}
				return a.walk(a.pos+int64(value), func(number protowire.Number, kind protowire.Type, value uint64) error {
					switch {
					case number == jobStatus && kind == protowire.VarintType:
						d.Taken = d.Taken || value == statusRunning || value == statusSuccess || value == statusFailed
					case (number == jobParticipant || number == jobWorker) && kind == protowire.BytesType:
						d.Taken = d.Taken || value > 0
					}
					return nil
				})
			})
		}
		return nil
	})
}
