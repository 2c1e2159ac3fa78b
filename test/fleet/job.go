// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	protologger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
)

const lookAgain = 500 * time.Millisecond

// job is one agent in one room, from its launch, before it joins, until it has left.
type job struct {
	id, room, identity string
	project            string // URL of the project the job came from
	url, token         string // where to join
	started            time.Time
	speaks             bool // it publishes a track
	roster             *roster
	joins              func(agent string) (end func())
	sdkLog             protologger.Logger

	terminated chan struct{} // closed when LiveKit ends the job
	terminate  func()

	killing chan struct{} // closed by kill

	mu     sync.Mutex
	over   bool // the caller has left, or the job has ended in another way
	killed bool
	stop   context.CancelFunc
}

// outcome is how a job ended. lost is set when its caller was still there.
type outcome struct {
	err    error
	lost   Cause
	detail string
}

func newJob(assignment *livekit.JobAssignment, project Project, identity string, log protologger.Logger) *job {
	url := assignment.GetUrl()
	if url == "" {
		url = project.URL
	}
	home := project.URL
	project.URL = url
	room := assignment.GetJob().GetRoom().GetName()
	j := &job{
		id: assignment.GetJob().GetId(), room: room, identity: identity,
		project: home, url: url, token: assignment.GetToken(), started: time.Now(),
		roster: newRoster(project, room), sdkLog: log,
		terminated: make(chan struct{}), killing: make(chan struct{}),
	}
	j.terminate = sync.OnceFunc(func() { close(j.terminated) })
	return j
}

// run joins the room, stays until the caller has left, and leaves. Ending ctx is like SIGKILL.
func (j *job) run(ctx context.Context) outcome {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	j.mu.Lock()
	j.stop = stop
	killed := j.killed
	j.mu.Unlock()
	if killed {
		return outcome{}
	}

	joined := j.joins(j.identity)
	room, err := join(ctx, j.roster, j.url, j.token, j.sdkLog)
	joined()
	if err != nil {
		j.finish()
		return outcome{err: fmt.Errorf("cannot join room %q as %s at %s: %w; look at LiveKit's log", j.room, j.identity, j.url, err)}
	}
	if j.speaks {
		if err := speak(room); err != nil {
			j.finish()
			room.Disconnect()
			return outcome{err: fmt.Errorf("agent %s cannot speak in room %q: %w", j.identity, j.room, err)}
		}
	}

	out := j.attend(ctx)
	j.finish()
	if ctx.Err() != nil {
		abandon(room)
		return out
	}
	room.Disconnect()
	return out
}

// speak publishes an audio track.
func speak(room *lksdk.Room) error {
	track, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48_000, Channels: 2})
	if err != nil {
		return err
	}
	_, err = room.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{Name: "voice", Source: livekit.TrackSource_MICROPHONE})
	return err
}

// attend waits until the job is over: see outcome.
func (j *job) attend(ctx context.Context) outcome {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	var linked string
	var away time.Time
	for {
		select {
		case <-ctx.Done():
			return outcome{}
		case <-j.terminated:
			return j.cutShort(linked, "LiveKit terminated the job")
		case <-j.roster.poke:
		case <-again.C:
		}
		j.roster.refresh(ctx)
		members, link := j.roster.members()
		if link == linkCut {
			return j.cutShort(linked, j.roster.cutReason())
		}
		if link != linkUp {
			continue // the SDK reconnects, or gives up and cuts the link
		}
		if linked == "" {
			linked = firstHuman(members)
			continue
		}
		if slices.ContainsFunc(members, func(m member) bool { return m.identity == linked }) {
			away = time.Time{}
			j.roster.forget(linked)
			continue
		}
		if reason, ok := j.roster.farewell(linked); ok && deliberate(reason) {
			return outcome{detail: "caller left"}
		}
		if away.IsZero() {
			away = time.Now()
		}
		if time.Since(away) >= patience {
			return outcome{detail: "caller did not come back"}
		}
	}
}

// cutShort judges an end that LiveKit caused: it is a loss if the caller was there until then.
func (j *job) cutShort(linked, detail string) outcome {
	if linked == "" {
		return outcome{detail: detail, err: errors.New("no caller came: " + detail)}
	}
	if _, left := j.roster.farewell(linked); left {
		return outcome{detail: "caller left"}
	}
	return outcome{lost: CauseLiveKit, detail: detail}
}

func (j *job) finish() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.over = true
}

// kill ends the job as SIGKILL does: its connections close without a message. It reports whether a call was in
// progress.
func (j *job) kill() (wasOn bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	wasOn = !j.over && !j.killed
	if !j.killed && j.killing != nil {
		close(j.killing)
	}
	j.killed = true
	if j.stop != nil {
		j.stop()
	}
	return wasOn
}

// firstHuman picks the participant an agent answers to.
func firstHuman(members []member) string {
	var humans []string
	for _, m := range members {
		if human(m.kind) {
			humans = append(humans, m.identity)
		}
	}
	if len(humans) == 0 {
		return ""
	}
	return slices.MinFunc(humans, strings.Compare)
}
