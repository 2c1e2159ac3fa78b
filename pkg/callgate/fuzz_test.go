// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
)

// FuzzOrder: the order is found as the kubelet writes it, and no other annotation is one.
func FuzzOrder(f *testing.F) {
	f.Add("drain 2026-01-02T15:04:05Z", "example.org/note", "x", "")
	f.Add("", "a", "b\n"+call.DrainingAnnotation+`="drain"`, "")
	f.Add("", "a=b", "c", call.DrainingAnnotation+`="\xff`)
	f.Fuzz(func(t *testing.T, order, key, value, text string) {
		if got := parseOrder(text); len(got) > 3*len(text) { // a byte that is no UTF-8 is replaced by three
			t.Errorf("of %d bytes an order of %d was read", len(text), len(got))
		}
		if key == "" || strings.ContainsAny(key, "= \t\r\n") || key == call.DrainingAnnotation {
			return // no key of an annotation
		}
		other := fmt.Sprintf("%s=%q\n", key, value)
		if got := parseOrder(other); got != "" {
			t.Errorf("%s is read as the order %q", other, got)
		}
		if got := parseOrder(other + fmt.Sprintf("%s=%q\n", call.DrainingAnnotation, order)); got != order {
			t.Errorf("beside %s the order %q is read as %q", other, order, got)
		}
	})
}

// FuzzJournal: whatever an earlier gate left, the next one starts, counts no fewer calls than there are files of calls, and
// says zero only if all numbers could be read.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"id":"a","room":"r","agent":"g","started":"2026-01-02T15:04:05Z","launched":true}`), []byte("1"), []byte("0"))
	f.Add([]byte(`{"id":"a","roo`), []byte(""), []byte("-1"))
	f.Add([]byte(`{"id":"b"}`), []byte("9223372036854775807"), []byte("9999999999999999999"))
	f.Fuzz(func(t *testing.T, job, workers, unlisted []byte) {
		dir := t.TempDir()
		for name, text := range map[string][]byte{"a" + jobSuffix: job, workersFile: workers, unlistedFile: unlisted, wholeFile: []byte(wholeYes)} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		g, err := New(Config{Upstream: "ws://127.0.0.1:1", Pod: "pod", Journal: dir, Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		g.book.drain("drain 2026-01-02T15:04:05Z")
		a := g.book.answer(time.Now())
		if a.Calls < 1 || a.Unlisted < 0 || a.Drained {
			t.Errorf("a job in %q, workers %q, unlisted %q: the next gate says %+v", job, workers, unlisted, a)
		}
	})
}
