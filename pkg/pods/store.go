// SPDX-License-Identifier: Apache-2.0

// Package pods knows which guarded pods live now, where they run and which workload they
// belong to, from informers that are limited to that.
//
// It counts no calls and writes nothing. A pod that is deleted or has ended is removed at
// once.
package pods

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// The kinds of objects that have metrics, as Kubernetes writes them.
const (
	Deployment  = "Deployment"
	StatefulSet = "StatefulSet"
	ReplicaSet  = "ReplicaSet"
	Namespace   = "Namespace"
	Node        = "Node"
)

// Object is a workload, a namespace or a node: an object that has metrics.
type Object struct {
	types.NamespacedName

	Kind   string
	UID    types.UID
	Labels map[string]string
	// Owner is the controller of a ReplicaSet.
	Owner call.Owner
	// Guarded reports whether its pod template has call.GuardedLabel.
	Guarded bool
	// Demand describes which waiting calls its pods could take, by the template of a
	// Deployment or StatefulSet; AsksRooms reports whether LiveKit is asked about them.
	Demand    call.Demand
	AsksRooms bool
	// Born is when a Deployment or StatefulSet was created.
	Born time.Time
	// Silent reports whether a node does not report to the control plane, or is not ready.
	Silent bool
}

// Store holds the guarded pods of enabled namespaces, and what they belong to.
// Its methods are safe for concurrent use; what they return must not be changed.
type Store struct {
	mu      sync.RWMutex
	byName  map[string]map[string]*call.Pod // namespace, name; of every namespace
	byUID   map[types.UID]*call.Pod
	objects map[string]map[types.NamespacedName]*Object // kind
	byOwner map[types.UID]*Object                       // ReplicaSets
	members map[ref]map[types.UID]*call.Pod             // of workloads and nodes
	entered map[types.UID][]ref                         // where in members a pod is
	owned   map[types.UID]map[types.UID]*call.Pod       // pods by their owner
	// sorted are the pods of a namespace by name, until one changes.
	sorted sync.Map
	// witnesses are the lists of witnesses that pods share.
	witnesses map[string][]call.Witness
}

// ref names a workload or a node.
type ref struct {
	kind string
	name types.NamespacedName
}

// NewStore returns an empty Store.
func NewStore() *Store {
	return &Store{
		byName:  map[string]map[string]*call.Pod{},
		byUID:   map[types.UID]*call.Pod{},
		objects: map[string]map[types.NamespacedName]*Object{},
		byOwner: map[types.UID]*Object{},
		members: map[ref]map[types.UID]*call.Pod{},
		entered: map[types.UID][]ref{},
		owned:   map[types.UID]map[types.UID]*call.Pod{},

		witnesses: map[string][]call.Witness{},
	}
}

// SetPod adds or updates a pod, which belongs to the Store from then on, and reports whether it is new.
func (s *Store) SetPod(p *call.Pod) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sorted.Delete(p.Namespace)
	s.share(p)
	names := s.byName[p.Namespace]
	if names == nil {
		names = map[string]*call.Pod{}
		s.byName[p.Namespace] = names
	}
	if old := names[p.Name]; old != nil && old.UID != p.UID {
		s.drop(old.UID)
	}
	names[p.Name] = p
	fresh = s.byUID[p.UID] == nil
	s.drop(p.UID)
	s.byUID[p.UID] = p
	put(s.owned, p.Owner.UID, p)
	s.enter(p)
	return fresh
}

// share makes a pod share what thousands have in common, and keeps the two texts together that
// a list of them all reads of each. Such a list mostly waits for memory.
func (s *Store) share(p *call.Pod) {
	both := string(p.UID) + p.Name
	p.UID, p.Name = types.UID(both[:len(p.UID)]), both[len(p.UID):]
	p.Namespace = unique.Make(p.Namespace).Value()
	p.Project = unique.Make(p.Project).Value()
	key := fmt.Sprint(p.Witnesses)
	if s.witnesses[key] == nil {
		s.witnesses[key] = p.Witnesses
	}
	p.Witnesses = s.witnesses[key]
}

// enter adds a pod to the workloads and the node for which it counts.
func (s *Store) enter(p *call.Pod) {
	owner, top := s.workload(p)
	refs := []ref{{Node, types.NamespacedName{Name: p.Node}}}
	for _, o := range []call.Owner{owner, top} {
		if o.Kind != "" {
			refs = append(refs, ref{o.Kind, types.NamespacedName{Namespace: p.Namespace, Name: o.Name}})
		}
	}
	for _, r := range refs {
		put(s.members, r, p)
	}
	s.entered[p.UID] = refs
}

// leave removes a pod from them.
func (s *Store) leave(uid types.UID) {
	for _, r := range s.entered[uid] {
		remove(s.members, r, uid)
	}
	delete(s.entered, uid)
}

// drop removes a pod, except from the index by name.
func (s *Store) drop(uid types.UID) {
	if p := s.byUID[uid]; p != nil {
		remove(s.owned, p.Owner.UID, uid)
	}
	s.leave(uid)
	delete(s.byUID, uid)
}

