// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// listened is how long the last Events may take.
const listened = time.Second

// telephone is the first part of the number with which a test names its rooms, as SIP trunks do.
const telephone = "+4930555"

// Telephone is the first part of the names of rooms that are named by their callers' numbers.
func Telephone(line int64) string { return fmt.Sprintf("%s%03d", telephone, line) }

// token matches the beginning of a JWT: {"alg… or {"typ… in base64.
var token = regexp.MustCompile(`eyJ(hbGc|0eXA)[A-Za-z0-9_-]*`)

// ears collect what callguard's programs publish, to check that it contains nothing confidential.
type ears struct {
	mu      sync.Mutex
	said    map[string]string // text → where it was first heard
	planted []string
}

// listen collects every Event until ctx ends.
func (l *Lab) listen(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(l.Client, 0)
	hear := func(o any) {
		if e, ok := o.(*corev1.Event); ok {
			l.Hear("Event "+e.Reason, e.Message)
		}
	}
	_, err := factory.Core().V1().Events().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: hear, UpdateFunc: func(_, o any) { hear(o) },
	})
	if err != nil {
		return fmt.Errorf("cannot watch Events: %w", err)
	}
	factory.Start(ctx.Done())
	return nil
}

// Plant adds words that must not be published: keys and secrets. Those of the stage's LiveKits, tokens, and the rooms of
// Telephone are included from the start.
func (l *Lab) Plant(words ...string) {
	l.ears.mu.Lock()
	defer l.ears.mu.Unlock()
	l.ears.planted = append(l.ears.planted, words...)
}

// Hear adds a text that a program published: a page of metrics, an answer, an error.
func (l *Lab) Hear(where, text string) {
	l.ears.mu.Lock()
	defer l.ears.mu.Unlock()
	if _, known := l.ears.said[text]; !known {
		l.ears.said[text] = where
	}
}

// HearPage adds what a program answers, whatever its status.
func (l *Lab) HearPage(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	l.Hear("GET "+url, string(body))
	return err
}

// Leaks returns where planted words were found: in what was heard, in the logs of callguard's programs, or in the metrics of
// running ones. It also returns how many texts it has read, because with none it would find nothing.
func (l *Lab) Leaks(ctx context.Context) (leaks []string, read int, err error) {
	var errs []error
	l.mu.Lock()
	guards := slices.Clone(l.guards)
	l.mu.Unlock()
	for _, g := range guards {
		if page, err := g.get(ctx, "/metrics"); err == nil { // else it has ended
			l.Hear("metrics of the drain-guard", page)
		}
	}
	logs, err := filepath.Glob(filepath.Join(l.Cluster.Dir(), "logs", "*.log"))
	errs = append(errs, err)
	for _, path := range logs {
		name := filepath.Base(path)
		if !strings.HasPrefix(name, GuardName) && !strings.HasPrefix(name, AdapterName) && !strings.HasPrefix(name, gateName) {
			continue // not ours
		}
		raw, err := os.ReadFile(path)
		errs = append(errs, err)
		l.Hear("log "+name, string(raw))
	}
	late := time.NewTimer(listened)
	<-late.C
	l.ears.mu.Lock()
	defer l.ears.mu.Unlock()
	words := slices.Clone(l.ears.planted)
	words = append(words, telephone)
	for _, lk := range l.LiveKits {
		words = append(words, lk.APISecret)
	}
	for text, where := range l.ears.said {
		for line := range strings.Lines(text) {
			for _, word := range words {
				if strings.Contains(line, word) {
					leaks = append(leaks, fmt.Sprintf("%q stands in %s: %s", word, where, strings.TrimSpace(line)))
				}
			}
			if t := token.FindString(line); t != "" {
				leaks = append(leaks, fmt.Sprintf("a token stands in %s: %s", where, strings.TrimSpace(line)))
			}
		}
	}
	slices.Sort(leaks)
	return leaks, len(l.ears.said), errors.Join(errs...)
}
