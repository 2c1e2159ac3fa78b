// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/utils/lru"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/pods"
)

// QuantileLabel is the label by which the selector of UntilIdle names a quantile, such as
// 0.9: the probability that all calls have ended by then.
const QuantileLabel = "quantile"

// maxTables is for how many workloads of a namespace the lengths of calls are kept: those
// that had calls most recently.
const maxTables = 200

// Lengths has how long the calls of workloads last.
type Lengths struct {
	// Ages returns the minimum ages of the calls of a pod, as far as their beginning was seen.
	Ages func(*call.Pod, time.Time) []time.Duration

	store *pods.Store

	mu sync.Mutex
	of map[string]*lru.Cache // by namespace; of *lengths.Table, by workload
}

// NewLengths returns Lengths that know nothing yet.
func NewLengths(store *pods.Store) *Lengths {
	return &Lengths{
		store: store, of: map[string]*lru.Cache{},
		Ages: func(*call.Pod, time.Time) []time.Duration { return nil },
	}
}

// Table returns the table of a pod's workload, which learns the lengths of its calls. It is
// nil for anything but a guarded pod of the project, so that others cannot influence the
// workload's table.
func (l *Lengths) Table(project call.Project, uid types.UID) *lengths.Table {
	pod := l.store.ByUID(uid)
	if pod == nil || pod.Project != project {
		return nil
	}
	return l.Of(pod)
}

// Of is the same of a pod that is guarded.
func (l *Lengths) Of(pod *call.Pod) *lengths.Table {
	workload := l.store.Workload(pod)
	key := workload.Kind + "/" + workload.Name
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.of[pod.Namespace]
	if known == nil {
		for namespace := range l.of {
			if !l.store.Enabled(namespace) {
				delete(l.of, namespace)
			}
		}
		known = lru.New(maxTables)
		l.of[pod.Namespace] = known
	}
	if table, has := known.Get(key); has {
		return table.(*lengths.Table)
	}
	table := &lengths.Table{}
	known.Add(key, table)
	return table
}

// known returns the lengths of the calls of a workload that is not looked for among others,
// and whether enough of them have ended.
func (l *Lengths) known(kind string, name types.NamespacedName) (*lengths.Curve, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.of[name.Namespace]
	if of == nil {
		return nil, false
	}
	table, has := of.Get(kind + "/" + name.Name)
	if !has {
		return nil, false
	}
	curve := table.(*lengths.Table).Curve()
	return curve, curve.Ended() >= lengths.Enough
}

// quantile returns the quantile that a selector names; the median if it names none.
func quantile(selector labels.Selector) (float64, error) {
	if selector == nil || selector.Empty() {
		return 0.5, nil
	}
	requirements, _ := selector.Requirements()
	wrong := fmt.Errorf("metric selector %q: %s has one label, %q, between 0 and 1; use %s=0.9", selector, UntilIdle, QuantileLabel, QuantileLabel)
	if len(requirements) != 1 {
		return 0, wrong
	}
	r := requirements[0]
	if r.Key() != QuantileLabel || r.Operator() != selection.Equals && r.Operator() != selection.DoubleEquals {
		return 0, wrong
	}
	value, err := strconv.ParseFloat(r.ValuesUnsorted()[0], 64)
	if err != nil || !(value > 0 && value < 1) {
		return 0, wrong
	}
	return value, nil
}

