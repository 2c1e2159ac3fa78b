// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/verdict"
)

// The model of a day: calls come and go, a HorizontalPodAutoscaler keeps as many pods as they need,
// surplus pods are set aside and leave after their last call, and a node autoscaler adds nodes where
// pods find no room and removes those that it may. It computes what nodes cost beyond those that the
// replicas would fill.
const (
	modelStep   = 10 * time.Second
	modelDay    = 24 * time.Hour
	modelHours  = 30 * time.Hour
	modelWarm   = 6 * time.Hour    // not counted
	modelStarts = 30 * time.Second // a pod
	modelSteady = 5 * time.Minute  // of the HorizontalPodAutoscaler, before it scales down
	modelRoom   = 4                // a pod accepts this many times the calls of the HorizontalPodAutoscaler's target

	unneededTime   = 10 * time.Minute // --scale-down-unneeded-time of Cluster Autoscaler
	candidateDelay = 5 * time.Minute  // --candidate-delay of drain-guard
)

// modelLoad is the load of a day, and how many pods fit on a node.
type modelLoad struct {
	low, high float64 // calls at once, at night and at noon
	mean      time.Duration
	slots     int
	target    int  // calls a pod
	near      bool // new pods are put on the fullest node, as with pod affinity, instead of the emptiest
}

// The loads of docs/node-autoscalers.md.
func aDay() modelLoad {
	return modelLoad{low: 10, high: 200, mean: 6 * time.Minute, slots: 4, target: 5}
}

func longCalls() modelLoad {
	l := aDay()
	l.mean = 20 * time.Minute
	return l
}

func steadyCalls() modelLoad {
	l := aDay()
	l.low, l.high = 40, 60
	return l
}

func largeNodes() modelLoad {
	l := aDay()
	l.slots = 10
	return l
}

// fortyNodes has 200 pods with a call each on forty nodes at noon.
func fortyNodes() modelLoad {
	l := aDay()
	l.slots, l.target = 5, 1
	return l
}

type modelPod struct {
	object *corev1.Pod
	node   *modelNode
	aside  bool
	born   time.Duration
	ready  time.Duration
	ends   []time.Duration // of its calls
}

type modelNode struct {
	object corev1.Node
	pods   []*modelPod
	empty  time.Duration // since when; negative if not empty
	shut   bool          // accepts no pods
	shy    bool          // accepts pods only if no other has room
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
	over     modelFigures
	steps    int
}

// modelFigures are averages: nodes; nodes needed; how many of the others are empty, hold only calls that
// continue, or exist because the serving pods are spread; and the pods that are aside.
type modelFigures struct{ nodes, needed, empty, calls, spread, aside float64 }

// above is how many more there are than needed, in per cent.
func (f modelFigures) above() float64 { return f.share(f.nodes - f.needed) }

func (f modelFigures) share(nodes float64) float64 { return 100 * nodes / f.needed }

func (f modelFigures) plus(g modelFigures, weight float64) modelFigures {
	return modelFigures{
		f.nodes + weight*g.nodes, f.needed + weight*g.needed, f.empty + weight*g.empty,
		f.calls + weight*g.calls, f.spread + weight*g.spread, f.aside + weight*g.aside,
	}
}

type modelWish struct {
	at time.Duration
	n  int
}

func (m *model) serving() []*modelPod {
	return slices.DeleteFunc(slices.Clone(m.pods), func(p *modelPod) bool { return p.aside })
}

// time is the current time for an autoscaler's clock.
func (m *model) time() time.Time { return time.Unix(0, 0).Add(m.now) }

