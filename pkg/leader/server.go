// SPDX-License-Identifier: Apache-2.0

package leader

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
)

// serverManager is the field manager of only call.ServerAnnotation and
// FormerServerAnnotation of the guards' lease, so that the API server records when they
// were written. Neither a pod nor the files with the URL show with which server of the
// default project the pod started, and a guard may start with another server than the guard
// before it.
const serverManager = "callguard-livekit-url"

// RecordServer records which LiveKit server the default project has, if it differs from the
// recorded one, and returns since when by the API server's clock; zero if there never was
// another. Only the leading guard writes. In a guard that does not lead and has another
// server than the leader it returns an error.
func RecordServer(ctx context.Context, client kubernetes.Interface, namespace, server string, leads func() bool) (time.Time, error) {
	leases := client.CoordinationV1().Leases(namespace)
	lease, err := leases.Get(ctx, LeaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && leads() { // without an election there is no lease yet
		lease, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName, Namespace: namespace}}, metav1.CreateOptions{})
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read Lease %s/%s, which tells since when callguard's own LiveKit is the same: %w", namespace, LeaseName, err)
	}
	if before := lease.Annotations[call.ServerAnnotation]; before != server {
		if !leads() {
			return time.Time{}, fmt.Errorf("the drain-guard that leads has not recorded that callguard's own LiveKit is %s", server)
		}
		annotations := map[string]any{call.ServerAnnotation: server, call.FormerServerAnnotation: nil}
		if before != "" {
			annotations[call.FormerServerAnnotation] = before
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
		if err != nil {
			return time.Time{}, err
		}
		lease, err = leases.Patch(ctx, LeaseName, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: serverManager})
		if err != nil {
			return time.Time{}, fmt.Errorf("cannot record callguard's own LiveKit in Lease %s/%s: %w", namespace, LeaseName, err)
		}
	}
	if lease.Annotations[call.FormerServerAnnotation] == "" {
		return time.Time{}, nil
	}
	i := slices.IndexFunc(lease.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == serverManager && e.Time != nil })
	if i < 0 {
		return time.Time{}, fmt.Errorf("lease %s/%s does not tell since when callguard's own LiveKit is %s; if it is since the oldest pod, delete its annotation %s", namespace, LeaseName, server, call.FormerServerAnnotation)
	}
	return lease.ManagedFields[i].Time.Time, nil
}
