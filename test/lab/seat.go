// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/callguard/callguard/hack/cluster/local"
)

// Participant is who joins a room.
type Participant struct {
	Room, Identity string
	Kind           lksdk.ParticipantKind
	Attributes     map[string]string
}

// Join puts a participant into a room of a LiveKit server and returns how it
// leaves. It is a real participant with a real connection.
func Join(ctx context.Context, lk local.LiveKit, p Participant) (leave func(), err error) {
	room := lksdk.NewRoom(&lksdk.RoomCallback{})
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	err = room.JoinWithContext(ctx, lk.URL, lksdk.ConnectInfo{
		APIKey: lk.APIKey, APISecret: lk.APISecret, RoomName: p.Room,
		ParticipantIdentity: p.Identity, ParticipantKind: p.Kind, ParticipantAttributes: p.Attributes,
	}, lksdk.WithLogger(logger.GetDiscardLogger()))
	if err != nil {
		return nil, fmt.Errorf("%s cannot join room %s of %s: %w", p.Identity, p.Room, lk.Name, err)
	}
	return room.Disconnect, nil
}
