// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"sync"

	"github.com/callguard/callguard/pkg/call"
)

// shares limits how many bytes of memory the default project, one namespace, and all
// namespaces together may take. Up to the floor a namespace gets what it asks for, whatever
// the others have taken, so that a few cannot take everything. The default project's
// namespace is empty.
type shares struct {
	own, floor, each, most int64

	mu    sync.Mutex
	taken map[string]int64 // by namespace
	all   int64            // by all of them
}

func newShares(own, floor, each, most int64) *shares {
	return &shares{own: own, floor: floor, each: each, most: most, taken: map[string]int64{}}
}

// take takes n bytes for a namespace, and reports whether it may have them.
func (s *shares) take(namespace string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, most := s.taken[namespace]+n, s.own
	if namespace != "" {
		most = s.each
	}
	if next > most || namespace != "" && next > s.floor && s.all+n > s.most {
		return false
	}
	s.add(namespace, n)
	return true
}

func (s *shares) giveBack(namespace string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(namespace, -n)
}

func (s *shares) add(namespace string, n int64) {
	if namespace != "" {
		s.all += n
	}
	if s.taken[namespace] += n; s.taken[namespace] == 0 {
		delete(s.taken, namespace)
	}
}

// namespaceOf returns the namespace to which a project is charged; empty for the default
// project.
func namespaceOf(project call.Project) string {
	if secret, ok := project.Secret(); ok {
		return secret.Namespace
	}
	return ""
}