// add creates a pod where there is room, or on a new node.
func (m *model) add() {
	var at *modelNode
	m.random.Shuffle(len(m.nodes), func(i, j int) { m.nodes[i], m.nodes[j] = m.nodes[j], m.nodes[i] })
	for _, n := range m.nodes {
		switch {
		case n.shut || len(n.pods) >= m.slots:
		case at == nil, at.shy && !n.shy:
			at = n
		case at.shy == n.shy && m.near == (len(n.pods) > len(at.pods)) && len(n.pods) != len(at.pods):
			at = n
		}
	}
	m.made++
	if at == nil {
		at = &modelNode{object: corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", m.made)}}}
		m.nodes = append(m.nodes, at)
	}
	object := scaledPod(fmt.Sprintf("pod-%06d", m.random.Intn(1_000_000)), "ReplicaSet", "true")
	object.UID, object.Spec.NodeName = types.UID(fmt.Sprint(m.made)), at.object.Name
	p := &modelPod{object: object, node: at, born: m.now, ready: m.now + modelStarts}
	at.pods, m.pods = append(at.pods, p), append(m.pods, p)
}

// setAside does what the guard does with a pod that should leave.
func (p *modelPod) setAside() {
	p.aside = true
	p.object = scaledPod(p.object.Name, "Deployment", "on-completion")
	p.object.UID, p.object.Spec.NodeName = types.UID(p.object.Name+"-aside"), p.node.object.Name
	p.object.Annotations[doNotDisrupt] = "true"
}

// scene is what an autoscaler sees. The guard's budget allows no disruption.
func (m *model) scene() scene {
	s := scene{pods: map[string][]*corev1.Pod{}, budgets: agentBudget(0)}
	for _, n := range m.nodes {
		s.nodes = append(s.nodes, n.object)
		for _, p := range n.pods {
			s.pods[n.object.Name] = append(s.pods[n.object.Name], p.object)
		}
	}
	return s
}

func (m *model) remove(gone func(*modelNode) bool) {
	m.nodes = slices.DeleteFunc(m.nodes, func(n *modelNode) bool { return len(n.pods) == 0 && gone(n) })
}

// modelScaler removes nodes.
type modelScaler func(*model)

// ofTheEmpty removes nodes that have been empty for ten minutes, without conditions.
func ofTheEmpty() modelScaler {
	return func(m *model) {
		m.remove(func(n *modelNode) bool { return n.empty >= 0 && m.now-n.empty >= unneededTime })
	}
}

// asKarpenter decides as Karpenter does, with its own times and the default budget of 10 % of the nodes.
func asKarpenter(after time.Duration) modelScaler {
	p := planner{KarpenterTimes: RealKarpenterTimes()}
	p.After = after
	asked := map[*corev1.Pod]disruption{} // valid because the budget stays the same, and a changed pod is a new object
	return func(m *model) {
		m.remove(func(n *modelNode) bool { return n.shut })
		e := estate{scene: m.scene(), slots: map[string]int{}, sizes: []int{1, m.slots / 2, m.slots}, going: map[string]bool{}, most: (len(m.nodes) + 9) / 10, asked: asked}
		for _, n := range m.nodes {
			e.slots[n.object.Name] = m.slots
			if n.shut {
				e.going[n.object.Name] = true
			}
		}
		e.quiet = p.quiet(e.scene, m.time())
		for _, name := range p.act(e, m.time()).nodes {
			m.nodes[slices.IndexFunc(m.nodes, func(n *modelNode) bool { return n.object.Name == name })].shut = true
		}
	}
}

// asClusterAutoscaler decides as Cluster Autoscaler does, and the guard makes pods leave that were on a
// node before its mark.
func asClusterAutoscaler() modelScaler {
	marked, at := map[string]time.Time{}, map[string]time.Duration{}
	return func(m *model) {
		if m.now%time.Minute != 0 {
			return // often enough, because times are minutes
		}
		unneeded := m.scene().unneeded(m.slots, marked)
		for _, n := range m.nodes {
			name := n.object.Name
			if n.shy = slices.Contains(unneeded, name); !n.shy {
				delete(marked, name)
				continue
			}
			if _, was := marked[name]; !was {
				marked[name], at[name] = m.time(), m.now
			}
			if m.now-at[name] < candidateDelay {
				continue
			}
			for _, p := range slices.Clone(n.pods) {
				if !p.aside && p.born < at[name] {
					m.add()
					p.setAside()
				}
			}
		}
		m.remove(func(n *modelNode) bool { return n.shy && m.now-at[n.object.Name] >= unneededTime })
	}
}

// calls ends the calls that are over, and begins new ones.
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
			// Most calls are short, and some very long: log-normal, with that mean.
			p.ends = append(p.ends, m.now+time.Duration(math.Exp(math.Log(m.mean.Seconds())-0.5+m.random.NormFloat64())*float64(time.Second)))
			total++
		}
	}
	return total
}

func (l modelLoad) cap() int { return modelRoom * l.target }

// answers picks a pod at random, the less likely the more calls it has.
func (m *model) answers() *modelPod {
	var able []*modelPod
	free := 0
	for _, p := range m.pods {
		if !p.aside && p.ready <= m.now && len(p.ends) < m.cap() {
			able = append(able, p)
			free += m.cap() - len(p.ends)
		}
	}
	for _, p := range able {
		if free -= m.cap() - len(p.ends); free <= 0 || m.random.Intn(free+m.cap()-len(p.ends)) >= free {
			return p
		}
	}
	return nil
}

// scale does what the HorizontalPodAutoscaler does, and the guard if there are too many pods.
func (m *model) scale(order verdict.Order, total int) {
	want := max(2, int(math.Ceil(float64(total)/float64(m.target))))
	if math.Abs(float64(total)/float64(m.target*max(1, m.replicas))-1) <= 0.1 {
		want = m.replicas
	}
	m.wanted = append(m.wanted, modelWish{m.now, want})
	m.wanted = slices.DeleteFunc(m.wanted, func(w modelWish) bool { return w.at < m.now-modelSteady })
	m.replicas = slices.MaxFunc(m.wanted, func(a, b modelWish) int { return cmp.Compare(a.n, b.n) }).n
	serving := m.serving()
	for range m.replicas - len(serving) {
		m.add()
	}
	var candidates []verdict.Candidate
	for _, p := range serving {
		candidates = append(candidates, verdict.Candidate{Name: p.object.Name, Node: p.node.object.Name, Running: true, Ready: p.ready <= m.now, Known: true, Calls: len(p.ends)})
	}
	for _, l := range verdict.Leavers(order, candidates, len(serving)-m.replicas, nil) {
		serving[slices.IndexFunc(serving, func(p *modelPod) bool { return p.object.Name == l.Name })].setAside()
	}
}

