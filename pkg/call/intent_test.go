// SPDX-License-Identifier: Apache-2.0

package call

import (
	"testing"
	"time"
)

func TestMark(t *testing.T) {
	m := Mark{Intent: ScaleDown, At: time.Date(2026, 1, 2, 16, 4, 5, 999, time.FixedZone("east", 3600))}
	if got := m.String(); got != "scale-down 2026-01-02T15:04:05Z" {
		t.Errorf("String() = %q", got)
	}
	back, err := ParseMark(m.String())
	if err != nil || back.Intent != ScaleDown || !back.At.Equal(m.At.Truncate(time.Second)) {
		t.Errorf("ParseMark = %v, %v", back, err)
	}
	for _, bad := range []string{"", "drain", "drain yesterday", "sleep 2026-01-02T15:04:05Z", "2026-01-02T15:04:05Z"} {
		if got, err := ParseMark(bad); err == nil {
			t.Errorf("ParseMark(%q) = %v; want an error", bad, got)
		}
	}
}

func TestParseDeadline(t *testing.T) {
	cases := map[string]struct {
		reason      string
		after, then string
		want        Deadline
		wantErr     string
	}{
		"None":       {reason: "A pod is held forever by default.", want: Deadline{}},
		"Hold":       {reason: "A deadline alone is worth an Event, no more.", after: "2h", want: Deadline{After: 2 * time.Hour}},
		"Release":    {reason: "A team may prefer the drain to the call.", after: "90m", then: "Release", want: Deadline{After: 90 * time.Minute, Release: true}},
		"Typo":       {reason: "An unreadable value must not end a call.", after: "1h", then: "release", want: Deadline{After: time.Hour}, wantErr: `annotation callguard.dev/on-deadline is "release"; use "Hold" or "Release"`},
		"NoDuration": {reason: "A number has no unit.", after: "90", then: "Release", want: Deadline{}, wantErr: `annotation callguard.dev/drain-deadline is "90"; use a duration above zero, such as "2h"`},
		"Negative":   {reason: "A deadline lies ahead.", after: "-1s", then: "Release", want: Deadline{}, wantErr: `annotation callguard.dev/drain-deadline is "-1s"; use a duration above zero, such as "2h"`},
	}
	for name, tc := range cases {
		got, err := ParseDeadline(tc.after, tc.then)
		if got != tc.want || errText(err) != tc.wantErr {
			t.Errorf("%s: %s\ngot %+v, %q\nwant %+v, %q", name, tc.reason, got, errText(err), tc.want, tc.wantErr)
		}
	}
}

func TestParseLaunchLimit(t *testing.T) {
	for value, want := range map[string]struct {
		limit time.Duration
		err   string
	}{
		"":    {},
		"2m":  {limit: 2 * time.Minute},
		"120": {err: `annotation callguard.dev/launch-limit is "120"; use a duration above zero, such as "2m"`},
		"-2m": {err: `annotation callguard.dev/launch-limit is "-2m"; use a duration above zero, such as "2m"`},
	} {
		got, err := ParseLaunchLimit(value)
		if got != want.limit || errText(err) != want.err {
			t.Errorf("%q: got %s, %q; want %s, %q", value, got, errText(err), want.limit, want.err)
		}
	}
}

func TestParseMinAvailable(t *testing.T) {
	cases := map[string]struct {
		replicas, want int
		bad            bool
	}{
		"":     {replicas: 4, want: 4},
		"2":    {replicas: 4, want: 2},
		"9":    {replicas: 4, want: 9},
		"0":    {replicas: 4, want: 0},
		"50%":  {replicas: 5, want: 3},
		"100%": {replicas: 4, want: 4},
		"101%": {replicas: 4, want: 4, bad: true},
		"-1":   {replicas: 4, want: 4, bad: true},
		"half": {replicas: 4, want: 4, bad: true},
	}
	for value, tc := range cases {
		got, err := ParseMinAvailable(value, tc.replicas)
		if got != tc.want || (err != nil) != tc.bad {
			t.Errorf("ParseMinAvailable(%q, %d) = %d, %v; want %d", value, tc.replicas, got, err, tc.want)
		}
	}
}
