// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/twitchtv/twirp"
)

// tokenLife is how long the token of one request is valid.
const tokenLife = time.Minute

// Credentials are what it takes to ask a LiveKit project.
type Credentials struct {
	URL, APIKey, APISecret string
}

// Validate reports every mistake at once, each with what would work. It never
// names the secret.
func (c Credentials) Validate() error {
	var errs []error
	if err := ValidateURL(c.URL); err != nil {
		errs = append(errs, err)
	}
	if c.APIKey == "" {
		errs = append(errs, errors.New("the API key is empty; give the name of a key in LiveKit's `keys`"))
	}
	if c.APISecret == "" {
		errs = append(errs, errors.New("the API secret is empty; give the secret of that key"))
	}
	return errors.Join(errs...)
}

// ValidateURL says whether u can be the URL of a LiveKit server. Whoever may read a
// metric reads what it says.
func ValidateURL(u string) error {
	parsed, err := url.Parse(u)
	if strings.Contains(u, "@") { // it is not repeated, for it may be a password
		return errors.New("LiveKit URL holds a user name or password before an @; leave these out, such as in wss://livekit.example.com: LiveKit is asked with its API key and secret")
	}
	if err != nil || parsed.Host == "" || !strings.Contains(" http https ws wss ", " "+parsed.Scheme+" ") {
		return fmt.Errorf("LiveKit URL %q has no scheme and host; use one such as wss://livekit.example.com or http://livekit:7880", u)
	}
	return nil
}

// client asks LiveKit's RoomService.
//
// It speaks through livekit/protocol's own RoomService client and not through
// server-sdk-go's, which gives no way to bound or check an answer: there, an
// empty 200 from a proxy in between reads as "no rooms".
type client struct {
	creds   Credentials
	service livekit.RoomService
}

func newClient(creds Credentials, transport http.RoundTripper, shared *budget, timeout time.Duration) *client {
	base := creds.URL
	if rest, ok := strings.CutPrefix(base, "ws"); ok { // ws:// and wss:// name the same server
		base = "http" + rest
	}
	return &client{
		creds: creds,
		service: livekit.NewRoomServiceProtobufClient(base, &http.Client{
			Transport: strictTransport{transport, shared},
			Timeout:   timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return errors.New("LiveKit's API does not redirect")
			},
		}),
	}
}

// listRooms returns the names of all rooms, or which of some there are. Room objects carry a TURN password,
// so no more than the name leaves this function.
func (c *client) listRooms(ctx context.Context, which ...string) ([]string, error) {
	ctx, err := c.authorize(ctx, &auth.VideoGrant{RoomList: true})
	if err != nil {
		return nil, err
	}
	answer, err := c.service.ListRooms(ctx, &livekit.ListRoomsRequest{Names: which})
	if err != nil {
		return nil, fmt.Errorf("cannot list rooms: %w", c.explain(err))
	}
	names := make([]string, len(answer.GetRooms()))
	for i, room := range answer.GetRooms() {
		names[i] = room.GetName()
	}
	return names, nil
}

// listParticipants returns who is in a room; nobody, if there is no such room.
func (c *client) listParticipants(ctx context.Context, room string) ([]*livekit.ParticipantInfo, error) {
	ctx, err := c.authorize(ctx, &auth.VideoGrant{RoomAdmin: true, Room: room})
	if err != nil {
		return nil, err
	}
	answer, err := c.service.ListParticipants(ctx, &livekit.ListParticipantsRequest{Room: room})
	var twerr twirp.Error
	switch {
	case !errors.As(err, &twerr) || twerr.Meta("http_error_from_intermediary") != "":
	case twerr.Code() == twirp.NotFound:
		return nil, nil
	case twerr.Code() == twirp.Unavailable:
		return nil, &errNobodyAnswered{room, err}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the participants of room %q: %w", room, c.explain(err))
	}
	return answer.GetParticipants(), nil
}

// errNobodyAnswered says that LiveKit found nobody who could say who is in a room.
// Where it asks the room's node, it says so of a room that has closed.
type errNobodyAnswered struct {
	room string
	err  error
}

func (e *errNobodyAnswered) Error() string {
	return fmt.Sprintf("cannot list the participants of room %q: %s", e.room, e.err)
}
func (e *errNobodyAnswered) Unwrap() error { return e.err }

func (c *client) authorize(ctx context.Context, grant *auth.VideoGrant) (context.Context, error) {
	token, err := auth.NewAccessToken(c.creds.APIKey, c.creds.APISecret).SetVideoGrant(grant).SetValidFor(tokenLife).ToJWT()
	if err != nil {
		return nil, fmt.Errorf("cannot sign a LiveKit token with API key %q: %w", c.creds.APIKey, err)
	}
	return twirp.WithHTTPRequestHeaders(ctx, http.Header{"Authorization": {"Bearer " + token}})
}

// explain adds to a refusal what to do about it.
func (c *client) explain(err error) error {
	if !denied(err) {
		return err
	}
	return fmt.Errorf("LiveKit refuses API key %q: %w; check that the secret is that key's and the clocks agree", c.creds.APIKey, err)
}

// denied says whether LiveKit refused the credentials.
func denied(err error) bool {
	var twerr twirp.Error
	return errors.As(err, &twerr) && (twerr.Code() == twirp.Unauthenticated || twerr.Code() == twirp.PermissionDenied)
}

// strictTransport lets only answers through that LiveKit can have given: a 200 is
// protobuf, and no answer is longer, or holds more, than its bounds. Of a 200 only
// what is read gets through.
type strictTransport struct {
	next   http.RoundTripper
	budget *budget
}

func (t strictTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	whole := resp.Body
	if resp.StatusCode != http.StatusOK {
		resp.Body = body{io.LimitReader(whole, maxErrorBytes), whole.Close}
		return resp, nil
	}
	defer whole.Close()
	if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/protobuf") {
		return nil, fmt.Errorf("%s answered 200 with content type %q, which is not LiveKit's; check the URL", req.URL.Host, ct)
	}
	limit, read := bounds(req.URL.Path)
	answer := &taking{budget: t.budget}
	if err := answer.take(whole, limit, read); err != nil {
		answer.close()
		return nil, fmt.Errorf("cannot take the answer of %s: %w", req.URL.Host, err)
	}
	resp.Body = body{bytes.NewReader(answer.kept), func() error { answer.close(); return nil }} // closed once it is decoded
	resp.ContentLength = int64(len(answer.kept))
	return resp, nil
}

// body is what is read of an answer, and what happens when it is closed.
type body struct {
	io.Reader

	close func() error
}

func (b body) Close() error { return b.close() }
