// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/weburl"
)

const (
	// DefaultTimeout is longer than the 3 s after which LiveKit itself gives up asking a
	// room's node (psrpc's DefaultClientTimeout), and says so.
	DefaultTimeout = 5 * time.Second
	// ExampleURL is one that works.
	ExampleURL = "wss://livekit.example.com"

	// tokenLife is how long the token of one request is valid, and as long before: clocks
	// may differ, and LiveKit allows for a minute.
	tokenLife = time.Hour
	// maxHeaderBytes bounds the headers of an answer.
	maxHeaderBytes = 64 << 10
)

// Credentials are what it takes to ask a LiveKit project.
type Credentials struct {
	URL, APIKey, APISecret string
}

// Validate reports every mistake at once, each with what would work. It never names
// the secret.
func (c Credentials) Validate() error {
	errs := []error{ValidateURL(c.URL)}
	if c.APIKey == "" {
		errs = append(errs, errors.New("the API key is empty; give the name of a key in LiveKit's `keys`"))
	}
	if c.APISecret == "" {
		errs = append(errs, errors.New("the API secret is empty; give the secret of that key"))
	}
	return errors.Join(errs...)
}

// ValidateURL reports why u cannot be the URL of a LiveKit server. Whoever may read a
// metric reads what it says.
func ValidateURL(u string) error {
	if _, err := weburl.Parse(u, ExampleURL); err != nil {
		return fmt.Errorf("LiveKit URL %w", err)
	}
	return nil
}

// Config is what a Client needs.
type Config struct {
	Credentials

	Transport http.RoundTripper // NewTransport's where it is nil
	// Timeout bounds one request; DefaultTimeout where it is 0.
	Timeout time.Duration
	// Budget is what all answers under way of the process may take; nil is one of the
	// Client's own.
	Budget *Budget
	// MaxItems bounds the rooms or participants of one answer; 0 is as many as the budget
	// has room for.
	MaxItems int
	// Pace is the project's, of this process; nil is one of the Client's own, with the
	// limit that Limit says.
	Pace *Pace
	// Patience is how long a request waits for the pace before it fails as TooMany.
	Patience time.Duration
	// Asked is told the method of each request that was sent, how long it took and
	// what came of it. It may be nil.
	Asked func(method string, took time.Duration, err error)
}

// idlePerServer is how many connections to a server are kept: more than requests that are
// under way at once. Go keeps two, so that most of sixteen would open their own each time.
const idlePerServer = 64

// NewTransport returns a transport as http.DefaultTransport is, that keeps the connections
// of as many requests as go out at once.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 8*idlePerServer, idlePerServer
	return t
}

// The services of LiveKit's API that are asked.
const (
	roomService     = "livekit.RoomService"
	dispatchService = "livekit.AgentDispatchService"
)

// Client asks LiveKit's RoomService and AgentDispatchService. It is safe for concurrent use.
//
// It is written by hand: LiveKit's own clients give no way to bound an answer, take an
// empty 200 of a proxy for "no rooms", repeat in errors what they were answered, and
// bring half of LiveKit along.
type Client struct {
	cfg  Config
	base string
	http *http.Client
}

