// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/callguard/callguard/pkg/call"
)

// The values of --on-deadline. With neither the plugin itself ends a call: only the guard
// releases a pod, and only as its workload and the administrator allow.
const (
	onDeadlineHold    = "hold"
	onDeadlineRelease = "release"
)

func (o *drainOptions) validateDeadline() error {
	switch {
	case o.onDeadline != "" && o.onDeadline != onDeadlineHold && o.onDeadline != onDeadlineRelease:
		return fmt.Errorf("--on-deadline is %q; use hold or release", o.onDeadline)
	case o.deadline < 0:
		return fmt.Errorf("--deadline is %q; use a duration above zero, such as 30m", o.deadline)
	case o.onDeadline != "" && o.deadline == 0:
		return errors.New("--on-deadline without --deadline never happens; add a duration, such as --deadline=30m")
	case o.deadline > 0 && o.onDeadline == "":
		return errors.New("--deadline needs an action; add --on-deadline=hold or --on-deadline=release")
	case o.deadline > 0 && o.timeout > 0:
		return errors.New("--deadline and --timeout both bound the drain; leave one out")
	case o.deadline > 0 && o.detach:
		return errors.New("--deadline with --wait=false has nothing to bound; leave one out")
	}
	return nil
}

// checkRelease prints which calls a release at the deadline would cut, and returns an error
// if the guard would hold a pod for longer.
func (o *drainOptions) checkRelease(ctx context.Context, a administered, nodes []*emptying) error {
	if a.note != "" {
		return fmt.Errorf("%s, so it is unknown whether pods are released after %s, and nothing was changed; use --on-deadline=hold", a.note, o.deadline)
	}
	var longer, cut []string
	for _, e := range nodes {
		for _, s := range e.progress.standings(ctx, e.pods) {
			if !s.guarded || s.unprotected != "" || s.state == call.Released {
				continue
			}
			switch after, by := letGo(s.pod, a); {
			case by == "":
				longer = append(longer, s.name()+" for as long as its calls last")
			case after > o.deadline:
				longer = append(longer, fmt.Sprintf("%s for %s, by %s", s.name(), after, by))
			default:
				cut = append(cut, fmt.Sprintf("%s (%s now) after %s, by %s", s.name(), words(s.calls), after, by))
			}
		}
	}
	if len(longer) > 0 {
		return fmt.Errorf("--on-deadline=release after %s is not this plugin's to give: drain-guard holds %s, such as %s; nothing was touched; "+
			"use --on-deadline=hold, or have the workload say %s with %s: Release, or the administrator --max-hold of drain-guard",
			o.deadline, plural(len(longer), "pod"), longer[0], call.DeadlineAnnotation, call.OnDeadlineAnnotation)
	}
	if more := len(cut) - shown; more > 0 {
		cut = append(cut[:shown], fmt.Sprintf("and %d more", more))
	}
	if len(cut) > 0 {
		_, _ = fmt.Fprintf(o.ErrOut, "Warning: calls that last longer end with their pods, after the termination grace period. drain-guard will release:\n  %s\n", strings.Join(cut, "\n  "))
	}
	return nil
}
