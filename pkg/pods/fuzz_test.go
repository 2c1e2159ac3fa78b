// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// FuzzFromPod: whatever pod the API server has, it is read without a panic, it has a witness while it runs, and what is kept
// of it in memory is read as the whole pod is.
func FuzzFromPod(f *testing.F) {
	seed, err := json.Marshal(fullPod())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"metadata":{"annotations":{"callguard.dev/witnesses":"worker","callguard.dev/agent-container":"agent"}},"spec":{"containers":[{"name":"agent","ports":[{"containerPort":8081}]},{"name":"log"}]},"status":{"containerStatuses":[{"name":"log","state":{"running":{}}},{"name":"agent","state":{"waiting":{}}}]}}`))
	f.Add([]byte(`{"metadata":{"annotations":{"callguard.dev/gate-port":"-1"},"ownerReferences":[{"controller":true}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var pod corev1.Pod
		if err := json.Unmarshal(text, &pod); err != nil {
			return
		}
		whole, mistakes := FromPod(&pod)
		if whole.Running && len(whole.Witnesses) == 0 {
			t.Errorf("nobody counts the calls of %s", text)
		}
		trimmed, err := trim(pod.DeepCopy())
		if err != nil {
			t.Fatal(err)
		}
		kept, again := FromPod(trimmed.(*corev1.Pod))
		if diff := cmp.Diff(whole, kept); diff != "" || len(mistakes) != len(again) {
			t.Errorf("%s is read as something else once it is trimmed, with mistakes %v and %v:\n%s", text, mistakes, again, diff)
		}
	})
}
