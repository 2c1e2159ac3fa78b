// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"cmp"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"
	"time"
)

// The model of a day: calls come and go, a HorizontalPodAutoscaler has as many pods as they
// need, whoever is one too many is set aside and goes after its last call, and a node
// autoscaler adds nodes where pods find no room and removes nodes that have been empty for
// ten minutes. It says what nodes cost beyond those that the replicas would fill.
const (
	modelStep     = 10 * time.Second
	modelDay      = 24 * time.Hour
	modelHours    = 30 * time.Hour
	modelWarm     = 6 * time.Hour    // is not counted
	modelStarts   = 30 * time.Second // a pod
	modelSteady   = 5 * time.Minute  // of the HorizontalPodAutoscaler, before it shrinks
	modelUnneeded = 10 * time.Minute // an empty node
	modelTarget   = 5                // calls a pod
	modelCap      = 20               // that a pod takes
)

// modelLoad is what comes in over a day, and how many pods a node holds.
type modelLoad struct {
	low, high float64 // calls at once, at night and at noon
	mean      time.Duration
	slots     int
	near      bool // new pods go to the fullest node, as with pod affinity, and not to the emptiest
}

type modelPod struct {
	name  string
	node  *modelNode
	aside bool
	ready time.Duration
	ends  []time.Duration // of its calls
}

type modelNode struct {
	name  string
	pods  []*modelPod
	empty time.Duration // since when; negative while it is not
}

type model struct {
	modelLoad

	random   *rand.Rand
	now      time.Duration
	nodes    []*modelNode
	pods     []*modelPod
	made     int
	replicas int
	wanted   []modelWish
	// What it comes to, in steps.
	had, needed, aside int
}

type modelWish struct {
	at time.Duration
	n  int
}

func (m *model) serving() []*modelPod {
	return slices.DeleteFunc(slices.Clone(m.pods), func(p *modelPod) bool { return p.aside })
}

// add makes a pod where there is room, or on a new node.
func (m *model) add() {
	var at *modelNode
	m.random.Shuffle(len(m.nodes), func(i, j int) { m.nodes[i], m.nodes[j] = m.nodes[j], m.nodes[i] })
	for _, n := range m.nodes {
		if len(n.pods) < m.slots && (at == nil || m.near == (len(n.pods) > len(at.pods)) && len(n.pods) != len(at.pods)) {
			at = n
		}
	}
	m.made++
	if at == nil {
		at = &modelNode{name: fmt.Sprint("node-", m.made)}
		m.nodes = append(m.nodes, at)
	}
	p := &modelPod{name: fmt.Sprintf("pod-%06d", m.random.Intn(1_000_000)), node: at, ready: m.now + modelStarts}
	at.pods, m.pods = append(at.pods, p), append(m.pods, p)
}

// calls has those that are over end, and as many begin as come.
func (m *model) calls() (total int) {
	for _, p := range m.pods {
		p.ends = slices.DeleteFunc(p.ends, func(end time.Duration) bool { return end <= m.now })
		total += len(p.ends)
	}
	at := m.low + (m.high-m.low)*(1-math.Cos(2*math.Pi*m.now.Seconds()/modelDay.Seconds()))/2
	begin := 0
	for q, least := m.random.Float64(), math.Exp(-at/m.mean.Seconds()*modelStep.Seconds()); q > least; begin++ {
		q *= m.random.Float64()
	}
	for range begin {
		if p := m.answers(); p != nil {
			// Most calls are short, and some very long: log-normal, of that mean.
			p.ends = append(p.ends, m.now+time.Duration(math.Exp(math.Log(m.mean.Seconds())-0.5+m.random.NormFloat64())*float64(time.Second)))
			total++
		}
	}
	return total
}

// answers is a pod by chance, the less likely the more calls it has.
func (m *model) answers() *modelPod {
	var able []*modelPod
	free := 0
	for _, p := range m.pods {
		if !p.aside && p.ready <= m.now && len(p.ends) < modelCap {
			able = append(able, p)
			free += modelCap - len(p.ends)
		}
	}
	for _, p := range able {
		if free -= modelCap - len(p.ends); free <= 0 || m.random.Intn(free+modelCap-len(p.ends)) >= free {
			return p
		}
	}
	return nil
}

