// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/trycall"
	"github.com/callguard/callguard/pkg/witness/gate"
)

// The exit codes of try, in addition to ExitDone and to ExitFailed, which means that no
// call could be made.
const (
	// ExitUncounted: an agent answered, but the call was not counted as it should be.
	ExitUncounted = 2
	// ExitUnanswered: no agent answered.
	ExitUnanswered = 3
)

const (
	expectJoin, expectTrack = "join", "track"
	// gateWithin is the time limit for a gate's answer; from outside the cluster it cannot be
	// reached.
	gateWithin = 2 * time.Second
)

// tryOptions are the values of try's flags.
type tryOptions struct {
	*common

	secret, dir, keys, url    string
	agentName, expect, output string
	answerWithin, countWithin time.Duration
}

func newTry(c *common) *cobra.Command {
	o := &tryOptions{common: c, expect: expectTrack, answerWithin: 30 * time.Second, countWithin: time.Minute}
	cmd := &cobra.Command{
		Use: "try", Short: "Make a call and check that it is answered and counted", Args: noWords,
		Long: "Makes one call from here, in a new LiveKit room: waits until an agent joins and is heard, checks whether " +
			"its pod is known and the call is counted by call-gate and the metrics API, hangs up, and checks that the call is no longer counted.\n" +
			"Use a separate LiveKit API key for it. The name of its room begins with " + call.TryRoomPrefix + "; statistics of call lengths ignore such rooms.\n\n" +
			"Exit codes: 0, all is well; 1, no call could be made (bad input, LiveKit does not answer or refuses the key); 2, the " +
			"call was answered, but not counted as it should be; 3, no agent answered, or none was heard.",
		Example: "  kubectl calls try -n voice --livekit-secret try\n" +
			"  kubectl calls try -n voice --livekit-secret try --livekit-url wss://livekit.example.com   # from outside the cluster\n" +
			"  kubectl calls try -n voice --livekit-secret-dir /etc/livekit --agent-name receptionist --expect=join",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			namespace, _, err := c.namespace()
			if err != nil {
				return err
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cl, namespace)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.secret, "livekit-secret", o.secret, "Secret of the namespace with URL, key and secret of the LiveKit project.")
	fs.StringVar(&o.dir, "livekit-secret-dir", o.dir, "Folder of a mounted Secret with the same.")
	fs.StringVar(&o.keys, "livekit-secret-keys", o.keys, "Names of the keys or files in it, such as "+call.ExampleSecretKeys+". The default names are url, api-key and api-secret, or LiveKit's own.")
	fs.StringVar(&o.url, "livekit-url", o.url, "URL of LiveKit from here, if it differs from the one in the Secret.")
	fs.StringVar(&o.agentName, "agent-name", o.agentName, "Request an agent with this name.")
	fs.StringVar(&o.expect, "expect", o.expect, "What counts as an answer: the agent publishes a track (track), or only joins (join).")
	fs.DurationVar(&o.answerWithin, "answer-within", o.answerWithin, "Maximum time to wait for an agent, and then again for its track.")
	fs.DurationVar(&o.countWithin, "count-within", o.countWithin, "Maximum time until the call is counted, until the agent leaves after it, and until it is no longer counted.")
	fs.StringVarP(&o.output, "output", "o", o.output, "json, printed at the end.")
	return cmd
}

func (o *tryOptions) validate() error {
	errs := []error{checkOutput(o.output, "json")}
	if (o.secret == "") == (o.dir == "") {
		errs = append(errs, errors.New("where is the LiveKit key? use one of --livekit-secret NAME and --livekit-secret-dir FOLDER"))
	}
	if _, err := call.ParseSecretKeys(o.keys); err != nil {
		errs = append(errs, fmt.Errorf("--livekit-secret-keys is %w", err))
	}
	if o.url != "" {
		if err := livekit.ValidateURL(o.url); err != nil {
			errs = append(errs, fmt.Errorf("--livekit-url: %w", err))
		}
	}
	if o.expect != expectJoin && o.expect != expectTrack {
		errs = append(errs, fmt.Errorf("--expect is %q; use %s or %s", o.expect, expectTrack, expectJoin))
	}
	for name, d := range map[string]time.Duration{"answer-within": o.answerWithin, "count-within": o.countWithin} {
		if d < time.Second {
			errs = append(errs, fmt.Errorf("--%s is %s; use 1s or more, such as 30s", name, d))
		}
	}
	return errors.Join(errs...)
}

// tried is the result of a call, for programs.
type tried struct {
	Room    string `json:"room"`
	LiveKit string `json:"livekit"`
	// Result is "answered", or the meaning of the exit code.
	Result string      `json:"result"`
	Error  string      `json:"error,omitempty"`
	Steps  []triedStep `json:"steps"`
}

type triedStep struct {
	trycall.Step

	Seconds float64 `json:"seconds"`
}