// New checks the credentials and returns a Client. It asks nothing yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	base, err := weburl.Parse(cfg.URL, ExampleURL)
	if err != nil {
		return nil, err
	}
	if cfg.Transport == nil {
		cfg.Transport = NewTransport()
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Budget == nil {
		cfg.Budget = NewBudget()
	}
	if cfg.Pace == nil {
		cfg.Pace = NewPace(Limit(0, cfg.URL))
	}
	if cfg.Asked == nil {
		cfg.Asked = func(string, time.Duration, error) {}
	}
	return &Client{cfg: cfg, base: base.JoinPath("twirp").String() + "/", http: &http.Client{
		Transport:     cfg.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Credentials returns what the Client was made with.
func (c *Client) Credentials() Credentials { return c.cfg.Credentials }

// Pace returns the pace that the Client keeps.
func (c *Client) Pace() *Pace { return c.cfg.Pace }

// BoundHeaders bounds the headers of answers, where the transport can.
func BoundHeaders(transport http.RoundTripper) http.RoundTripper {
	t, ok := transport.(*http.Transport)
	if !ok {
		return transport
	}
	t = t.Clone()
	t.MaxResponseHeaderBytes = maxHeaderBytes
	return t
}

// RoomInfo is what the list of rooms says of one. The numbers are at most 5 s old;
// agents count as publishers and not as participants. A room whose name is too long to
// ask for it has none.
type RoomInfo struct {
	Name, SID                      string
	NumParticipants, NumPublishers int
}

// State is how far a participant has come.
type State uint32

// The states of LiveKit.
const (
	Joining      State = 0
	Joined       State = 1
	Active       State = 2
	Disconnected State = 3
)

// Agent is one agent participant that holds a call: no avatar, none that LiveKit Cloud
// hosts, none that is disconnected. Pod is empty where it does not name one.
type Agent struct {
	SID, Identity string
	Pod           types.UID
	Joined        time.Time
	State         State
}

// Room is who is in a room.
type Room struct {
	// Open says that there is such a room.
	Open bool
	// SID is the room's, where it was asked for.
	SID    string
	Agents []Agent
	Others int // callers, avatars, recorders
	// AnyAgent reports whether an agent of any kind is in it, those that LiveKit Cloud hosts
	// and avatars, too.
	AnyAgent bool
	// Counts are what the list of rooms is to say of it.
	Counts Counts
}

// Counts are what the list of rooms says of a room when its line is made anew, which
// takes up to 5 s (updateProto and roomUpdateInterval in pkg/rtc/room.go of LiveKit): it
// counts who is no agent and no recorder, and who publishes. Quiet are the agents that do
// not yet.
type Counts struct{ Participants, Publishers, Quiet int }

// Borne reports whether a line of the list says the same, where agents may have begun to
// publish since.
func (c Counts) Borne(line RoomInfo) bool {
	more := line.NumPublishers - c.Publishers
	return line.NumParticipants == c.Participants && more >= 0 && more <= c.Quiet
}

// Rooms returns all rooms, or those of some names that there are.
func (c *Client) Rooms(ctx context.Context, names ...string) ([]RoomInfo, error) {
	var request []byte
	for _, name := range names {
		request = protowire.AppendString(protowire.AppendTag(request, 1, protowire.BytesType), name)
	}
	var rooms []RoomInfo
	err := c.ask(ctx, roomService, "ListRooms", map[string]any{"roomList": true}, request, func(a *answer) (err error) {
		rooms, err = a.rooms()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the rooms of LiveKit: %w", err)
	}
	return rooms, nil
}

// Participants returns who is in a room, in one request. It is open if somebody is in
// it; of one that is empty LiveKit does not say whether there is such a room.
func (c *Client) Participants(ctx context.Context, name string) (Room, error) {
	request := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	var room Room
	err := c.ask(ctx, roomService, "ListParticipants", map[string]any{"roomAdmin": true, "room": name}, request, func(a *answer) (err error) {
		room, err = a.participants()
		return err
	})
	if isNotFound(err) {
		return Room{}, nil
	}
	if err != nil {
		return Room{}, fmt.Errorf("cannot list who is in a room of LiveKit: %w", err)
	}
	room.Open = len(room.Agents)+room.Others > 0
	return room, nil
}

// Room returns who is in a room, and whether there is such a room. LiveKit's list of
// who is in it does not say so of an empty one; and where LiveKit asks the room's node
// for that (enable_psrpc_for_get_list_participants), nobody answers for a room that has
// closed, nor for one whose node is silent. So the list of rooms decides, asked for
// this very name. Where that has the room and nobody answers for it, the room is open,
// and the error says that it is not known who is in it.
func (c *Client) Room(ctx context.Context, name string) (Room, error) {
	room, err := c.Participants(ctx, name)
	if err != nil && !Unanswered(err) || room.Open {
		return room, err
	}
	// The second of two requests waits for its turn: else a limit that is used up lets the
	// first through again and again, and never this one.
	second := *c
	second.cfg.Patience = max(c.cfg.Patience, c.cfg.Pace.Evenly(1, time.Now())+time.Second)
	there, failed := second.Rooms(ctx, name)
	switch {
	case failed != nil && err != nil:
		return Room{}, err
	case failed != nil:
		return Room{}, failed
	}
	if i := slices.IndexFunc(there, func(r RoomInfo) bool { return r.Name == name }); i >= 0 {
		return Room{Open: true, SID: there[i].SID}, err
	}
	return Room{}, nil
}

// ask sends one request and has its answer read.
func (c *Client) ask(ctx context.Context, service, method string, grant map[string]any, request []byte, read func(*answer) error) error {
	if err := c.cfg.Pace.wait(ctx, c.cfg.Patience); err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err := c.send(ctx, service+"/"+method, grant, request, read)
	c.cfg.Asked(method, time.Since(began), err)
	return err
}

func (c *Client) send(ctx context.Context, path string, grant map[string]any, request []byte, read func(*answer) error) error {
	now := time.Now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": c.cfg.APIKey, "nbf": now.Add(-tokenLife).Unix(), "exp": now.Add(tokenLife).Unix(), "video": grant,
	}).SignedString([]byte(c.cfg.APISecret))
	if err != nil {
		return fmt.Errorf("cannot sign a LiveKit token with API key %q: %w", c.cfg.APIKey, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(request))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/protobuf")
	resp, err := c.http.Do(req)
	if err != nil {
		return noAnswer(err, c.cfg.Timeout)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(resp)
	}
	c.cfg.Pace.answered()
	if mediaType(resp) != "application/protobuf" {
		return unreadable("it answers 200 OK, and not as LiveKit does")
	}
	a := newAnswer(resp.Body, c.cfg.Budget, c.cfg.MaxItems)
	defer a.close()
	err = read(a)
	if _, ok := errors.AsType[*Refused](err); ok || err == nil {
		return err
	}
	return noAnswer(err, c.cfg.Timeout)
}

// refusal reads an answer with another status than 200. Only LiveKit's own code is
// taken of it.
func (c *Client) refusal(resp *http.Response) error {
	now := time.Now()
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		return c.cfg.Pace.refused(resp.Header, true, now)
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		return c.cfg.Pace.refused(resp.Header, false, now)
	}
	c.cfg.Pace.answered()
	var said struct {
		Code string `json:"code"`
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	if err != nil || mediaType(resp) != "application/json" || json.Unmarshal(raw, &said) != nil {
		said.Code = ""
	}
	return refusal(c.cfg.APIKey, resp.StatusCode, said.Code)
}

func mediaType(resp *http.Response) string {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}