// leave removes the pods that are aside and idle.
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
}

// count adds the current state to the sums.
func (m *model) count() {
	now := modelFigures{nodes: float64(len(m.nodes)), needed: max(1, math.Ceil(float64(m.replicas)/float64(m.slots))), aside: float64(len(m.pods) - len(m.serving()))}
	serve := 0
	for _, n := range m.nodes {
		switch {
		case len(n.pods) == 0:
			now.empty++
		case slices.ContainsFunc(n.pods, func(p *modelPod) bool { return !p.aside }):
			serve++
		default:
			now.calls++
		}
	}
	now.spread = float64(serve) - now.needed
	m.over = m.over.plus(now, 1)
	m.steps++
}

// run simulates a day with the given order of leaving, and a node autoscaler.
func (l modelLoad) run(order verdict.Order, scaler modelScaler, seed int64) modelFigures {
	m := &model{modelLoad: l, random: rand.New(rand.NewSource(seed)), replicas: 2}
	for ; m.now < modelHours; m.now += modelStep {
		total := m.calls()
		if m.now%(2*modelStep) == 0 {
			m.scale(order, total)
		}
		m.leave()
		scaler(m)
		if m.now >= modelWarm {
			m.count()
		}
	}
	return modelFigures{}.plus(m.over, 1/float64(m.steps))
}

// average returns the average of several days.
func (l modelLoad) average(days int64, order verdict.Order, scaler func() modelScaler) (mean modelFigures) {
	for seed := range days {
		mean = mean.plus(l.run(order, scaler(), seed), 1/float64(days))
	}
	return mean
}

func (l modelLoad) withAffinity() modelLoad {
	l.near = true
	return l
}

// TestNodeHours: what packing costs in nodes beyond those needed, under four loads. Leaving pods keep
// their calls whichever they are, so it only costs a few more of them.
func TestNodeHours(t *testing.T) {
	for name, tc := range map[string]struct {
		load modelLoad
		most float64 // per cent
	}{
		"ADay":       {aDay(), 12},
		"LongCalls":  {longCalls(), 22},
		"Steady":     {steadyCalls(), 21},
		"LargeNodes": {largeNodes(), 14},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			packed := tc.load.average(6, verdict.Packed, ofTheEmpty)
			near := tc.load.withAffinity().average(2, verdict.Packed, ofTheEmpty)
			fewest := tc.load.average(2, verdict.FewestCalls, ofTheEmpty)
			t.Logf("%.1f %% above need, with pod affinity %.1f %%; %.1f %% where only calls count; pods aside %.2f, and %.2f", packed.above(), near.above(), fewest.above(), packed.aside, fewest.aside)
			if packed.above() > tc.most || near.above() > tc.most {
				t.Errorf("packed has %.1f %% more node-hours than are needed, and %.1f %% with pod affinity; want %.0f %% at most", packed.above(), near.above(), tc.most)
			}
			if fewest.above() < 1.4*packed.above() {
				t.Errorf("without it are %.1f %%: the order makes no difference, and the model shows nothing", fewest.above())
			}
			if packed.aside > fewest.aside+1 {
				t.Errorf("%.2f pods are aside on average, and %.2f where only calls count; want one more at most", packed.aside, fewest.aside)
			}
		})
	}
}

// TestNodeHoursOfAutoscalers: the same with autoscalers that decide as the real ones do. Karpenter sets
// no mark, so guarded pods would have to be moved to save what it leaves.
func TestNodeHoursOfAutoscalers(t *testing.T) {
	for name, tc := range map[string]struct {
		load modelLoad
		most float64 // per cent, beside Karpenter with a consolidateAfter of 5 minutes
	}{
		"FortyNodes": {fortyNodes(), 15},
		"ADay":       {aDay(), 15},
		"LongCalls":  {longCalls(), 22},
		"Steady":     {steadyCalls(), 21},
		"LargeNodes": {largeNodes(), 15},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tell := func(who string, f modelFigures) {
				t.Logf("%-40s %5.2f nodes, %4.1f %% above need: empty %.1f, calls that go on %.1f, pods apart %.1f", who, f.nodes, f.above(), f.share(f.empty), f.share(f.calls), f.share(f.spread))
			}
			karpenter := tc.load.average(2, verdict.Packed, func() modelScaler { return asKarpenter(5 * time.Minute) })
			tell("Karpenter, consolidateAfter 5m", karpenter)
			tell("the same with pod affinity", tc.load.withAffinity().average(2, verdict.Packed, func() modelScaler { return asKarpenter(5 * time.Minute) }))
			tell("Karpenter, by calls alone", tc.load.average(2, verdict.FewestCalls, func() modelScaler { return asKarpenter(5 * time.Minute) }))
			tell("Cluster Autoscaler, with its marks", tc.load.average(2, verdict.Packed, asClusterAutoscaler))
			if karpenter.above() > tc.most {
				t.Errorf("%.1f %% more node-hours than are needed; want %.0f %% at most", karpenter.above(), tc.most)
			}
		})
	}
}
