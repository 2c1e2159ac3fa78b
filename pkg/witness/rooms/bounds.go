// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/callguard/callguard/pkg/call"
)

// Whoever has a project chooses its server, so no answer is taken at its word. An
// answer is read item by item, and only the fields that are used are kept of it.
const (
	// maxRoomsBytes and maxRoomBytes bound the answers of ListRooms and of
	// ListParticipants, as they come. A room takes some 200 bytes and its metadata: 32 MiB
	// are 25,000 rooms of 1.3 KiB. A participant takes some 500 bytes, and with its
	// metadata and attributes at LiveKit's limit of 64 KB each some 130 KB: 4 MiB are
	// 8,000 of the former and 30 of the latter.
	maxRoomsBytes = 32 << 20
	maxRoomBytes  = 4 << 20
	// maxErrorBytes is what is read of an answer that is an error.
	maxErrorBytes = 8 << 10
	// maxItem bounds one room or participant, maxItems their number, and maxField a
	// name, an id and an attribute that is read: LiveKit allows 256 bytes.
	maxItem  = 256 << 10
	maxItems = 25_000
	maxField = 1 << 10
	// maxAgents bounds the agents that are remembered of a project, at some 300 bytes
	// each.
	maxAgents = 25_000

	// maxUnderWay bounds the memory that answers under way may take, of all projects
	// of a process together. The chart gives a process 256 MiB, of which it takes some
	// 60 MiB otherwise. The first of an answer is free, as much as an ordinary room
	// takes, so that no project keeps the rooms of another from being read.
	maxUnderWay = 64 << 20
	freeCost    = 16 << 10
	// An item takes itemCost once it is decoded, and each byte that is kept of it
	// byteCost: buffers grow by copies, and the answer is copied on its way.
	itemCost = 1 << 10
	byteCost = 8
	// chargeStep is how much is taken of the budget at once.
	chargeStep = 64 << 10

	// maxHeaderBytes bounds the headers of an answer.
	maxHeaderBytes = 64 << 10
)

// fields are the numbers of those fields of a message that are read.
type fields []protowire.Number

const attributesField = 15

// bounds are the most bytes of the answer to a method, and the fields that are read
// of its rooms or participants.
func bounds(path string) (int64, fields) {
	if strings.HasSuffix(path, "/ListRooms") {
		return maxRoomsBytes, fields{2} // name
	}
	return maxRoomBytes, fields{1, 3, 6, 14, attributesField, 18} // sid, state, joined_at, kind, attributes, kind_details
}

// budget is the memory that answers under way may take.
type budget = semaphore.Weighted

func newBudget() *budget { return semaphore.NewWeighted(maxUnderWay) }

// boundHeaders bounds the headers of answers, where the transport can.
func boundHeaders(transport http.RoundTripper) http.RoundTripper {
	t, ok := transport.(*http.Transport)
	if !ok {
		return transport
	}
	t = t.Clone()
	t.MaxResponseHeaderBytes = maxHeaderBytes
	return t
}

// taking reads one answer and holds what it takes of the budget until closed.
type taking struct {
	budget *budget
	held   int64

	buffer []byte // one item
	kept   []byte
	items  int
}

// charge has the budget know what the answer takes by now.
func (t *taking) charge() error {
	need := int64(cap(t.buffer)) + byteCost*int64(len(t.kept)) + itemCost*int64(t.items) - freeCost
	for need > t.held {
		if !t.budget.TryAcquire(chargeStep) {
			return fmt.Errorf("the answers of all LiveKit projects that are under way would take more than %d MiB; it is asked again", maxUnderWay>>20)
		}
		t.held += chargeStep
	}
	return nil
}

func (t *taking) close() {
	t.budget.Release(t.held)
	t.held = 0
}

// take reads a list, whose field 1 has the items, and keeps what is read of them.
func (t *taking) take(from io.Reader, limit int64, read fields) error {
	r := bufio.NewReader(&boundedReader{Reader: from, left: limit, limit: limit})
	for {
		tag, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) {
			t.buffer = nil
			return nil
		}
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		size := uint64(0)
		switch kind {
		case protowire.VarintType:
			_, err = binary.ReadUvarint(r)
		case protowire.Fixed32Type:
			size = 4
		case protowire.Fixed64Type:
			size = 8
		case protowire.BytesType:
			size, err = binary.ReadUvarint(r)
		default:
			err = errors.New("the answer is not LiveKit's")
		}
		if err != nil {
			return midway(err)
		}
		if number != 1 || kind != protowire.BytesType {
			if size > math.MaxInt32 {
				return errors.New("the answer is not LiveKit's")
			}
			if _, err := r.Discard(int(size)); err != nil {
				return midway(err)
			}
			continue
		}
		if err := t.item(r, size, read); err != nil {
			return midway(err)
		}
	}
}

// item reads one room or participant.
func (t *taking) item(r io.Reader, size uint64, read fields) error {
	if t.items++; t.items > maxItems {
		return fmt.Errorf("the answer has more than %d rooms or participants", maxItems)
	}
	if size > maxItem {
		return fmt.Errorf("a room or participant of the answer takes %d bytes, more than %d KiB", size, maxItem>>10)
	}
	if uint64(cap(t.buffer)) < size {
		t.buffer = make([]byte, 0, max(size, uint64(min(2*cap(t.buffer), maxItem))))
	}
	if err := t.charge(); err != nil {
		return err
	}
	buffer := t.buffer[:size]
	if _, err := io.ReadFull(r, buffer); err != nil {
		return err
	}
	// What is kept is no longer than the item, so its length is written when it is known.
	kept, err := keep(buffer[:0], buffer, read)
	if err != nil {
		return err
	}
	t.kept = protowire.AppendBytes(protowire.AppendTag(t.kept, 1, protowire.BytesType), kept)
	return t.charge()
}

// keep appends the fields of a message that are read to out, which may be the
// message's own memory.
func keep(out, message []byte, read fields) ([]byte, error) {
	for len(message) > 0 {
		number, _, n := protowire.ConsumeField(message)
		if n < 0 {
			return nil, fmt.Errorf("the answer is not LiveKit's: %w", protowire.ParseError(n))
		}
		field := message[:n]
		message = message[n:]
		if !slices.Contains(read, number) || number == attributesField && !isRead(field) {
			continue
		}
		if n > maxField {
			return nil, fmt.Errorf("a name, an id or an attribute in the answer is longer than %d bytes", maxField)
		}
		out = append(out, field...)
	}
	return out, nil
}

// isRead says whether an attribute is one of those that are read.
func isRead(field []byte) bool {
	_, _, n := protowire.ConsumeTag(field)
	entry, m := protowire.ConsumeBytes(field[n:])
	for m >= 0 && len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 {
			return false
		}
		if number == 1 && kind == protowire.BytesType {
			key, m := protowire.ConsumeBytes(entry[n:])
			if m < 0 || string(key) == call.PodAttribute || string(key) == publishOnBehalf {
				return m >= 0
			}
		}
		if m = protowire.ConsumeFieldValue(number, kind, entry[n:]); m >= 0 {
			entry = entry[n+m:]
		}
	}
	return false
}

// midway is an error in the middle of an answer: there, its end is one.
func midway(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// boundedReader fails where more is read than it should.
type boundedReader struct {
	io.Reader

	left, limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d MiB", b.limit>>20)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	return n, err
}
