// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/admission"
)

// watchRefusals counts, until ctx is done, the deletions that were refused to controllers,
// according to their Events.
func watchRefusals(ctx context.Context, client kubernetes.Interface, r *report) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "reason=FailedDelete" }))
	informer := factory.Core().V1().Events().Informer()
	count := func(before, after any) {
		is, ok := after.(*corev1.Event)
		if !ok || !strings.Contains(is.Message, admission.DeletePolicy) {
			return
		}
		n := max(1, is.Count)
		if was, ok := before.(*corev1.Event); ok {
			n -= max(1, was.Count)
		}
		r.metrics.refused.WithLabelValues("controller").Add(float64(max(0, n)))
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, old bool) {
			if !old { // Events from before this process started are not counted
				count(nil, o)
			}
		},
		UpdateFunc: func(was, is any) { count(was, is) },
	}); err != nil {
		return fmt.Errorf("cannot watch Events: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	<-ctx.Done()
	return nil
}
