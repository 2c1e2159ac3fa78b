// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
)

const listTimeout = 2 * time.Second

// roster tracks who else is in a room, seen from one participant, across reconnects.
//
// It exists because the SDK's own list is not enough: after a failed resume that became a full reconnect, the SDK keeps
// participants that are gone, without a notification. So after every reconnect the roster asks LiveKit who is there.
type roster struct {
	project Project
	name    string
	// poke holds one token when something may have changed.
	poke chan struct{}

	mu     sync.Mutex
	room   *lksdk.Room
	link   link
	asked  time.Time
	left   map[string]livekit.DisconnectReason
	ghosts map[string]string // identity → participant sid which LiveKit does not know
}

// link is the state of this participant's own connection.
type link int

const (
	linkUp     link = iota
	linkAway        // reconnecting
	linkUnsure      // connected again, but it is not yet known who is there
	linkCut         // over for good
)

// member is another participant.
type member struct {
	identity string
	kind     lksdk.ParticipantKind
	pod      string
}

func newRoster(project Project, room string) *roster {
	return &roster{project: project, name: room, poke: make(chan struct{}, 1), left: map[string]livekit.DisconnectReason{}}
}

// callback gives what the SDK must call. Nothing of it is heard after forget.
func (r *roster) callback() (callback *lksdk.RoomCallback, forget func()) {
	var forgotten atomic.Bool
	change := func(f func()) {
		if !forgotten.Load() {
			r.change(f)
		}
	}
	return &lksdk.RoomCallback{
		OnParticipantConnected: func(*lksdk.RemoteParticipant) { change(nil) },
		OnParticipantDisconnected: func(p *lksdk.RemoteParticipant) {
			change(func() { r.left[p.Identity()] = p.DisconnectReason() })
		},
		OnReconnecting: func() { change(func() { r.link = linkAway }) },
		OnReconnected:  func() { change(func() { r.link = linkUnsure }) },
		OnDisconnected: func() { change(func() { r.link = linkCut }) },
	}, func() { forgotten.Store(true) }
}

// change applies f and leaves a token in poke.
func (r *roster) change(f func()) {
	r.mu.Lock()
	if f != nil && r.link != linkCut {
		f()
	}
	r.mu.Unlock()
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// joined gives the roster its room.
func (r *roster) joined(room *lksdk.Room) { r.change(func() { r.room = room }) }

// refresh asks LiveKit who is there if that is in doubt, unless it has just asked.
func (r *roster) refresh(ctx context.Context) {
	r.mu.Lock()
	room, doubt := r.room, r.link == linkUnsure || (r.link == linkUp && len(r.ghosts) > 0)
	doubt = doubt && time.Since(r.asked) >= lookAgain
	if doubt {
		r.asked = time.Now()
	}
	r.mu.Unlock()
	if room == nil || !doubt {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	client := lksdk.NewRoomServiceClient(r.project.URL, r.project.APIKey, r.project.APISecret)
	answer, err := client.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: r.name})
	if err != nil {
		return // still in doubt; asked again at the next turn
	}
	here := map[string]bool{}
	for _, p := range answer.GetParticipants() {
		here[p.GetSid()] = p.GetState() != livekit.ParticipantInfo_DISCONNECTED
	}
	ghosts := map[string]string{}
	for _, p := range room.GetRemoteParticipants() {
		if !here[p.SID()] {
			ghosts[p.Identity()] = p.SID()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ghosts = ghosts
	if r.link == linkUnsure {
		r.link = linkUp
	}
}

// members lists who else is there; it is only meaningful if link is linkUp.
func (r *roster) members() ([]member, link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.room == nil {
		return nil, r.link
	}
	var out []member
	for _, p := range r.room.GetRemoteParticipants() {
		if sid, ghost := r.ghosts[p.Identity()]; ghost && sid == p.SID() {
			continue
		}
		out = append(out, member{identity: p.Identity(), kind: p.Kind(), pod: p.Attributes()[PodAttribute]})
	}
	return out, r.link
}

// farewell returns the reason that LiveKit gave when a participant left.
func (r *roster) farewell(identity string) (livekit.DisconnectReason, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reason, ok := r.left[identity]
	return reason, ok
}

// forget drops the reason of a participant who is back.
func (r *roster) forget(identity string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.left, identity)
}

// cutReason returns why the connection is over.
func (r *roster) cutReason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.room == nil {
		return "not connected"
	}
	return fmt.Sprint(r.room.DisconnectReason())
}

// deliberate reports whether a participant who left for this reason meant to. LiveKit Agents ends a session at once for
// these reasons, and otherwise waits for the participant to come back.
func deliberate(reason livekit.DisconnectReason) bool {
	switch reason {
	case livekit.DisconnectReason_CLIENT_INITIATED, livekit.DisconnectReason_ROOM_DELETED, livekit.DisconnectReason_USER_REJECTED:
		return true
	default:
		return false
	}
}

// human reports whether agents answer this kind of participant.
func human(kind lksdk.ParticipantKind) bool {
	return kind == lksdk.ParticipantStandard || kind == lksdk.ParticipantSIP || kind == lksdk.ParticipantConnector
}
