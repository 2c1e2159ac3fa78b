// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Write is a write of the guard, as kube-apiserver recorded it.
type Write struct {
	At             time.Time
	Verb, Resource string // pods, or pods/eviction
	Namespace      string
	Name           string
	Code           int
}

// GuardWrites lists what the guard has written since, refused or not. It needs
// Options.Guard, and counts for every guard.
func (l *Lab) GuardWrites(since time.Time) ([]Write, error) {
	raw, err := os.ReadFile(l.Cluster.AuditLog())
	if err != nil {
		return nil, fmt.Errorf("cannot read what the guard wrote: %w; was the stage opened with Options.Guard?", err)
	}
	var writes []Write
	for line := range bytes.Lines(raw) {
		var e struct {
			Verb           string
			StageTimestamp time.Time
			ObjectRef      struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			break // the last line is being written
		}
		if e.StageTimestamp.Before(since) {
			continue
		}
		w := Write{
			At: e.StageTimestamp, Verb: e.Verb, Resource: e.ObjectRef.Resource,
			Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name, Code: e.ResponseStatus.Code,
		}
		if e.ObjectRef.Subresource != "" {
			w.Resource += "/" + e.ObjectRef.Subresource
		}
		writes = append(writes, w)
	}
	return writes, nil
}
