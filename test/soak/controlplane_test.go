// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/hack/cluster/local"
)

const (
	// heardWithin is how long kube-apiserver may be away: while it is paused, it starts, or its etcd does.
	heardWithin = 2 * time.Minute
	askAgain    = 500 * time.Millisecond
)

// unheard reports whether a request failed because kube-apiserver did not take it: it was away, its etcd was, or it had just
// started.
func unheard(err error) bool {
	var passed passedOver
	if err == nil || errors.As(err, &passed) {
		return false
	}
	switch code(err) {
	case 0, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return strings.Contains(err.Error(), "not yet ready to handle request") // of an admission plugin, with status 403
}

// heard asks until kube-apiserver takes the request, as people do.
func heard(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, heardWithin)
	defer cancel()
	for {
		err := ask()
		if !unheard(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

// controlPlane kills or pauses a component of the control plane, and has it back after the step's time, also when the run is over.
func (p *player) controlPlane(ctx context.Context, s Step) (string, error) {
	p.plane.Lock()
	defer p.plane.Unlock()
	if ctx.Err() != nil {
		return "", passedOver("the run was over before the fault before it was")
	}
	component := map[Kind]string{
		KillAPIServer: local.APIServer, HoldAPIServer: local.APIServer, KillEtcd: local.Etcd, HoldEtcd: local.Etcd,
		KillControllers: local.ControllerManager, KillScheduler: local.Scheduler,
	}[s.Kind]
	cluster := p.stage.Cluster
	away, back := cluster.Kill, cluster.Start
	if s.Kind == HoldAPIServer || s.Kind == HoldEtcd {
		away, back = cluster.Pause, cluster.Continue
	}
	always := context.WithoutCancel(ctx)
	if err := away(always, component); err != nil {
		return "", err
	}
	p.pause(ctx, s.For)
	began := time.Now()
	err := back(always, component)
	if err == nil {
		err = heard(always, func() error {
			_, err := p.stage.Client.CoreV1().Namespaces().Get(always, metav1.NamespaceDefault, metav1.GetOptions{})
			return err
		})
	}
	return fmt.Sprintf("works %s after that", short(Offset(time.Since(began)))), err
}
