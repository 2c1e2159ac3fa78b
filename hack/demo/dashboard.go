// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/hack/dashboard"
	"github.com/callguard/callguard/test/lab"
)

const (
	dashboardFile = "charts/callguard/dashboards/callguard.json"
	// dashboardRows are those of what calls do and the guard; below are those of who counts them.
	dashboardRows = 28
	// intoDrains is the moment that the picture shows: some pods are gone, some held.
	intoDrains = talk * 2 / 3
)

// dashboardPicture makes a real Prometheus scrape callguard all the time. Without a file to write to it does
// nothing.
type dashboardPicture struct {
	file       string
	prometheus *dashboard.Prometheus
	from, to   time.Time
}

// newDashboard starts a Prometheus that asks the stage's metrics-adapter. It is to be closed also when that fails.
func newDashboard(ctx context.Context, file string, stage *lab.Lab) (*dashboardPicture, error) {
	d := &dashboardPicture{file: file, from: time.Now()}
	if file == "" {
		return d, nil
	}
	ports, err := local.FreePorts(1)
	if err != nil {
		return d, err
	}
	if d.prometheus, err = dashboard.Start(ctx, ports[0]); err != nil {
		return d, err
	}
	config, err := stage.Direct(ctx, stage.Adapter)
	if err != nil {
		return d, err
	}
	return d, d.prometheus.Add(ctx, dashboard.Scrape{
		Name: "metrics-adapter", Address: fmt.Sprintf("127.0.0.1:%d", stage.Adapter.Port),
		TLS: &dashboard.TLS{CA: config.CAData, Cert: config.CertData, Key: config.KeyData, ServerName: config.ServerName},
	})
}

// addGuard makes it scrape a drain-guard as well.
func (d *dashboardPicture) addGuard(ctx context.Context, guard *lab.Guard) error {
	if d.prometheus == nil {
		return nil
	}
	return d.prometheus.Add(ctx, dashboard.Scrape{Name: "drain-guard", Address: fmt.Sprintf("127.0.0.1:%d", guard.Port)})
}

func (d *dashboardPicture) drainsBegin(at time.Time) { d.to = at.Add(intoDrains) }

func (d *dashboardPicture) write(ctx context.Context) error {
	if d.prometheus == nil {
		return nil
	}
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		return fmt.Errorf("%w; run it in a checkout of callguard", err)
	}
	panels, err := dashboard.Panels(text)
	if err != nil {
		return err
	}
	drawn, err := dashboard.Draw(ctx, d.prometheus, panels, dashboardRows, d.from, d.to)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.file, []byte(drawn), 0o644); err != nil { //nolint:gosec // everybody may read it
		return fmt.Errorf("cannot write the dashboard: %w; give --dashboard a file in a folder that exists", err)
	}
	return nil
}

func (d *dashboardPicture) close() error {
	if d.prometheus == nil {
		return nil
	}
	return d.prometheus.Stop()
}