// untilIdle estimates when subjects will hold no call. Subjects of which too little is
// known are left out; if that is so for all, it returns an error.
func (p *Provider) untilIdle(subjects []subject, d description, identifier custom_metrics.MetricIdentifier, selector labels.Selector) ([]custom_metrics.MetricValue, error) {
	chance, err := quantile(selector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	f := p.foreteller()
	values := make([]custom_metrics.MetricValue, 0, len(subjects))
	var unknown error
	for _, s := range subjects {
		calls, at, err := f.calls(s.pods, d.kind == pods.Node)
		if err != nil {
			if unknown == nil {
				unknown = err
			}
			continue
		}
		values = append(values, custom_metrics.MetricValue{
			DescribedObject: custom_metrics.ObjectReference{Kind: d.kind, APIVersion: d.apiVersion, Namespace: s.name.Namespace, Name: s.name.Name},
			Metric:          identifier,
			Timestamp:       metav1.NewTime(at),
			Value:           *resource.NewQuantity(int64(lengths.Over(calls, chance).Round(time.Second)/time.Second), resource.DecimalSI),
		})
	}
	if len(values) == 0 && unknown != nil {
		return nil, unavailable("%s is not known: %v", UntilIdle, unknown)
	}
	return values, nil
}

// foreteller is one look at the calls, for one request.
type foreteller struct {
	*Provider

	now    time.Time
	curves map[*lengths.Table]*lengths.Curve
}

func (p *Provider) foreteller() foreteller {
	return foreteller{p, p.now(), map[*lengths.Table]*lengths.Curve{}}
}

// left is in how many seconds, as likely as not, the calls of those of some pods are over
// that are on their way out; it is not known where none is.
func (f foreteller) left(members []*call.Pod) (seconds float64, known bool) {
	leaving := slices.DeleteFunc(slices.Clone(members), func(pod *call.Pod) bool { return pod.State != call.Aside && pod.State != call.Draining })
	calls, _, err := f.calls(leaving, false)
	if len(leaving) == 0 || err != nil {
		return 0, false
	}
	return lengths.Over(calls, 0.5).Seconds(), true
}

// calls are those of pods, and as of when they are known; or why they are not all known, or
// how long calls like them last. A call that nobody saw begin counts as one that has just
// begun. The pods of DaemonSets stay on a node that is drained.
func (f foreteller) calls(members []*call.Pod, ofNode bool) (calls []lengths.Call, at time.Time, err error) {
	at = f.now
	for _, pod := range slices.SortedFunc(slices.Values(members), (*call.Pod).Compare) { // so that the error names the same pod each time
		if ofNode && pod.Owner.Kind == "DaemonSet" {
			continue
		}
		reading := f.ledger.Reading(pod, f.now)
		n, known := reading.Calls()
		if !known {
			return nil, at, fmt.Errorf("how many calls pod %s holds is not known: %s", pod.NamespacedName, reading.Reason())
		}
		if reading.At().Before(at) {
			at = reading.At()
		}
		if n == 0 {
			continue
		}
		like, err := f.like(pod)
		if err != nil {
			return nil, at, err
		}
		ages := f.lengths.Ages(pod, f.now)
		slices.Sort(ages) // if there are more than count, the oldest ones are in doubt
		for i := range n {
			age := time.Duration(0)
			if i < len(ages) {
				age = ages[i]
			}
			calls = append(calls, lengths.Call{Age: age, Like: like})
		}
	}
	return calls, at, nil
}

// like returns how long the calls of a pod's workload last.
func (f foreteller) like(pod *call.Pod) (*lengths.Curve, error) {
	if !pod.Asks(call.Rooms) && !pod.Asks(call.Gate) {
		return nil, fmt.Errorf("how long calls of pod %s last is not known: only witnesses %q and %q tell of each of them, and the pod names neither", pod.NamespacedName, call.Rooms, call.Gate)
	}
	table := f.lengths.Of(pod)
	if f.curves[table] == nil {
		f.curves[table] = table.Curve()
	}
	curve := f.curves[table]
	if curve.Ended() < lengths.Enough {
		workload := f.store.Workload(pod)
		of := "of " + workload.Kind + " " + pod.Namespace + "/" + workload.Name
		if workload.Name == "" {
			of = "of pods of namespace " + pod.Namespace + " that have no owner"
		}
		return nil, errors.New("how long calls " + of + fmt.Sprintf(" last is not known yet: metrics-adapter has seen %d of them end since it started, and needs %d", curve.Ended(), lengths.Enough))
	}
	return curve, nil
}
