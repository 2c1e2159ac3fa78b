// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPictureShowsEachFrameInItsTimeAndTheLastWithoutPlaying(t *testing.T) {
	svg := picture([]frame{
		{0, "callguard demo\ncallguard: calls up 8, lost 0, unanswered 0"},
		{6 * time.Second, "callguard demo\nPDB & grace: calls up 4, lost 4, unanswered 0"},
		{12 * time.Second, "a < b"},
	})
	decoder := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, svg)
		}
	}
	for _, want := range []string{
		// 12 s at three times the pace, and 8 s of the last frame.
		`<g visibility="hidden"><animate attributeName="visibility" calcMode="discrete" dur="12.0s" repeatCount="indefinite" values="visible;hidden" keyTimes="0.0000;0.1667"/>`,
		`values="hidden;visible;hidden" keyTimes="0;0.1667;0.3333"/>`,
		`<g visibility="visible"><animate attributeName="visibility" calcMode="discrete" dur="12.0s" repeatCount="indefinite" values="hidden;visible" keyTimes="0;0.3333"/>`,
		`class="good" xml:space="preserve">callguard: calls up 8`, `class="bad" xml:space="preserve">PDB &amp; grace`, `a &lt; b`,
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("%s is not in the picture:\n%s", want, svg)
		}
	}
}

func TestPictureOfNothingIsAnError(t *testing.T) {
	if err := writePicture(filepath.Join(t.TempDir(), "demo.svg"), nil); err == nil {
		t.Error("a picture without frames was written")
	}
}

func TestColoursTellWhoWasNotServed(t *testing.T) {
	cases := map[string]string{
		"callguard                    0 of 13           0 after 00:56": ` class="good"`,
		"PDB, 30 s grace              3 of 13           0 after 00:33": ` class="bad"`,
		"PDB, 1 h grace               0 of 13           3 after 00:47": ` class="bad"`,
		"PDB, 1 h grace               0 of 13          10 not yet":     ` class="bad"`,
		"callguard         calls up 9, lost 0, unanswered 0":           ` class="good"`,
		"PDB, 1 h grace    calls up 9, lost 0, unanswered 1":           ` class="bad"`,
		"An hour of grace keeps these calls, too":                      "",
	}
	for line, want := range cases {
		if got := class(line); got != want {
			t.Errorf("class(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestThinLeavesOutWhatWasHardlyToBeSeen(t *testing.T) {
	got := thin([]frame{{0, "a"}, {500 * time.Millisecond, "b"}, {2 * time.Second, "c"}})
	if len(got) != 2 || got[0].text != "b" || got[1].text != "c" {
		t.Errorf("thin() = %v, want b at 0s and c at 2s", got)
	}
}
