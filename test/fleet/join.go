// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"time"

	"github.com/livekit/protocol/livekit"
	protologger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
)

const (
	// joinAttempts is how often the SDK of Python's and Node's agents tries to join a room, with a new connection for media each
	// time. That of Go tries once, so the fleet tries again.
	joinAttempts = 4
	// connectTimeout is how long that connection may take, and joinTimeout all attempts. LiveKit removes a participant whose
	// connection is not there after some 11 s, and so also one that has joined again by then: an attempt must take longer.
	connectTimeout = 15 * time.Second
	joinTimeout    = time.Minute
)

// join joins a room, which the roster watches from then on.
func join(ctx context.Context, r *roster, url, token string, log protologger.Logger) (*lksdk.Room, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		callback, forget := r.callback()
		room := lksdk.NewRoom(callback)
		err := room.JoinWithContextAndToken(ctx, url, token, lksdk.WithLogger(log), lksdk.WithConnectTimeout(connectTimeout))
		if err == nil {
			r.joined(room)
			return room, nil
		}
		forget()
		abandon(room)
		if attempt == joinAttempts || ctx.Err() != nil {
			return nil, err
		}
	}
}

// abandon closes the connections of a room without telling LiveKit. OnDisconnected is what the SDK's engine calls
// when a connection is over; unlike Disconnect it sends no leave message.
func abandon(room *lksdk.Room) { room.OnDisconnected(livekit.DisconnectReason_CLIENT_INITIATED) }