// scale is the HorizontalPodAutoscaler, and the guard where there are too many pods.
func (m *model) scale(order Order, total int) {
	want := max(2, int(math.Ceil(float64(total)/modelTarget)))
	if math.Abs(float64(total)/float64(modelTarget*max(1, m.replicas))-1) <= 0.1 {
		want = m.replicas
	}
	m.wanted = append(m.wanted, modelWish{m.now, want})
	m.wanted = slices.DeleteFunc(m.wanted, func(w modelWish) bool { return w.at < m.now-modelSteady })
	m.replicas = slices.MaxFunc(m.wanted, func(a, b modelWish) int { return cmp.Compare(a.n, b.n) }).n
	serving := m.serving()
	for range m.replicas - len(serving) {
		m.add()
	}
	var candidates []Candidate
	for _, p := range serving {
		candidates = append(candidates, Candidate{Name: p.name, Node: p.node.name, Running: true, Ready: p.ready <= m.now, Known: true, Calls: len(p.ends)})
	}
	for _, l := range Leavers(order, candidates, len(serving)-m.replicas, nil) {
		serving[slices.IndexFunc(serving, func(p *modelPod) bool { return p.name == l.Name })].aside = true
	}
}

// leave has those go that are aside and idle, and nodes that have long been empty.
func (m *model) leave() {
	gone := func(p *modelPod) bool { return p.aside && len(p.ends) == 0 }
	m.pods = slices.DeleteFunc(m.pods, gone)
	for _, n := range m.nodes {
		was := len(n.pods)
		n.pods = slices.DeleteFunc(n.pods, gone)
		switch {
		case len(n.pods) > 0:
			n.empty = -1
		case was > 0:
			n.empty = m.now
		}
	}
	m.nodes = slices.DeleteFunc(m.nodes, func(n *modelNode) bool {
		return len(n.pods) == 0 && n.empty >= 0 && m.now-n.empty >= modelUnneeded
	})
}

// over is the node-hours above those needed, in per cent, and the pods that are aside on
// average.
func (l modelLoad) over(order Order, seed int64) (percent, aside float64) {
	m := &model{modelLoad: l, random: rand.New(rand.NewSource(seed)), replicas: 2}
	steps := 0
	for ; m.now < modelHours; m.now += modelStep {
		total := m.calls()
		if m.now%(2*modelStep) == 0 {
			m.scale(order, total)
		}
		m.leave()
		if m.now < modelWarm {
			continue
		}
		steps++
		m.had += len(m.nodes)
		m.needed += max(1, (m.replicas+l.slots-1)/l.slots)
		m.aside += len(m.pods) - len(m.serving())
	}
	return 100 * (float64(m.had)/float64(m.needed) - 1), float64(m.aside) / float64(steps)
}

// TestNodeHours: what packed costs in nodes beyond those needed, in four loads. The pods
// that leave keep their calls whichever they are, so it costs nothing but some more of them.
func TestNodeHours(t *testing.T) {
	for name, tc := range map[string]struct {
		load modelLoad
		most float64 // per cent
	}{
		"ADay":       {modelLoad{low: 10, high: 200, mean: 6 * time.Minute, slots: 4}, 12},
		"LongCalls":  {modelLoad{low: 10, high: 200, mean: 20 * time.Minute, slots: 4}, 22},
		"Steady":     {modelLoad{low: 40, high: 60, mean: 6 * time.Minute, slots: 4}, 21},
		"LargeNodes": {modelLoad{low: 10, high: 200, mean: 6 * time.Minute, slots: 10}, 14},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			average := func(days int64, order Order, near bool) (over, aside float64) {
				load := tc.load
				load.near = near
				for seed := range days {
					o, a := load.over(order, seed)
					over, aside = over+o/float64(days), aside+a/float64(days)
				}
				return over, aside
			}
			packed, aside := average(6, Packed, false)
			near, _ := average(2, Packed, true)
			fewest, fewer := average(2, FewestCalls, false)
			t.Logf("%.1f %% above need, with pod affinity %.1f %%; %.1f %% where only calls count; pods aside %.2f, and %.2f", packed, near, fewest, aside, fewer)
			if packed > tc.most || near > tc.most {
				t.Errorf("packed has %.1f %% more node-hours than are needed, and %.1f %% with pod affinity; want %.0f %% at most", packed, near, tc.most)
			}
			if fewest < 1.4*packed {
				t.Errorf("without it are %.1f %%: the order makes no difference, and the model shows nothing", fewest)
			}
			if aside > fewer+1 {
				t.Errorf("%.2f pods are aside on average, and %.2f where only calls count; want one more at most", aside, fewer)
			}
		})
	}
}