// enterAnew enters the pods of an owner again after that has changed.
func (s *Store) enterAnew(owner types.UID) {
	for uid, p := range s.owned[owner] {
		s.leave(uid)
		s.enter(p)
	}
}

func put[K comparable](groups map[K]map[types.UID]*call.Pod, key K, p *call.Pod) {
	if groups[key] == nil {
		groups[key] = map[types.UID]*call.Pod{}
	}
	groups[key][p.UID] = p
}

func remove[K comparable](groups map[K]map[types.UID]*call.Pod, key K, uid types.UID) {
	if delete(groups[key], uid); len(groups[key]) == 0 {
		delete(groups, key)
	}
}

// DeletePod removes the pod of that name and UID.
func (s *Store) DeletePod(name types.NamespacedName, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(uid)
	if old := s.byName[name.Namespace][name.Name]; old == nil || old.UID != uid {
		return // a StatefulSet has created the next one of that name
	}
	s.sorted.Delete(name.Namespace)
	delete(s.byName[name.Namespace], name.Name)
	if len(s.byName[name.Namespace]) == 0 {
		delete(s.byName, name.Namespace)
	}
}

// SetObject adds or updates a workload, a node, or an enabled namespace, and reports
// whether it is new. An object with the name of an earlier one is new, too.
func (s *Store) SetObject(o *Object) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[o.Kind] == nil {
		s.objects[o.Kind] = map[types.NamespacedName]*Object{}
	}
	old := s.objects[o.Kind][o.NamespacedName]
	s.objects[o.Kind][o.NamespacedName] = o
	if o.Kind == ReplicaSet {
		s.byOwner[o.UID] = o
		if old == nil || old.UID != o.UID || old.Owner != o.Owner {
			s.enterAnew(o.UID)
		}
	}
	return old == nil || old.UID != o.UID
}

// DeleteObject removes an object.
func (s *Store) DeleteObject(kind string, name types.NamespacedName, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == ReplicaSet {
		delete(s.byOwner, uid)
		s.enterAnew(uid)
	}
	if old := s.objects[kind][name]; old != nil && old.UID == uid { // otherwise it was created again
		delete(s.objects[kind], name)
	}
}

// ByUID returns a guarded pod of an enabled namespace, or nil.
func (s *Store) ByUID(uid types.UID) *call.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.byUID[uid]; p != nil && s.enabled(p.Namespace) {
		return p
	}
	return nil
}

// Pod returns a guarded pod of an enabled namespace by its name, or nil.
func (s *Store) Pod(name types.NamespacedName) *call.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.enabled(name.Namespace) {
		return nil
	}
	return s.byName[name.Namespace][name.Name]
}

// In returns the guarded pods of a namespace, or of all if it is empty, that
// keep accepts, sorted by name. Namespaces that are not enabled have none. keep
// must not call the Store.
func (s *Store) In(namespace string, keep func(*call.Pod) bool) []*call.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.in(namespace, keep)
}

// Of returns the guarded pods that count for an object, in any order. Its cost depends on
// their number, not on the size of the namespace, except for a namespace itself.
func (s *Store) Of(kind string, name types.NamespacedName) []*call.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if kind == Namespace {
		return s.in(name.Name, func(*call.Pod) bool { return true })
	}
	return s.counting(s.members[ref{kind, name}])
}

// By returns the guarded pods of a namespace, or of all if it is empty, grouped
// by the objects of a kind for which they count.
func (s *Store) By(kind, namespace string) map[types.NamespacedName][]*call.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	groups := map[types.NamespacedName][]*call.Pod{}
	for _, p := range s.in(namespace, func(*call.Pod) bool { return true }) {
		if kind == Namespace {
			name := types.NamespacedName{Name: p.Namespace}
			groups[name] = append(groups[name], p)
			continue
		}
		for _, r := range s.entered[p.UID] {
			if r.kind == kind {
				groups[r.name] = append(groups[r.name], p)
			}
		}
	}
	return groups
}

// counting returns the pods in enabled namespaces.
func (s *Store) counting(group map[types.UID]*call.Pod) []*call.Pod {
	found := make([]*call.Pod, 0, len(group))
	for _, p := range group {
		if s.enabled(p.Namespace) {
			found = append(found, p)
		}
	}
	return found
}

func (s *Store) in(namespace string, keep func(*call.Pod) bool) []*call.Pod {
	namespaces := []string{namespace}
	if namespace == "" {
		namespaces = slices.Sorted(maps.Keys(s.byName))
	}
	most := 0
	for _, namespace := range namespaces {
		most += len(s.byName[namespace])
	}
	found := make([]*call.Pod, 0, most)
	for _, namespace := range namespaces {
		if !s.enabled(namespace) {
			continue
		}
		for _, p := range s.byNames(namespace) {
			if keep(p) {
				found = append(found, p)
			}
		}
	}
	return found
}

// byNames returns the pods of a namespace, sorted by name. The caller holds the lock for
// reading.
func (s *Store) byNames(namespace string) []*call.Pod {
	if list, ok := s.sorted.Load(namespace); ok {
		return list.([]*call.Pod)
	}
	list := slices.SortedFunc(maps.Values(s.byName[namespace]), (*call.Pod).Compare)
	s.sorted.Store(namespace, list)
	return list
}

