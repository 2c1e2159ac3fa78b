// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// part is the role of a pod for the others of its workload.
type part int

const (
	noPart    part = iota
	isAble         // it can take calls
	isStuck        // it cannot, and waits to be replaced itself
	isAside        // it is aside because of its node, and takes no calls any more
	isLeaving      // it is aside because of its node, and takes calls until it drains
	parts
)

// company counts the pods of a workload, so that each pod can be judged by the others. They
// are counted once, and a pod again when its step is decided, because a workload may have
// thousands of pods.
type company struct {
	strangers int
	// by has the counts for a pod that is set aside, and for one that is replaced in place.
	by [2][parts]int
	// able are those that can take calls, the latest to arrive first.
	able []*member
	// unable are those that should be able to and cannot, the ones most worth a look first.
	unable []*member
}

// company counts the pods of the workload.
func (w *workload) company(now time.Time) *company {
	c := &company{strangers: w.strangers}
	for _, m := range w.members {
		c.join(m)
		if m.can() {
			c.able = append(c.able, m)
		}
		if m.mayServe() && m.able.why != "" && m.able.told(now) {
			c.unable = append(c.unable, m)
		}
	}
	slices.SortStableFunc(c.able, func(a, b *member) int { return b.arrived.Compare(a.arrived) })
	slices.SortStableFunc(c.unable, func(a, b *member) int { return a.able.rank() - b.able.rank() })
	return c
}

// mayServe reports whether the pod could take calls, as far as its state allows.
func (m *member) mayServe() bool { return !m.aside && !m.Terminating && m.State == call.Serving }

// part returns the pod's role. A pod whose node is being removed can take calls for a
// while. That is enough for others that are replaced in place, because they wait for it.
func (m *member) part(inPlace bool) part {
	switch {
	case m.can() && (inPlace || !m.ending):
		return isAble
	case m.aside && m.marked.Intent.OfNode() && m.canYet() && !m.ending:
		return isLeaving
	case m.aside && m.marked.Intent.OfNode() && !m.Terminating:
		return isAside
	case !m.aside && m.wanted && !m.Terminating && m.State == call.Serving:
		return isStuck
	default:
		return noPart
	}
}

func (c *company) join(m *member)  { c.count(m, 1) }
func (c *company) leave(m *member) { c.count(m, -1) }

func (c *company) count(m *member, n int) {
	c.by[0][m.part(false)] += n
	c.by[1][m.part(true)] += n
}

// others counts the other pods for one of them: those that can take calls, those that
// cannot and wait to be replaced themselves, those that are aside because of their nodes,
// and how many of these take calls until they drain.
func (c *company) others(of *member, inPlace bool) (able, stuck, aside, leaving int) {
	by := c.by[0]
	if inPlace {
		by = c.by[1]
	}
	by[of.part(inPlace)]--
	return c.strangers + by[isAble], by[isStuck], by[isAside] + by[isLeaving], by[isLeaving]
}

// arrived returns when the latest of the others that can take calls was first seen.
func (c *company) arrived(of *member) (latest time.Time) {
	if m := firstBut(&c.able, of, (*member).can); m != nil {
		return m.arrived
	}
	return time.Time{}
}

// whyUnable returns why one of the others cannot take calls although it should.
func (c *company) whyUnable(of *member) verdict.Unable {
	if m := firstBut(&c.unable, of, (*member).mayServe); m != nil {
		return m.unable()
	}
	return verdict.Unable{}
}

// firstBut returns the first member of a list, other than of, for which holds is true; nil if
// there is none. Members at the head for which it is false are dropped, because it never
// becomes true again.
func firstBut(list *[]*member, of *member, holds func(*member) bool) *member {
	for len(*list) > 0 && !holds((*list)[0]) {
		*list = (*list)[1:]
	}
	for _, m := range *list {
		if m != of && holds(m) {
			return m
		}
	}
	return nil
}
