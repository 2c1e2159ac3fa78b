// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// memory of a process, in bytes.
type memory struct {
	now, peak int64 // resident
}

func memoryOf(pid int) (memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("cannot read the memory of the metrics-adapter: %w; this needs Linux", err)
	}
	return parseMemory(status)
}

// parseMemory reads VmRSS and VmHWM.
func parseMemory(status []byte) (memory, error) {
	var m memory
	for line := range bytes.Lines(status) {
		var kib int64
		key, value, _ := strings.Cut(string(line), ":")
		if key != "VmRSS" && key != "VmHWM" {
			continue
		}
		if _, err := fmt.Sscanf(value, "%d kB", &kib); err != nil {
			return m, fmt.Errorf("cannot read %s from %q: %w", key, value, err)
		}
		if key == "VmRSS" {
			m.now = kib << 10
		} else {
			m.peak = kib << 10
		}
	}
	if m.now == 0 || m.peak == 0 {
		return m, fmt.Errorf("there is no VmRSS or VmHWM in %q", status)
	}
	return m, nil
}

func (m memory) String() string {
	return fmt.Sprintf("%.0f MiB now, %.0f MiB at most", float64(m.now)/(1<<20), float64(m.peak)/(1<<20))
}

func (m memory) judge(when string) error {
	if m.peak >= mostMemory {
		return fmt.Errorf("the metrics-adapter needs %s %s; it shall stay below %d MiB", m, when, mostMemory>>20)
	}
	return nil
}
