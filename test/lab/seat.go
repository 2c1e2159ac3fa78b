// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"google.golang.org/protobuf/proto"

	"github.com/callguard/callguard/hack/cluster/local"
)

// joinWithin limits how long LiveKit may take to admit a participant, among hundreds on a
// busy machine.
const joinWithin = time.Minute

// Participant describes who joins a room.
type Participant struct {
	Room, Identity string
	Kind           lksdk.ParticipantKind
	Attributes     map[string]string
}

// Join puts a participant into a room of a LiveKit server and returns a function with
// which it leaves. It is a real participant with a real connection.
func Join(ctx context.Context, lk local.LiveKit, p Participant) (leave func(), err error) {
	room := lksdk.NewRoom(&lksdk.RoomCallback{})
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	err = room.JoinWithContext(ctx, lk.URL, lksdk.ConnectInfo{
		APIKey: lk.APIKey, APISecret: lk.APISecret, RoomName: p.Room,
		ParticipantIdentity: p.Identity, ParticipantKind: p.Kind, ParticipantAttributes: p.Attributes,
	}, lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithConnectTimeout(joinWithin))
	if err != nil {
		room.Disconnect() // LiveKit may list it already
		return nil, fmt.Errorf("%s cannot join room %s of %s: %w", p.Identity, p.Room, lk.Name, err)
	}
	return room.Disconnect, nil
}

// Sit puts a participant into a room as Join does, but without media: LiveKit
// lists it like any other until it leaves, at a fraction of the cost. LiveKit
// itself removes one whose media never connects, after about 15 s.
func Sit(ctx context.Context, lk local.LiveKit, p Participant) (leave func(), err error) {
	token, err := auth.NewAccessToken(lk.APIKey, lk.APISecret).SetIdentity(p.Identity).SetKind(livekit.ParticipantInfo_Kind(p.Kind)).
		SetAttributes(p.Attributes).SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: p.Room}).ToJWT()
	if err != nil {
		return nil, fmt.Errorf("cannot sign a token for %s: %w", p.Identity, err)
	}
	ctx, cancel := context.WithTimeout(ctx, joinWithin)
	defer cancel()
	conn, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws"+strings.TrimPrefix(lk.URL, "http")+"/rtc?protocol=15&auto_subscribe=0",
		http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		return nil, fmt.Errorf("%s cannot join room %s of %s: %w", p.Identity, p.Room, lk.Name, err)
	}
	_ = resp.Body.Close()
	if _, _, err := conn.ReadMessage(); err != nil { // the join response
		_ = conn.Close()
		return nil, fmt.Errorf("%s cannot join room %s of %s: %w", p.Identity, p.Room, lk.Name, err)
	}
	return func() {
		bye, err := proto.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{}}})
		if err == nil {
			_ = conn.WriteMessage(websocket.BinaryMessage, bye)
		}
		_ = conn.Close()
	}, nil
}
