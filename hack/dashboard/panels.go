// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// Panel is one panel of a dashboard, as in Grafana's JSON.
type Panel struct {
	Type    string `json:"type"` // row, stat, timeseries or table
	Title   string `json:"title"`
	GridPos struct {
		H, W, X, Y int // of 24 columns
	} `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []Target `json:"targets"`
}

// Target is a query of a panel.
type Target struct {
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"` // with labels, such as {{namespace}}
}

// Panels reads a dashboard.
func Panels(dashboard []byte) ([]Panel, error) {
	var read struct {
		Panels []Panel `json:"panels"`
	}
	if err := json.Unmarshal(dashboard, &read); err != nil {
		return nil, fmt.Errorf("this is no dashboard: %w", err)
	}
	if len(read.Panels) == 0 {
		return nil, errors.New("the dashboard has no panels")
	}
	return read.Panels, nil
}

var labelOfLegend = regexp.MustCompile(`{{ *(\w+) *}}`)

// legend returns the name of a series with these labels.
func (t Target) legend(labels map[string]string) string {
	return labelOfLegend.ReplaceAllStringFunc(t.LegendFormat, func(found string) string {
		return labels[labelOfLegend.FindStringSubmatch(found)[1]]
	})
}
