// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
)

// TestWatchAsksLittle watches 5,000 pods of one namespace, and of fifty, for ten minutes, with a simulated clock: fewer than
// one request a second, counting each page of the list.
func TestWatchAsksLittle(t *testing.T) {
	const pods = 5000
	for _, namespaces := range []int{1, 50} {
		t.Run(fmt.Sprint(namespaces), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				s.cluster.now = time.Now
				s.pages(manyPods(pods, namespaces))
				asked := s.asks()
				common, _, _ := newCommon()
				common.Out, common.ErrOut = io.Discard, io.Discard
				const lasts = 10 * time.Minute
				ctx, cancel := context.WithTimeout(t.Context(), lasts)
				defer cancel()
				began := time.Now()
				if err := (&listOptions{common: common, watch: true, pace: watchPace}).watching(ctx, s.cluster, ""); err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				perSecond := float64(asked.Load()) / took.Seconds()
				t.Logf("%d requests in %s, %.2f a second", asked.Load(), took, perSecond)
				if perSecond >= 1 || took < lasts {
					t.Errorf("%d requests in %s, %.2f a second; want fewer than 1", asked.Load(), took, perSecond)
				}
				if looks := asked.Load() / int64(pods/pageSize+namespaces+1); looks < 5 {
					t.Errorf("it looked %d times in ten minutes", looks)
				}
			})
		})
	}
}

// manyPods are guarded pods, spread over namespaces.
func manyPods(pods, namespaces int) []corev1.Pod {
	var list []corev1.Pod
	for i := range pods {
		list = append(list, *newPod(fmt.Sprintf("agent-%04d", i), in(fmt.Sprintf("team-%02d", i%namespaces)), func(p *corev1.Pod) { p.Labels[call.GuardedLabel] = "true" }))
	}
	return list
}

// pages answers lists of pods page by page, as kube-apiserver does and client-go's fake does not.
func (s *stage) pages(all []corev1.Pod) {
	s.fake.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked, _ := a.(clienttesting.ListActionImpl)
		from, size := 0, int(asked.ListOptions.Limit)
		if _, err := fmt.Sscan(asked.ListOptions.Continue, &from); err != nil {
			from = 0
		}
		if size == 0 {
			size = len(all)
		}
		to := min(from+size, len(all))
		page := &corev1.PodList{Items: all[from:to]}
		if to < len(all) {
			page.Continue = fmt.Sprint(to)
		}
		return true, page, nil
	})
}
