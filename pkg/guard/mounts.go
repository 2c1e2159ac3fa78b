// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// FailedMounts are the Events of pods whose volumes cannot be mounted. A container that only
// mounts a Secret waits as one that is being created: the kubelet says why nowhere else.
func FailedMounts() fields.Set {
	return fields.Set{"involvedObject.kind": "Pod", "reason": "FailedMount"}
}

// lacksObject is what the kubelet says of a volume whose Secret, ConfigMap or key in one is
// missing. Mounts fail for many other reasons, most of them for a moment.
var lacksObject = regexp.MustCompile(`^MountVolume\.SetUp failed for volume "([-a-z0-9]{1,63})" : .*?` +
	`((?:secret|configmap)s? "[-.a-z0-9]{1,253}" not found|references non-existent (?:secret|config) key: [-._a-zA-Z0-9]{1,253})`)

// CannotMount says why a pod does not start, by the message of a kubelet's Event: which Secret,
// ConfigMap or key is missing. It is empty where none is, and of a pod that has started.
func CannotMount(pod *corev1.Pod, message string) string {
	if pod.Status.Phase != corev1.PodPending {
		return ""
	}
	return lacks(message)
}

// lacks is a message in short: names, and nothing else of what may be anybody's.
func lacks(message string) string {
	m := lacksObject.FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	return fmt.Sprintf("volume %s cannot be mounted: %s", m[1], m[2])
}

// watchMounts tells of pods whose volumes cannot be mounted, as kubelets do, until ctx is done.
func watchMounts(ctx context.Context, client kubernetes.Interface, tell func(pod corev1.ObjectReference, why string)) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimMount),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = FailedMounts().String() }))
	told := func(o any) {
		if e, ok := o.(*corev1.Event); ok && e.Message != "" {
			tell(e.InvolvedObject, e.Message)
		}
	}
	if _, err := factory.Core().V1().Events().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: told, UpdateFunc: func(_, is any) { told(is) },
	}); err != nil {
		return fmt.Errorf("cannot watch Events: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	<-ctx.Done()
	return nil
}

// trimMount keeps of an Event of whom it is, and what is missing.
func trimMount(obj any) (any, error) {
	if e, ok := obj.(*corev1.Event); ok {
		*e = corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name, UID: e.UID, ResourceVersion: e.ResourceVersion},
			InvolvedObject: corev1.ObjectReference{Namespace: e.InvolvedObject.Namespace, Name: e.InvolvedObject.Name, UID: e.InvolvedObject.UID},
			Message:        lacks(e.Message),
		}
	}
	return obj, nil
}

// cannotMount tells of a guarded pod that does not start for want of what it mounts.
func (g *Guard) cannotMount(of corev1.ObjectReference, why string) {
	pod, err := g.cluster.pods.Pods(of.Namespace).Get(of.Name)
	if err == nil && pod.UID == of.UID && pod.Status.Phase == corev1.PodPending && g.cluster.enabled(of.Namespace) {
		g.report.cannotStart(g.cluster.top(pod), pod.Name, why)
	}
}
