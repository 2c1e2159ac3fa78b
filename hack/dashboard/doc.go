// SPDX-License-Identifier: Apache-2.0

// Package dashboard draws the chart's Grafana dashboard without Grafana: it reads the panels, asks a Prometheus for their
// series, and writes an SVG. It draws single values and graphs, and lists the rows of tables; it knows no other panels, and
// no variables but $__rate_interval.
package dashboard
