// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/callguard/callguard/pkg/call"
)

// lookAnyway is how often the file is read without an event, so that a lost watch cannot
// hide an order.
const lookAnyway = 15 * time.Second

// readOrder puts the order in the file into effect, if there is one.
func (g *Gate) readOrder() error {
	if g.cfg.Order == "" {
		return nil
	}
	raw, err := os.ReadFile(g.cfg.Order)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(g.cfg.Order)); err != nil {
			return fmt.Errorf("the order to drain cannot be read: %w; mount a downwardAPI volume with metadata.annotations there", err)
		}
		return nil // the kubelet writes no file for an annotation that does not exist
	}
	if err != nil {
		return fmt.Errorf("the order to drain cannot be read: %w", err)
	}
	order := parseOrder(string(raw))
	if order == "" {
		if g.book.isDraining() && !g.lifted.Swap(true) {
			g.cfg.Log.Warn("The annotation with the order to drain was removed; the order stays in effect until call-gate restarts")
		}
		return nil
	}
	g.lifted.Store(false)
	if !g.book.drain(order) {
		return nil
	}
	if _, err := call.ParseMark(order); err != nil {
		g.cfg.Log.Warn("The order to drain is in effect, although its value cannot be parsed", "err", err)
	}
	a := g.book.answer(time.Now())
	g.cfg.Log.Info("The pod is draining: no more job offers are accepted", "order", order, "calls", a.Calls, "known", a.Known)
	g.sessions.Range(func(_, s any) bool {
		if s := s.(*session); s.known.Load() {
			s.ordered <- struct{}{}
		}
		return true
	})
	return nil
}

// followOrder reads the file again whenever something happens in its folder: the
// kubelet replaces a link there, never the file.
func (g *Gate) followOrder(ctx context.Context) error {
	if g.cfg.Order == "" {
		g.cfg.Log.Warn("No --order-file is set; this pod cannot be told to drain")
		return nil
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("the order to drain cannot be watched: %w", err)
	}
	defer func() { _ = watch.Close() }()
	if err := watch.Add(filepath.Dir(g.cfg.Order)); err != nil {
		return fmt.Errorf("the order to drain cannot be watched: %w; mount a downwardAPI volume at %s", err, filepath.Dir(g.cfg.Order))
	}
	tick := time.NewTicker(lookAnyway)
	defer tick.Stop()
	var trouble string
	for {
		// Read it before the first event, too: the file may have changed since New.
		err := g.readOrder()
		if err != nil && err.Error() != trouble {
			g.cfg.Log.Error("Cannot watch for the order to drain", "err", err)
		}
		trouble = ""
		if err != nil {
			trouble = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-watch.Events:
			if !ok {
				return errors.New("the watch on the order to drain has ended")
			}
		case err := <-watch.Errors:
			g.cfg.Log.Warn("The watch for the order to drain missed events; reading the file again", "err", err)
		case <-tick.C:
		}
	}
}

// parseOrder finds the order in what the kubelet wrote: lines of key="value" with escapes
// for all annotations, or the bare value of the one. Any value is an order.
func parseOrder(text string) string {
	bare := true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		key, quoted, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(key, " \t") {
			continue
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			continue
		}
		bare = false
		if key == call.DrainingAnnotation && value != "" {
			return value
		}
	}
	if bare {
		return strings.TrimSpace(text)
	}
	return ""
}
