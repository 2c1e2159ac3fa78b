// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"time"
)

// snapshot is the visible state at one moment.
type snapshot struct {
	At      time.Duration // since the first call
	Calls   int           // as the callers count
	Dropped int
	Active  reading // active_calls of the Deployment
	Scaling autoscaler
	Pods    []podRow
}

// reading is an answer of the custom metrics API: a number, or why there is none.
type reading struct {
	N   int64
	Why string
}

func (r reading) String() string {
	if r.Why != "" {
		return r.Why
	}
	return strconv.FormatInt(r.N, 10)
}

// autoscaler is the HorizontalPodAutoscaler.
type autoscaler struct {
	Target           string // calls of a replica it aims at
	Current, Desired int32
	Active           string // condition ScalingActive, with its reason unless True
}

// podRow is one pod.
type podRow struct {
	Name, Node, Phase, State string
	Calls                    reading
}

const terminating = "Terminating"

// settled reports whether one replica is wanted and no other pod is left.
func (s snapshot) settled() bool {
	return s.Scaling.Desired == 1 && s.Scaling.Current == 1 && len(s.Pods) == 1 && s.Active == reading{}
}
