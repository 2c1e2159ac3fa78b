// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"fmt"
)

// fullDisk has the disk of a gate full while calls come, which its journal then lacks, and kills the gate before there is room again.
// The gate that is started then has to ask its agent what it has. Nobody dials its workload while it is dead.
func (p *player) fullDisk(ctx context.Context, s Step) (string, error) {
	a, ok := p.pick(s)
	if !ok {
		return "", passedOver("there is no agent")
	}
	free, err := p.stage.FillDisk(a.UID)
	if err != nil {
		return "", passedOver(err.Error()) // its pod has just gone
	}
	p.pause(ctx, s.For)
	p.next[s.Workload].Lock()
	defer p.next[s.Workload].Unlock()
	if err := p.nobodyOnTheWay(ctx, s.Workload); err != nil {
		return fmt.Sprintf("%s, not killed: %v", a.Pod.Name, err), free()
	}
	if err := p.stage.Fleet.KillGate(a.Pod); err != nil {
		return fmt.Sprintf("%s, not killed: %v", a.Pod.Name, err), nil
	}
	return fmt.Sprintf("%s, killed after %s", a.Pod.Name, short(p.now()-s.At)), nil
}
