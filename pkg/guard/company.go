// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// part is what a pod is to the others of its workload.
type part int

const (
	noPart    part = iota
	isAble         // it can take calls
	isStuck        // it cannot, and waits to be replaced itself
	isAside        // it is aside because of its node, and takes no calls any more
	isLeaving      // it is aside because of its node, and takes calls until it drains
	parts
)

// company is the pods of a workload as each of them counts the others. It is counted once,
// and again of a pod whose step is decided: a workload of thousands is judged pod by pod.
type company struct {
	strangers int
	// by counts them for a pod that is set aside, and for one that is replaced in place.
	by [2][parts]int
	// able are those that can take calls, the latest to arrive first.
	able []*member
	// unable are those that might and cannot, those most worth a look first.
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

// mayServe reports whether nothing but its ability keeps the pod from taking calls.
func (m *member) mayServe() bool { return !m.aside && !m.Terminating && m.State == call.Serving }

// part is what the pod is to the others. One whose node is being taken away can take calls
// for a while, which is enough for one that is replaced in place: that waits for it.
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

// others counts the pods beside one of them: those that can take calls, those that cannot
// and wait to be replaced themselves, those that are aside because of their nodes, and how
// many of these take calls until they drain.
func (c *company) others(of *member, inPlace bool) (able, stuck, aside, leaving int) {
	by := c.by[0]
	if inPlace {
		by = c.by[1]
	}
	by[of.part(inPlace)]--
	return c.strangers + by[isAble], by[isStuck], by[isAside] + by[isLeaving], by[isLeaving]
}

// arrived is when the latest of the others that can take calls was first seen.
func (c *company) arrived(of *member) (latest time.Time) {
	if m := firstBut(&c.able, of, (*member).can); m != nil {
		return m.arrived
	}
	return time.Time{}
}

// whyUnable says of one of the others that might take calls, and cannot, why.
func (c *company) whyUnable(of *member) verdict.Unable {
	if m := firstBut(&c.unable, of, (*member).mayServe); m != nil {
		return m.unable()
	}
	return verdict.Unable{}
}

// firstBut is the first of a list beside one of it of which something still holds; nil
// where there is none. Those at its head of which it does not are dropped: it never will again.
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
