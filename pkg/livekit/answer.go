// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// The owner of a project chooses its server, so no answer is trusted. An answer is read
// item by item, and only what is used is kept. The rest is skipped while it arrives and
// takes no memory, so it may be of any size: LiveKit accepts 512 KiB of metadata, and more
// if limit.max_metadata_size allows it.
const (
	// maxBytes is the maximum size of an answer. It limits work, not memory; so does the time
	// limit of the request.
	maxBytes = 512 << 20
	// maxName is the maximum length of a room's name and of an identity. LiveKit's default is
	// 256 bytes, but that is a setting. A name is in the token of a request, and servers
	// accept tokens of about 64 KiB.
	maxName = 64 << 10
	// maxField is the maximum length of an id and of an attribute that is read: a longer one
	// names no pod.
	maxField = 128
	// maxKey is longer than the keys of the attributes that are read.
	maxKey = 64
	// maxErrorBytes is how much is read of an answer that is an error.
	maxErrorBytes = 8 << 10

	// maxUnderWay is the memory that all answers being read in a process may take together.
	// The chart gives a process 256 MiB, and it needs about 60 MiB for everything else. The
	// first part of an answer, as much as an ordinary room takes, is free, so that no project
	// can block the rooms of another.
	maxUnderWay = 64 << 20
	freeCost    = 16 << 10
	// An item costs itemCost, and each kept byte of it byteCost, because lists grow by
	// copying.
	itemCost = 256
	byteCost = 2
	// chargeStep is how much is taken of the budget at once.
	chargeStep = 64 << 10
)

// Budget is the memory that answers being read may take.
type Budget = semaphore.Weighted

// NewBudget returns a Budget for all clients of a process.
func NewBudget() *Budget { return semaphore.NewWeighted(maxUnderWay) }

// The field numbers and values of LiveKit's API that are read.
const (
	itemsField = 1

	roomSID, roomName, roomParticipants, roomPublishers = 1, 2, 9, 11

	partSID, partIdentity, partState, partJoined, partPublishes, partKind, partAttributes, partKindDetails = 1, 2, 3, 6, 13, 14, 15, 18

	entryKey, entryValue = 1, 2

	kindEgress = 2
	kindAgent  = 4
	cloudAgent = 0 // of the kind's details

	// publishOnBehalf is the attribute of an avatar service's participant, which joins as an
	// agent on behalf of the agent that has the call.
	publishOnBehalf = "lk.publish_on_behalf"
)

// errForeign returns the error for an answer that is not from LiveKit.
func errForeign() error { return unreadable("its answer is not LiveKit's") }

// answer reads one answer, and holds its part of the budget until it is closed.
type answer struct {
	r   *bufio.Reader
	pos int64

	most   int64 // items; 0 for as many as the budget has room for
	budget *Budget
	held   int64
	items  int64
	kept   int64
}

func newAnswer(body io.Reader, budget *Budget, most int) *answer {
	return &answer{r: bufio.NewReader(io.LimitReader(body, maxBytes+1)), budget: budget, most: int64(most)}
}

// charge charges to the budget what the answer takes by now.
func (a *answer) charge() error {
	need := byteCost*a.kept + itemCost*a.items - freeCost
	for need > a.held {
		if !a.budget.TryAcquire(chargeStep) {
			return &Refused{
				Answer: "the answers of all LiveKit projects that are under way would take more than 64 MiB",
				Cure:   "it is asked again",
			}
		}
		a.held += chargeStep
	}
	return nil
}

func (a *answer) close() {
	a.budget.Release(a.held)
	a.held = 0
}

// walk goes through the fields of a message that ends at the given position; -1 means the
// end of the answer. each is called with a field's number and kind, and with its value or
// the size of the value, which it may then read. Unread bytes are skipped.
func (a *answer) walk(end int64, each func(number protowire.Number, kind protowire.Type, value uint64) error) error {
	for a.pos != end {
		before := a.pos
		tag, err := binary.ReadUvarint(a)
		if errors.Is(err, io.EOF) && end < 0 && a.pos == before {
			return nil
		}
		if err != nil {
			return midway(err)
		}
		number, kind := protowire.DecodeTag(tag)
		value, size := uint64(0), uint64(0)
		switch kind {
		case protowire.VarintType:
			value, err = binary.ReadUvarint(a)
		case protowire.Fixed32Type:
			size = 4
		case protowire.Fixed64Type:
			size = 8
		case protowire.BytesType:
			size, err = binary.ReadUvarint(a)
			value = size
		default:
			return errForeign()
		}
		if err != nil {
			return midway(err)
		}
		if size > maxBytes {
			return unreadable("its answer is longer than %d MiB", maxBytes>>20)
		}
		stop := a.pos + int64(size)
		if end >= 0 && stop > end || number < 1 {
			return errForeign()
		}
		if err := each(number, kind, value); err != nil {
			return err
		}
		if err := a.skip(stop - a.pos); err != nil {
			return err
		}
	}
	return nil
}

// ReadByte implements io.ByteReader.
func (a *answer) ReadByte() (byte, error) {
	b, err := a.r.ReadByte()
	if err == nil {
		a.pos++
	}
	return b, err
}

