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

// Whoever has a project chooses its server, so no answer is taken at its word. An
// answer is read item by item, and only what is used is kept of it. What is not used is
// passed over as it comes and takes no memory, so it may be of any size: LiveKit takes
// 512 KiB of metadata, and more where limit.max_metadata_size says so.
const (
	// maxBytes bounds an answer as it comes. It bounds work, not memory; the time limit
	// of the request does so, too.
	maxBytes = 512 << 20
	// maxName bounds a name of a room and an identity: by default LiveKit takes 256
	// bytes of these, but that is a setting. A name stands in the token of a request,
	// and servers take no more than some 64 KiB of that.
	maxName = 64 << 10
	// maxField bounds an id and an attribute that is read: what is longer names no pod.
	maxField = 128
	// maxKey is longer than the keys of the attributes that are read.
	maxKey = 64
	// maxErrorBytes is what is read of an answer that is an error.
	maxErrorBytes = 8 << 10

	// maxUnderWay bounds the memory that answers under way may take, of all projects of
	// a process together. The chart gives a process 256 MiB, of which it takes some 60
	// MiB otherwise. The first of an answer is free, as much as an ordinary room takes,
	// so that no project keeps the rooms of another from being read.
	maxUnderWay = 64 << 20
	freeCost    = 16 << 10
	// An item takes itemCost, and each byte that is kept of it byteCost: lists grow by
	// copies.
	itemCost = 256
	byteCost = 2
	// chargeStep is how much is taken of the budget at once.
	chargeStep = 64 << 10
)

// Budget is the memory that answers under way may take.
type Budget = semaphore.Weighted

// NewBudget returns a Budget for all clients of a process.
func NewBudget() *Budget { return semaphore.NewWeighted(maxUnderWay) }

// The words of LiveKit's API that are read, and their numbers.
const (
	itemsField = 1

	roomSID, roomName, roomParticipants, roomPublishers = 1, 2, 9, 11

	partSID, partIdentity, partState, partJoined, partPublishes, partKind, partAttributes, partKindDetails = 1, 2, 3, 6, 13, 14, 15, 18

	entryKey, entryValue = 1, 2

	kindEgress = 2
	kindAgent  = 4
	cloudAgent = 0 // of the kind's details

	// publishOnBehalf marks the participant of an avatar service, which joins as an
	// agent on behalf of the agent that has the call.
	publishOnBehalf = "lk.publish_on_behalf"
)

// errForeign says that an answer is not LiveKit's.
func errForeign() error { return unreadable("its answer is not LiveKit's") }

// answer reads one answer and holds what it takes of the budget until closed.
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

// charge has the budget know what the answer takes by now.
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

// walk goes through the fields of a message that ends at the position given; -1 is
// the end of the answer. each is told a field's number and kind, and its value, or the
// size of it; it may read such a value. The rest of it is passed over.
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

// text reads a value of so many bytes, at most the first of them. The rest is passed
// over.
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

// midway is an error in the middle of an answer: there, its end is one.
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

// rooms reads the answer to ListRooms. A room whose name is too long to ask for it has
// none.
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
		agent, kind, other := Agent{}, uint64(0), false // other: an agent that holds no call of a pod
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

// each reads numbers up to the position given.
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

// attribute reads one attribute. Of a value only the beginning is kept, which is more
// than any pod's UID has: what is longer names no pod.
func (a *answer) attribute(end int64, agent *Agent, other *bool) error {
	var key, value string
	kept := a.kept
	err := a.walk(end, func(number protowire.Number, kind protowire.Type, size uint64) (err error) {
		switch {
		case kind != protowire.BytesType:
		case number == entryKey:
			key, err = a.text(size, maxKey)
		case number == entryValue && (key == "" || key == call.PodAttribute || key == publishOnBehalf): // it may come before its key
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
		a.kept = kept // it is garbage
	}
	return err
}
