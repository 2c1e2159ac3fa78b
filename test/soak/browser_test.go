// SPDX-License-Identifier: Apache-2.0

//go:build page

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	browser = "chromium"
	// picture is kept in docs, for people who do not run a soak.
	picture, mostPicture = "../../docs/soak.png", 200 << 10
	pageSize             = "1240,1480"
	browseWithin         = 2 * time.Minute
)

// look has the browser tell what it shows, in an element that is not part of the page.
const look = `<script nonce="look">
const errors = [];
addEventListener("error", e => errors.push(e.message));
addEventListener("load", () => {
	const box = e => { const b = e.getBoundingClientRect(); return {left: b.left, right: b.right, width: b.width, height: b.height, fill: getComputedStyle(e).fill, kind: e.getAttribute("class") || ""} };
	const boxes = selector => [...document.querySelectorAll(selector)].map(box);
	const seen = {
		text: document.body.innerText, errors, wide: document.documentElement.scrollWidth - innerWidth,
		timeline: boxes("#timeline")[0], marks: boxes("#timeline rect"), areas: boxes("#timeline polygon"), calls: boxes("#timeline polyline"),
		names: boxes("#timeline text:not([text-anchor])"), drains: boxes("#drains rect"),
	};
	const e = document.createElement("template");
	e.id = "seen";
	e.setAttribute("data-seen", JSON.stringify(seen));
	document.body.append(e);
});
</script></body>`

// seen is what the browser tells.
type seen struct {
	Text     string   `json:"text"`
	Errors   []string `json:"errors"`
	Wide     float64  `json:"wide"`
	Timeline box      `json:"timeline"`
	Marks    []box    `json:"marks"`
	Areas    []box    `json:"areas"`
	Calls    []box    `json:"calls"`
	Names    []box    `json:"names"`
	Drains   []box    `json:"drains"`
}

type box struct {
	Left   float64 `json:"left"`
	Right  float64 `json:"right"`
	Width  float64 `json:"width"`
	Height float64 `json:"height"`
	Fill   string  `json:"fill"`
	Kind   string  `json:"kind"`
}

// site serves a page under rules that let it load nothing, and notes what it tries nevertheless.
type site struct {
	*httptest.Server

	mu    sync.Mutex
	tried []string
}

func serve(t *testing.T, page []byte) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			rw.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-look'; report-uri /refused")
			rw.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = rw.Write(page)
		case "/favicon.ico": // which the browser itself asks for
			http.NotFound(rw, r)
		default:
			var what bytes.Buffer
			_, _ = what.ReadFrom(http.MaxBytesReader(rw, r.Body, 1<<16))
			s.mu.Lock()
			s.tried = append(s.tried, r.URL.Path+" "+what.String())
			s.mu.Unlock()
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// browse runs the browser, without a window, and returns what it prints.
func browse(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), browseWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--user-data-dir=" + t.TempDir(), "--window-size=" + pageSize,
	}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	shown, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v; install Debian's package chromium:\n%s", browser, err, said.String())
	}
	return shown
}

// TestPageInBrowser opens the page of a run in a browser, and looks at it. With -update it writes the picture in docs.
func TestPageInBrowser(t *testing.T) {
	text, err := os.ReadFile("testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	there := serve(t, bytes.Replace(page, []byte("</body>"), []byte(look), 1))
	dom := browse(t, "--virtual-time-budget=10000", "--dump-dom", there.URL)
	told := regexp.MustCompile(`data-seen="([^"]*)"`).FindSubmatch(dom)
	if told == nil {
		t.Fatalf("the browser does not tell what it shows:\n%.2000s", dom)
	}
	var s seen
	if err := json.Unmarshal([]byte(html.UnescapeString(string(told[1]))), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Errors) > 0 {
		t.Errorf("the page has errors: %q", s.Errors)
	}
	there.mu.Lock()
	if len(there.tried) > 0 {
		t.Errorf("the page needs something else: %q", there.tried)
	}
	there.mu.Unlock()
	s.counts(t, r)
	s.drawing(t, r)

	shot := filepath.Join(t.TempDir(), "page.png")
	browse(t, "--screenshot="+shot, serve(t, page).URL)
	image, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	if len(image) > mostPicture {
		t.Errorf("the picture has %d bytes; docs take %d", len(image), mostPicture)
	}
	if *update {
		if err := os.WriteFile(picture, image, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// counts looks for the numbers of the report among what can be read.
func (s seen) counts(t *testing.T, r Report) {
	t.Helper()
	words := strings.Join(strings.Fields(s.Text), " ")
	says := append([]string{fmt.Sprintf("Soak of callguard, seed %d", r.Seed), fmt.Sprintf("calls %d", r.Account.Calls)}, r.Failures...)
	for _, o := range Outcomes() {
		says = append(says, fmt.Sprintf("%s %d", o, r.Account.Outcomes[o]))
	}
	disruptions, _ := r.Done(false)
	faults, _ := r.Done(true)
	for _, text := range append(says, many(disruptions, "disruption")+" and "+many(faults, "fault")) {
		if !strings.Contains(words, text) {
			t.Errorf("the page does not show %q:\n%s", text, words)
		}
	}
}

// drawing looks at the time line and the drains: each step and each drain has its bar, where it can be seen.
func (s seen) drawing(t *testing.T, r Report) {
	t.Helper()
	if s.Wide > 0 {
		t.Errorf("the page is %.0f pixels wider than the window", s.Wide)
	}
	if len(s.Marks) != len(r.Steps) {
		t.Errorf("the time line has %d bars; want one for each of %d steps", len(s.Marks), len(r.Steps))
	}
	if len(s.Areas) != 5 || len(s.Calls) != 1 || len(s.Drains) != 2*len(r.Account.Tails) {
		t.Errorf("there are %d areas of pods, %d lines of calls and %d bars of drains; want 5, 1 and %d", len(s.Areas), len(s.Calls), len(s.Drains), 2*len(r.Account.Tails))
	}
	first := s.Timeline.Right
	for _, m := range s.Marks {
		first = min(first, m.Left)
		if m.Width < 1 || m.Height < 5 || m.Left < s.Timeline.Left || m.Right > s.Timeline.Right+1 || m.Fill == "none" || m.Fill == "rgb(0, 0, 0)" {
			t.Errorf("a bar cannot be seen: %+v", m)
		}
	}
	for _, name := range s.Names {
		if name.Right > first || name.Left < s.Timeline.Left {
			t.Errorf("a name from %.0f to %.0f is not beside the bars, which begin at %.0f", name.Left, name.Right, first)
		}
	}
}