// Enabled reports whether an administrator has labelled the namespace.
func (s *Store) Enabled(namespace string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.enabled(namespace)
}

func (s *Store) enabled(namespace string) bool {
	return s.objects[Namespace][types.NamespacedName{Name: namespace}] != nil
}

// Object returns an object by kind and name, or nil.
func (s *Store) Object(kind string, name types.NamespacedName) *Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects[kind][name]
}

// Objects returns the objects of a kind that keep accepts, in a namespace or in
// all if it is empty, sorted by name.
func (s *Store) Objects(kind, namespace string, keep func(*Object) bool) []*Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*Object
	for _, o := range s.objects[kind] {
		if (namespace == "" || o.Namespace == namespace) && keep(o) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b *Object) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return found
}

// workload returns a pod's owner, and the owner's owner if there is one: a pod of a
// Deployment belongs to its ReplicaSet and to the Deployment, one that was set aside only
// to the Deployment. If the ReplicaSet is gone, its name shows which Deployment created it.
func (s *Store) workload(p *call.Pod) (owner, top call.Owner) {
	if rs := s.byOwner[p.Owner.UID]; rs != nil {
		return p.Owner, rs.Owner
	}
	if p.Owner.Kind == ReplicaSet {
		if name, ok := strings.CutSuffix(p.Owner.Name, "-"+p.Hash); ok && p.Hash != "" {
			return p.Owner, call.Owner{Kind: Deployment, Name: name}
		}
	}
	return p.Owner, call.Owner{}
}

// Workload returns the top owner of a pod: its Deployment, its StatefulSet, or whatever
// else controls it; the zero Owner for a pod without an owner.
func (s *Store) Workload(p *call.Pod) call.Owner {
	s.mu.RLock()
	defer s.mu.RUnlock()
	owner, top := s.workload(p)
	return cmp.Or(top, owner)
}

// Former returns the pods that count for a workload because an earlier workload of the same
// name owned them. Their calls show what the workload will have to take.
func (s *Store) Former(o *Object) []*call.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(s.counting(s.members[ref{o.Kind, o.NamespacedName}]), func(p *call.Pod) bool {
		owner, top := s.workload(p)
		return !former(owner, o) && !former(top, o)
	})
}

func former(owner call.Owner, of *Object) bool {
	return owner.Kind == of.Kind && owner.Name == of.Name && owner.UID != of.UID
}

// Lost reports whether a pod counts as lost with its node: the node is gone or silent, and
// Kubernetes or the guard has given up the pod. Until then it may come back.
func (s *Store) Lost(p *call.Pod) bool {
	if p.Node == "" || p.State == call.Serving && !p.Terminating {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	node := s.objects[Node][types.NamespacedName{Name: p.Node}]
	return node == nil || node.Silent
}

// EachProject calls f for each pod of an enabled namespace about which LiveKit is asked,
// with its LiveKit project and its time of creation. For a workload without pods it passes
// the workload's time of creation, because calls may wait for its first pod. f must not
// call the Store.
func (s *Store) EachProject(f func(call.Project, time.Time)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	named := map[call.Project]bool{}
	for namespace, names := range s.byName {
		if !s.enabled(namespace) {
			continue
		}
		for _, p := range names {
			if p.Asks(call.Rooms) {
				named[p.Project] = true
				f(p.Project, p.Born)
			}
		}
	}
	for _, kind := range []string{Deployment, StatefulSet} {
		for _, o := range s.objects[kind] {
			if o.Guarded && o.AsksRooms && !named[o.Demand.Project] && s.enabled(o.Namespace) {
				f(o.Demand.Project, o.Born)
			}
		}
	}
}

// Taker is something that could take waiting calls: a Deployment, a StatefulSet, or the
// pods of a Namespace that belong to neither.
type Taker struct {
	Kind string
	types.NamespacedName
	call.Demand
}

// Takers returns everything in enabled namespaces that could take waiting calls:
// Deployments and StatefulSets, with or without pods, and pods that belong to none of
// these.
func (s *Store) Takers() []Taker {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var takers []Taker
	for _, kind := range []string{Deployment, StatefulSet} {
		for _, o := range s.objects[kind] {
			if o.Guarded && s.enabled(o.Namespace) {
				takers = append(takers, Taker{kind, o.NamespacedName, o.Demand})
			}
		}
	}
	of := map[Taker]bool{} // one for all pods of a namespace with the same demand
	for namespace, names := range s.byName {
		if !s.enabled(namespace) {
			continue
		}
		for _, p := range names {
			owner, top := s.workload(p)
			top = cmp.Or(top, owner)
			own := top.Kind == Deployment || top.Kind == StatefulSet
			if !own || s.objects[top.Kind][types.NamespacedName{Namespace: namespace, Name: top.Name}] == nil {
				of[Taker{Kind: Namespace, NamespacedName: types.NamespacedName{Namespace: namespace}, Demand: p.Demand}] = true
			}
		}
	}
	return slices.AppendSeq(takers, maps.Keys(of))
}
