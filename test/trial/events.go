// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	refs "k8s.io/client-go/tools/reference"
)

// Events is a recorder that records each Event with its object, which record.FakeRecorder
// omits.
type Events struct {
	record.EventRecorder // for what nobody here calls

	mu    sync.Mutex
	lines []string
}

// Event implements record.EventRecorder.
func (e *Events) Event(object runtime.Object, kind, reason, message string) {
	about := "nothing"
	if ref, err := refs.GetReference(scheme.Scheme, object); err == nil {
		about = strings.Replace(ref.Kind+" "+ref.Namespace+"/"+ref.Name, " /", " ", 1)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, fmt.Sprintf("%s %s on %s: %s", kind, reason, about, message))
}

// Eventf implements record.EventRecorder.
func (e *Events) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	e.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

// List returns a line for each Event so far.
func (e *Events) List() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lines)
}
