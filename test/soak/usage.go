// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"cmp"
	"slices"
	"time"
)

// Usage is what a process took at a moment, as its own metrics say.
type Usage struct {
	At Offset `json:"at"`
	// Process tells one process from the next of the same program.
	Process    string  `json:"process"`
	Memory     float64 `json:"memory"` // bytes, resident
	Goroutines float64 `json:"goroutines"`
}

// Slope is how the usage of a process went, as the straight line that fits it best.
type Slope struct {
	Process string `json:"process"`
	From    Offset `json:"from"`
	To      Offset `json:"to"`
	Samples int    `json:"samples"`
	// Memory and Goroutines are the last values, MemoryMost and GoroutinesMost the largest.
	Memory         float64 `json:"memory"`
	MemoryMost     float64 `json:"memoryMost"`
	Goroutines     float64 `json:"goroutines"`
	GoroutinesMost float64 `json:"goroutinesMost"`
	// MemoryPerHour and GoroutinesPerHour are the slopes.
	MemoryPerHour     float64 `json:"memoryPerHour"`
	GoroutinesPerHour float64 `json:"goroutinesPerHour"`
}

const (
	// warmUp is left out of a slope: a process fills its caches at its start.
	warmUp = Offset(30 * time.Second)
	// leastSlope is how long a process must have been seen after that for a slope to say something.
	leastSlope = Offset(time.Minute)
)

// Slopes gives the slope of each process that lived long enough for one.
func Slopes(usage []Usage) []Slope {
	first, of := map[string]Offset{}, map[string][]Usage{}
	for _, u := range slices.SortedStableFunc(slices.Values(usage), func(a, b Usage) int { return cmp.Compare(a.At, b.At) }) {
		if _, known := first[u.Process]; !known {
			first[u.Process] = u.At
		}
		if u.At >= first[u.Process]+warmUp {
			of[u.Process] = append(of[u.Process], u)
		}
	}
	var slopes []Slope
	for process, list := range of {
		last := list[len(list)-1]
		s := Slope{
			Process: process, From: list[0].At, To: last.At, Samples: len(list), Memory: last.Memory, Goroutines: last.Goroutines,
			MemoryPerHour:     perHour(list, func(u Usage) float64 { return u.Memory }),
			GoroutinesPerHour: perHour(list, func(u Usage) float64 { return u.Goroutines }),
		}
		for _, u := range list {
			s.MemoryMost, s.GoroutinesMost = max(s.MemoryMost, u.Memory), max(s.GoroutinesMost, u.Goroutines)
		}
		if s.To-s.From >= leastSlope {
			slopes = append(slopes, s)
		}
	}
	slices.SortFunc(slopes, func(a, b Slope) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Process, b.Process)) })
	return slopes
}

// perHour is the slope of the straight line with the least squares.
func perHour(list []Usage, value func(Usage) float64) float64 {
	var meanAt, mean float64
	for _, u := range list {
		meanAt += u.At.Seconds() / float64(len(list))
		mean += value(u) / float64(len(list))
	}
	var above, below float64
	for _, u := range list {
		above += (u.At.Seconds() - meanAt) * (value(u) - mean)
		below += (u.At.Seconds() - meanAt) * (u.At.Seconds() - meanAt)
	}
	if below == 0 {
		return 0
	}
	return above / below * time.Hour.Seconds()
}