func (a *answer) skip(n int64) error {
	skipped, err := a.r.Discard(int(n))
	a.pos += int64(skipped)
	if a.pos > maxBytes {
		return unreadable("its answer is longer than %d MiB", maxBytes>>20)
	}
	return midway(err)
}

// text reads a value of the given size, but no more than most bytes of it. The rest is
// skipped.
func (a *answer) text(size uint64, most int) (string, error) {
	n := min(size, uint64(most))
	a.kept += int64(n)
	if err := a.charge(); err != nil {
		return "", err
	}
	raw := make([]byte, n)
	read, err := io.ReadFull(a.r, raw)
	a.pos += int64(read)
	return string(raw), midway(err)
}

// midway returns the error in the middle of an answer, where the end of the answer is an
// error, too.
func midway(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}

// list reads a list, whose field 1 has the items.
func (a *answer) list(item func(end int64) error) error {
	return a.walk(-1, func(number protowire.Number, kind protowire.Type, size uint64) error {
		if number != itemsField || kind != protowire.BytesType {
			return nil
		}
		if a.items++; a.most > 0 && a.items > a.most {
			return &Refused{
				Answer: fmt.Sprintf("its answer has more than %d rooms or participants", a.most),
				Cure:   "more than that callguard does not count of a namespace's project; the default project has no such limit",
			}
		}
		if err := a.charge(); err != nil {
			return err
		}
		return item(a.pos + int64(size))
	})
}

// rooms reads the answer to ListRooms. A room whose name is too long to ask for it has an
// empty name.
func (a *answer) rooms() ([]RoomInfo, error) {
	var list []RoomInfo
	err := a.list(func(end int64) error {
		var room RoomInfo
		err := a.walk(end, func(number protowire.Number, kind protowire.Type, value uint64) (err error) {
			switch {
			case number == roomSID && kind == protowire.BytesType:
				room.SID, err = a.text(value, maxField)
			case number == roomName && kind == protowire.BytesType && value <= maxName:
				room.Name, err = a.text(value, maxName)
			case number == roomParticipants && kind == protowire.VarintType:
				room.NumParticipants = int(uint32(value))
			case number == roomPublishers && kind == protowire.VarintType:
				room.NumPublishers = int(uint32(value))
			}
			return err
		})
		list = append(list, room)
		return err
	})
	return list, err
}

// participants reads the answer to ListParticipants.
func (a *answer) participants() (Room, error) {
	var room Room
	err := a.list(func(end int64) error {
		agent, kind, other := Agent{}, uint64(0), false // other: an agent that is not a pod's call
		publishes := false
		err := a.walk(end, func(number protowire.Number, wire protowire.Type, value uint64) (err error) {
			bytes, varint := wire == protowire.BytesType, wire == protowire.VarintType
			switch {
			case number == partSID && bytes:
				agent.SID, err = a.text(value, maxField)
			case number == partIdentity && bytes:
				agent.Identity, err = a.text(value, maxName)
			case number == partState && varint:
				agent.State = State(uint32(value))
			case number == partJoined && varint:
				agent.Joined = time.Unix(int64(value), 0)
			case number == partPublishes && varint:
				publishes = value != 0
			case number == partKind && varint:
				kind = value
			case number == partKindDetails && varint:
				other = other || value == cloudAgent
			case number == partKindDetails && bytes:
				err = a.each(a.pos+int64(value), func(detail uint64) { other = other || detail == cloudAgent })
			case number == partAttributes && bytes:
				err = a.attribute(a.pos+int64(value), &agent, &other)
			}
			return err
		})
		if err != nil || agent.State == Disconnected {
			return err
		}
		room.AnyAgent = room.AnyAgent || kind == kindAgent
		if kind == kindAgent && !other {
			room.Agents = append(room.Agents, agent)
		} else {
			room.Others++
		}
		room.Counts.add(kind, publishes)
		return nil
	})
	return room, err
}

// add counts a participant as LiveKit's list of rooms does.
func (c *Counts) add(kind uint64, publishes bool) {
	if kind != kindAgent && kind != kindEgress {
		c.Participants++
	}
	switch {
	case publishes:
		c.Publishers++
	case kind == kindAgent:
		c.Quiet++
	}
}

// each reads numbers up to the given position.
func (a *answer) each(end int64, number func(uint64)) error {
	for a.pos < end {
		n, err := binary.ReadUvarint(a)
		if err != nil {
			return midway(err)
		}
		number(n)
	}
	if a.pos > end {
		return errForeign()
	}
	return nil
}

// attribute reads one attribute. Only the beginning of a value is kept, which is longer
// than any pod's UID: a longer value names no pod.
func (a *answer) attribute(end int64, agent *Agent, other *bool) error {
	var key, value string
	kept := a.kept
	err := a.walk(end, func(number protowire.Number, kind protowire.Type, size uint64) (err error) {
		switch {
		case kind != protowire.BytesType:
		case number == entryKey:
			key, err = a.text(size, maxKey)
		case number == entryValue && (key == "" || key == call.PodAttribute || key == publishOnBehalf): // the value may come before its key
			value, err = a.text(size, maxField)
		}
		return err
	})
	switch key {
	case call.PodAttribute:
		agent.Pod = types.UID(value)
	case publishOnBehalf:
		*other = *other || value != ""
	default:
		a.kept = kept // the memory is free again
	}
	return err
}
