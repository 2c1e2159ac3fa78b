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
	// room's node (psrpc's DefaultClientTimeout) and reports that.
	DefaultTimeout = 5 * time.Second
	// ExampleURL is an example of a valid URL.
	ExampleURL = "wss://livekit.example.com"

	// tokenLife is how long before and after a request its token is valid, because clocks may
	// differ and LiveKit allows for only a minute.
	tokenLife = time.Hour
	// maxHeaderBytes is the maximum size of an answer's headers.
	maxHeaderBytes = 64 << 10
)

// Credentials are the URL and the API key of a LiveKit project.
type Credentials struct {
	URL, APIKey, APISecret string
}

// Validate reports all mistakes, each with a value that would work. It never shows the
// secret.
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

// ValidateURL returns why u cannot be the URL of a LiveKit server. Everybody who may read a
// metric can see its error.
func ValidateURL(u string) error {
	if _, err := weburl.Parse(u, ExampleURL); err != nil {
		return fmt.Errorf("LiveKit URL %w", err)
	}
	return nil
}

// Config is what a Client needs.
type Config struct {
	Credentials

	Transport http.RoundTripper // nil means that of NewTransport
	// Timeout is the time limit of one request; 0 means DefaultTimeout.
	Timeout time.Duration
	// Budget is the memory for all answers that the process is reading; nil means one of the
	// Client's own.
	Budget *Budget
	// MaxItems is the maximum number of rooms or participants in one answer; 0 means as many
	// as the budget allows.
	MaxItems int
	// Pace is the pace of this process for the project; nil means one of the Client's own,
	// with the limit that Limit returns.
	Pace *Pace
	// Patience is how long a request waits for the pace before it fails with TooMany.
	Patience time.Duration
	// Asked is called for each request that was sent, with its method, duration and result. It
	// may be nil.
	Asked func(method string, took time.Duration, err error)
}

// idlePerServer is how many idle connections to a server are kept: more than there are
// concurrent requests. Go's default is two, so that most of sixteen requests would open a
// new connection each time.
const idlePerServer = 64

// NewTransport returns a transport like http.DefaultTransport that keeps enough idle
// connections for concurrent requests.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 8*idlePerServer, idlePerServer
	return t
}

// The services of LiveKit's API that are used.
const (
	roomService     = "livekit.RoomService"
	dispatchService = "livekit.AgentDispatchService"
)

// Client asks LiveKit's RoomService and AgentDispatchService. It is safe for concurrent use.
//
// It is written by hand, because LiveKit's own clients cannot limit the size of an answer,
// treat a proxy's empty 200 as "no rooms", repeat answers in errors, and import half of
// LiveKit.
type Client struct {
	cfg  Config
	base string
	http *http.Client
}

// New checks the credentials and returns a Client. It sends no request yet.
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

// Pace returns the Client's pace.
func (c *Client) Pace() *Pace { return c.cfg.Pace }

// BoundHeaders limits the size of answers' headers, if the transport can do that.
func BoundHeaders(transport http.RoundTripper) http.RoundTripper {
	t, ok := transport.(*http.Transport)
	if !ok {
		return transport
	}
	t = t.Clone()
	t.MaxResponseHeaderBytes = maxHeaderBytes
	return t
}

// RoomInfo is a room's entry in the list of rooms. The numbers are at most 5 s old; agents
// count as publishers and not as participants. A room whose name is too long to ask for it
// has an empty name.
type RoomInfo struct {
	Name, SID                      string
	NumParticipants, NumPublishers int
}

// State is a participant's state.
type State uint32

// The states of LiveKit.
const (
	Joining      State = 0
	Joined       State = 1
	Active       State = 2
	Disconnected State = 3
)

// Agent is one agent participant that holds a call, so no avatar, no agent that LiveKit
// Cloud hosts, and none that is disconnected. Pod is empty if it names none.
type Agent struct {
	SID, Identity string
	Pod           types.UID
	Joined        time.Time
	State         State
}

// Room is who is in a room.
type Room struct {
	// Open reports whether the room exists.
	Open bool
	// SID is the room's id, if it was requested.
	SID    string
	Agents []Agent
	Others int // callers, avatars, recorders
	// AnyAgent reports whether an agent of any kind is in it, including avatars and agents
	// that LiveKit Cloud hosts.
	AnyAgent bool
	// Counts are the numbers that the list of rooms should have for it.
	Counts Counts
}

// Counts are the numbers in a room's entry of the list of rooms once it is updated, which
// takes up to 5 s (updateProto and roomUpdateInterval in pkg/rtc/room.go of LiveKit):
// participants other than agents and recorders, and publishers. Quiet counts the agents
// that do not publish yet.
type Counts struct{ Participants, Publishers, Quiet int }

// Borne reports whether an entry of the list has these numbers, allowing for agents that
// have begun to publish since.
func (c Counts) Borne(line RoomInfo) bool {
	more := line.NumPublishers - c.Publishers
	return line.NumParticipants == c.Participants && more >= 0 && more <= c.Quiet
}

// Rooms returns all rooms, or those of the given names that exist.
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

// Participants returns who is in a room, in one request. It is open if somebody is in it.
// If it is empty, the answer does not show whether the room exists.
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

// Room returns who is in a room, and whether the room exists. LiveKit's list of
// participants does not show that for an empty room. And if LiveKit asks the room's node
// for that list (enable_psrpc_for_get_list_participants), there is no answer for a room
// that has closed, nor for one whose node does not answer. So the list of rooms, requested
// for this name, decides. If it has the room and there is no list of participants, the room
// is open, and the error says that it is not known who is in it.
func (c *Client) Room(ctx context.Context, name string) (Room, error) {
	room, err := c.Participants(ctx, name)
	if err != nil && !Unanswered(err) || room.Open {
		return room, err
	}
	// The second of the two requests waits for its turn. Otherwise, while the limit is used
	// up, only first requests might ever be sent.
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

// ask sends one request and reads its answer with read.
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

// refusal reads an answer with another status than 200. Only LiveKit's error code is used.
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
