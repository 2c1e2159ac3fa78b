// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// call puts an agent of each pod into its own room, and waits until every pod is known
// and every call is counted. The leave that it returns is never nil.
func (b *bench) call(ctx context.Context, pods []corev1.Pod) (leave func(), err error) {
	lksdk.SetLogger(logger.GetDiscardLogger()) // otherwise pion logs every step
	b.printf(b.progress, "putting %d agents into rooms\n", b.calls)
	var mu sync.Mutex
	var leaves []func()
	leave = func() {
		var all sync.WaitGroup
		for _, l := range leaves {
			all.Go(l)
		}
		all.Wait()
	}
	group, joining := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range b.calls {
		pod := &pods[i%len(pods)]
		group.Go(func() error {
			l, err := lab.Join(joining, b.stage.LiveKits[0], lab.Participant{
				Room: fmt.Sprintf("bench-%d", i), Identity: fmt.Sprintf("agent-%d", i), Kind: lksdk.ParticipantAgent,
				Attributes: map[string]string{call.PodAttribute: string(pod.UID)},
			})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			leaves = append(leaves, l)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return leave, err
	}
	what := fmt.Sprintf("%d pods with %d calls are served", b.pods, b.calls)
	return leave, lab.Eventually(ctx, time.Minute, what, func() (bool, error) {
		body, err := b.http.get(ctx, metricsOfPods("*"), asJSON)
		if err != nil {
			return false, err
		}
		var list v1beta2.MetricValueList
		if err := json.Unmarshal(body, &list); err != nil {
			return false, fmt.Errorf("cannot read the answer: %w", err)
		}
		var calls int64
		for _, v := range list.Items {
			calls += v.Value.Value()
		}
		if len(list.Items) != b.pods || int(calls) != b.calls {
			return false, fmt.Errorf("%d pods with %d calls are served so far", len(list.Items), calls)
		}
		return true, nil
	})
}
