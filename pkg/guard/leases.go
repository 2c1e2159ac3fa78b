// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// leases are the leases of nodes that may be lost. A lease has expired if it was not
// renewed for its duration, by this guard's own clock.
type leases struct {
	client kubernetes.Interface
	now    func() time.Time

	mu   sync.Mutex
	seen map[string]lease
}

// lease is the last seen state of one lease.
type lease struct {
	read    time.Time
	renewal time.Time // by the node's clock
	since   time.Time // when the guard first saw that
	expired bool
	err     error
}

var errLeaseUnread = errors.New("the lease of its node has yet to be read")

func newLeases(client kubernetes.Interface, now func() time.Time) *leases {
	return &leases{client: client, now: now, seen: map[string]lease{}}
}

// expired reports whether a node no longer renews its lease, or has none.
func (l *leases) expired(node string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, ok := l.seen[node]
	if !ok {
		return false, errLeaseUnread
	}
	return last.expired, last.err
}

// read reads the lease of a node, no more often than its pods are looked at.
func (l *leases) read(ctx context.Context, node string) {
	now := l.now()
	l.mu.Lock()
	last, ok := l.seen[node]
	if ok && now.Sub(last.read) < again {
		l.mu.Unlock()
		return
	}
	if !ok {
		last.err = errLeaseUnread
	}
	last.read = now
	l.seen[node] = last // nobody else reads it meanwhile
	l.mu.Unlock()
	last = l.ask(ctx, node, last, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[node] = last
}

func (l *leases) ask(ctx context.Context, node string, last lease, now time.Time) lease {
	is := lease{read: now, renewal: last.renewal, since: last.since}
	found, err := l.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		is.expired = true
	case err != nil:
		is.err = fmt.Errorf("cannot read the lease of node %s: %w", node, err)
	case found.Spec.LeaseDurationSeconds == nil || found.Spec.RenewTime == nil:
	default:
		if renewal := found.Spec.RenewTime.Time; is.since.IsZero() || !renewal.Equal(is.renewal) {
			is.renewal, is.since = renewal, now
		}
		is.expired = now.Sub(is.since) > time.Duration(*found.Spec.LeaseDurationSeconds)*time.Second
	}
	return is
}

// forget drops the lease of a node that is gone.
func (l *leases) forget(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, node)
}