func (o *tryOptions) run(ctx context.Context, c *cluster, namespace string) error {
	credentials, err := o.credentials(ctx, c, namespace)
	if err != nil {
		return err
	}
	client, err := livekit.New(livekit.Config{Credentials: credentials, Patience: o.countWithin})
	if err != nil {
		return err
	}
	var steps []triedStep
	gates := &http.Client{Timeout: gateWithin, Transport: &http.Transport{Proxy: nil}}
	room, err := trycall.Run(ctx, trycall.Config{
		Phone: trycall.NewLine(credentials), Participants: client.Participants, Rooms: client.Rooms,
		Pods: func(ctx context.Context) ([]trycall.Pod, error) { return c.podsToTry(ctx, namespace) },
		Gate: func(ctx context.Context, pod *call.Pod) (gate.Answer, error) { return gate.Get(ctx, gates, pod) },
		URL:  credentials.URL, Namespace: namespace, AgentName: o.agentName, Speak: o.expect == expectTrack,
		AnswerWithin: o.answerWithin, CountWithin: o.countWithin,
		Show: func(s trycall.Step) {
			steps = append(steps, triedStep{s, s.Took.Round(time.Millisecond).Seconds()})
			if o.output == "" {
				o.show(s)
			}
		},
	})
	if o.output == "json" {
		result := tried{Room: room, LiveKit: credentials.URL, Result: "answered", Steps: steps}
		if err != nil {
			result.Error = line(err)
			result.Result = map[int]string{ExitFailed: "not tried", ExitUncounted: "uncounted", ExitUnanswered: "unanswered"}[tryExit(err)]
		}
		return errors.Join(err, printJSON(o.Out, result))
	}
	return err
}

// show prints a step as it ends.
func (o *tryOptions) show(s trycall.Step) {
	_, _ = fmt.Fprintf(o.Out, "%-5s %-8s %7s  %s\n", s.Outcome, s.Name, s.Took.Round(10*time.Millisecond), oneLine(s.Said))
}

// tryExit returns the exit code of an error of try, and ExitFailed for other errors.
func tryExit(err error) int {
	switch {
	case errors.Is(err, trycall.ErrUnanswered):
		return ExitUnanswered
	case errors.Is(err, trycall.ErrUncounted):
		return ExitUncounted
	default:
		return ExitFailed
	}
}

// credentials reads the key from the Secret or the folder.
func (o *tryOptions) credentials(ctx context.Context, c *cluster, namespace string) (livekit.Credentials, error) {
	where := "folder " + o.dir
	read := func(key string) ([]byte, error) { return os.ReadFile(filepath.Join(o.dir, key)) }
	if o.secret != "" {
		where = fmt.Sprintf("Secret %s/%s", namespace, o.secret)
		secret, err := c.client.CoreV1().Secrets(namespace).Get(ctx, o.secret, metav1.GetOptions{})
		if err != nil {
			return livekit.Credentials{}, fmt.Errorf("cannot read %s: %w", where, err)
		}
		read = func(key string) ([]byte, error) {
			value, there := secret.Data[key]
			if !there {
				return nil, os.ErrNotExist
			}
			return value, nil
		}
	}
	keys, _ := call.ParseSecretKeys(o.keys) // validate has read it
	if o.url != "" && keys.URL == "" {
		keys.URL = "url" // it may be missing
	}
	found, err := keys.Among(func(key string) bool {
		_, err := read(key)
		return err == nil || o.url != "" && key == keys.URL
	})
	if err != nil {
		return livekit.Credentials{}, fmt.Errorf("%s has no complete LiveKit key: %w; add it, or name the keys there are with --livekit-secret-keys", where, err)
	}
	text := func(key string) string {
		value, err := read(key)
		if err != nil {
			return "" // Validate names what is missing
		}
		return strings.TrimSpace(string(value))
	}
	credentials := livekit.Credentials{URL: text(found.URL), APIKey: text(found.APIKey), APISecret: text(found.APISecret)}
	if o.url != "" {
		credentials.URL = o.url
	}
	if err := credentials.Validate(); err != nil {
		return livekit.Credentials{}, fmt.Errorf("%s: %w", where, err)
	}
	return credentials, nil
}

// podsToTry returns the guarded pods of a namespace with their calls.
func (c *cluster) podsToTry(ctx context.Context, namespace string) ([]trycall.Pod, error) {
	list, err := c.guarded(ctx, namespace, "", "")
	if err != nil {
		return nil, err
	}
	counted := c.calls(ctx, namespace)
	found := make([]trycall.Pod, 0, len(list))
	for _, object := range list {
		pod, _ := pods.FromPod(object) // doctor reports what is wrong with its settings
		found = append(found, trycall.Pod{Pod: pod, Calls: counted.of(pod.Name)})
	}
	return found, nil
}
