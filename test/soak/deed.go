// SPDX-License-Identifier: Apache-2.0

package soak

// Deed is what the schedule did itself, and what ends calls whoever looks after them.
type Deed struct {
	// Outcome is what becomes of a call that it ends.
	Outcome Outcome
	// Cause is how such a call ends; empty: in any way.
	Cause string
	// Pod, Node or Workload is whom it hit.
	Pod, Node, Workload string
	// From and To are when such a call ends. A deed without To goes on.
	From, To Offset
}

// LostBy is what the deeds of the schedule made of a call that ended under its caller; empty if none of them ended it.
func LostBy(c CallRecord, deeds []Deed) Outcome {
	for _, d := range deeds {
		hit := d.Pod != "" && d.Pod == c.Pod || d.Node != "" && d.Node == c.Node || d.Workload != "" && d.Workload == c.Workload
		if hit && (d.Cause == "" || d.Cause == c.Cause) && c.Ended >= d.From && (d.To == 0 || c.Ended <= d.To) {
			return d.Outcome
		}
	}
	return ""
}
