// SPDX-License-Identifier: Apache-2.0

package trycall

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
	protocol "github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/twitchtv/twirp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

const (
	callerIdentity = call.TryRoomPrefix + "caller"
	// emptyTimeout is after how many seconds LiveKit ends a room that was left behind.
	emptyTimeout = 60
	// onBehalf is the attribute of an avatar, which does not count as an agent.
	onBehalf = "lk.publish_on_behalf"
	// tokenLife is how long the caller's token is valid.
	tokenLife = 10 * time.Minute
)

// Line is a Phone for a real LiveKit, with LiveKit's own SDK.
type Line struct {
	credentials livekit.Credentials
	rooms       *lksdk.RoomServiceClient
	dispatches  *lksdk.AgentDispatchClient
}

// NewLine returns a Line. It sends no request yet. It turns off the log of LiveKit's SDK
// for the whole program, because that is about connections, not calls.
func NewLine(c livekit.Credentials) *Line {
	lksdk.SetLogger(logger.GetDiscardLogger())
	return &Line{
		credentials: c,
		rooms:       lksdk.NewRoomServiceClient(c.URL, c.APIKey, c.APISecret),
		dispatches:  lksdk.NewAgentDispatchServiceClient(c.URL, c.APIKey, c.APISecret),
	}
}

// Dial implements Phone.
func (l *Line) Dial(ctx context.Context, room, agentName string) (Caller, error) {
	request := &protocol.CreateRoomRequest{Name: room, EmptyTimeout: emptyTimeout, Metadata: call.TryRoomPrefix}
	if agentName != "" {
		request.Agents = []*protocol.RoomAgentDispatch{{AgentName: agentName}}
	}
	if _, err := l.rooms.CreateRoom(ctx, request); err != nil {
		return nil, fmt.Errorf("LiveKit cannot create a room: %s; LiveKit's log has the reason", said(err))
	}
	token, err := auth.NewAccessToken(l.credentials.APIKey, l.credentials.APISecret).SetIdentity(callerIdentity).SetValidFor(tokenLife).
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: room}).ToJWT()
	if err != nil {
		return nil, fmt.Errorf("cannot sign a token for the caller: %w", err)
	}
	joined := lksdk.NewRoom(&lksdk.RoomCallback{})
	err = joined.JoinWithContextAndToken(ctx, l.credentials.URL, token, lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithAutoSubscribe(false))
	if err != nil {
		joined.Disconnect()
		return nil, fmt.Errorf("LiveKit accepts the key, but no caller can connect from here: %s; its ports for media (rtc.tcp_port, rtc.udp_port or its TURN server) have to be open to callers", strings.ReplaceAll(call.Plain(err.Error(), maxWord), token, "…"))
	}
	return caller{joined}, nil
}

// said returns the answer of LiveKit's API, only by its error code.
func said(err error) string {
	if answer, is := errors.AsType[twirp.Error](err); is {
		return string(answer.Code())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "it does not answer in time"
	}
	return "it cannot be reached"
}

// Jobs implements Phone.
func (l *Line) Jobs(ctx context.Context, room string) ([]Job, error) {
	list, err := l.dispatches.ListDispatch(ctx, &protocol.ListAgentDispatchRequest{Room: room})
	if err != nil {
		return nil, errors.New(said(err))
	}
	var jobs []Job
	for _, dispatch := range list.GetAgentDispatches() {
		for _, job := range dispatch.GetState().GetJobs() {
			state := job.GetState()
			over := state.GetStatus() != protocol.JobStatus_JS_PENDING && state.GetStatus() != protocol.JobStatus_JS_RUNNING
			jobs = append(jobs, Job{Over: over, Error: state.GetError(), Full: state.GetReason() == protocol.JobStateReason_JSR_NO_CAPACITY})
		}
	}
	return jobs, nil
}

// Close implements Phone.
func (l *Line) Close(ctx context.Context, room string) error {
	_, err := l.rooms.DeleteRoom(ctx, &protocol.DeleteRoomRequest{Room: room})
	if answer, is := errors.AsType[twirp.Error](err); err == nil || is && answer.Code() == twirp.NotFound {
		return nil
	}
	return errors.New(said(err))
}

// caller is a Caller in a room of a real LiveKit.
type caller struct{ room *lksdk.Room }

// Agent implements Caller.
func (c caller) Agent() (tracks int, ok bool) {
	for _, p := range c.room.GetRemoteParticipants() {
		if p.Kind() == lksdk.ParticipantAgent && p.Attributes()[onBehalf] == "" {
			return len(p.TrackPublications()), true
		}
	}
	return 0, false
}

// HangUp implements Caller.
func (c caller) HangUp() { c.room.Disconnect() }
