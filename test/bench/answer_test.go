// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/metricsapi"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/witness"
)

// BenchmarkAnswer measures callguard's own part of an answer: without API server,
// encoding and LiveKit.
func BenchmarkAnswer(b *testing.B) {
	p := metricsapi.New(manyPods(5000), witness.New(idle{}, idle{}, idle{}, func(*call.Pod) {}), nil, time.Now)
	info := func(resource string) provider.CustomMetricInfo {
		return provider.CustomMetricInfo{GroupResource: schema.ParseGroupResource(resource), Namespaced: true, Metric: metricsapi.ActiveCalls}
	}
	b.Run("AllPods", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list, err := p.GetMetricBySelector(b.Context(), namespace, labels.Everything(), info("pods"), labels.Everything())
			if err != nil || len(list.Items) != 5000 {
				b.Fatalf("%d items, %v", len(list.Items), err)
			}
		}
	})
	for kind, name := range map[string]string{"pods": "agent-42", "deployments.apps": "agent"} {
		b.Run("One "+kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.GetMetricByName(b.Context(), types.NamespacedName{Namespace: namespace, Name: name}, info(kind), labels.Everything()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// idle is a witness that knows no call.
type idle struct{}

func (idle) Reading(_ *call.Pod, now time.Time) call.Reading { return call.Known(0, now) }
func (idle) Fresh(call.Project, time.Time) error             { return nil }

// manyPods is a Store with a Deployment of n pods.
func manyPods(n int) *pods.Store {
	store := pods.NewStore()
	in := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: namespace, Name: name} }
	store.SetObject(&pods.Object{Kind: pods.Namespace, NamespacedName: types.NamespacedName{Name: namespace}, UID: "ns"})
	store.SetObject(&pods.Object{Kind: pods.Deployment, NamespacedName: in("agent"), UID: "d", Guarded: true})
	store.SetObject(&pods.Object{Kind: pods.ReplicaSet, NamespacedName: in("agent-1"), UID: "rs", Guarded: true, Owner: call.Owner{Kind: pods.Deployment, Name: "agent", UID: "d"}})
	for i := range n {
		name := fmt.Sprintf("agent-%d", i)
		store.SetPod(&call.Pod{
			NamespacedName: in(name), UID: types.UID(name), Labels: map[string]string{"app": "agent"}, Node: "node-1", Running: true,
			Owner:     call.Owner{Kind: pods.ReplicaSet, Name: "agent-1", UID: "rs"},
			Witnesses: []call.Witness{call.Rooms}, Project: call.DefaultProject, State: call.Serving,
		})
	}
	return store
}
