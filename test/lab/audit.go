// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Request is a request of the guard, as kube-apiserver recorded it.
type Request struct {
	At             time.Time
	Verb, Resource string // pods, or pods/eviction
	Namespace      string
	Name           string
	Code           int
}

// GuardWrites lists the guard's writes since a time, refused or not. It needs Options.Guard, and includes all guards.
func (l *Lab) GuardWrites(since time.Time) ([]Request, error) {
	all, err := l.GuardRequests(since)
	return slices.DeleteFunc(all, func(r Request) bool { return slices.Contains([]string{"get", "list", "watch"}, r.Verb) }), err
}

// GuardRequests lists all requests of the guard to kube-apiserver since a time, including those that GuardWrites lists. A
// watch is recorded when it ends.
func (l *Lab) GuardRequests(since time.Time) ([]Request, error) {
	raw, err := os.ReadFile(l.Cluster.AuditLog())
	if err != nil {
		return nil, fmt.Errorf("cannot read what the guard asked for: %w; was the stage opened with Options.Guard?", err)
	}
	var requests []Request
	for line := range bytes.Lines(raw) {
		var e struct {
			Verb           string
			StageTimestamp time.Time
			ObjectRef      struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			break // the last line is incomplete
		}
		if e.StageTimestamp.Before(since) {
			continue
		}
		r := Request{
			At: e.StageTimestamp, Verb: e.Verb, Resource: e.ObjectRef.Resource,
			Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name, Code: e.ResponseStatus.Code,
		}
		if e.ObjectRef.Subresource != "" {
			r.Resource += "/" + e.ObjectRef.Subresource
		}
		requests = append(requests, r)
	}
	return requests, nil
}
