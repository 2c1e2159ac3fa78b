// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/test/lab"
)

func cpus(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }

// TestImpatience tries everything with which people get rid of a pod. Each is
// refused, or waits, and says what to do.
func TestImpatience(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	s.fill()
	pods, node := s.pods(all), s.nodes[0]
	for _, args := range [][]string{
		{"delete", "pod", pods[0], "--wait=false"},
		{"delete", "pod", pods[0], "--wait=false", "--grace-period=1"},
		{"delete", "pod", pods[0], "--wait=false", "--grace-period=0", "--force"},
		{"delete", "pods", "--all", "--wait=false", "--now"},
	} {
		out, err := s.kubectl(args...)
		if err == nil || !strings.Contains(out, "callguard") {
			t.Errorf("kubectl %s: %v: %s; want a refusal that names callguard", strings.Join(args, " "), err, out)
		}
	}
	for _, args := range [][]string{
		{"drain", node, "--disable-eviction", "--timeout=5s"},
		{"drain", node, "--grace-period=1", "--timeout=5s"},
		{"drain", node, "--force", "--grace-period=0", "--timeout=5s"},
	} {
		if out, err := s.kubectl(args...); err == nil {
			t.Errorf("kubectl %s: %s; want an error", strings.Join(args, " "), out)
		}
	}
	s.there(pods...)
	if !s.talking() {
		t.Errorf("calls ended: %+v", s.callers.Report())
	}
	// The cordon of the drains stands: the pod goes when its call is over, with all
	// of its grace, whatever the drain says.
	leavers := s.pods(on(node))
	drain := s.drain(node, "--grace-period=1")
	s.hangUpOn(leavers...)
	s.ends(drain, inTime)
	s.noneDropped()
}

// TestDeleteDeployment deletes the Deployment of talking agents. The pods stay
// until their calls are over, and then go.
func TestDeleteDeployment(t *testing.T) {
	t.Parallel()
	for _, cascade := range []string{"background", "foreground"} {
		t.Run(cascade, func(t *testing.T) {
			t.Parallel()
			s := tell(t, 1)
			s.deploy(2)
			s.fill()
			pods := s.pods(all)
			s.does("delete", "deployment", lab.AgentName, "--cascade="+cascade, "--wait=false")
			s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return len(s.pods(leaving)) == 2, nil })
			s.there(pods...)
			if !s.talking() {
				t.Errorf("calls ended: %+v", s.callers.Report())
			}
			for _, pod := range pods {
				s.hangUpOn(pod)
				s.gone(inTime, pod)
			}
			s.eventually(inTime, "the Deployment is gone", func() (bool, error) {
				_, err := stage.Client.AppsV1().Deployments(s.ns).Get(t.Context(), lab.AgentName, metav1.GetOptions{})
				return apierrors.IsNotFound(err), nil
			})
			s.bounds(2, 0)
			s.noneDropped()
		})
	}
}

// TestDeleteDeploymentOrphan leaves the ReplicaSet behind. Nobody wants its pods
// to go, except one that was aside already: it has no owner left.
func TestDeleteDeploymentOrphan(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(3)
	s.fill()
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=2")
	s.eventually(inTime, "one pod leaves", func() (bool, error) { return len(s.pods(leaving)) == 1, nil })
	leaver := s.pods(leaving)
	s.does("delete", "deployment", lab.AgentName, "--cascade=orphan")
	s.always(10*s1, "three callers talk", func() (bool, error) { return s.talking() && len(s.pods(all)) == 3 && s.watch.able() == 2, nil })
	s.hangUpOn(leaver...)
	s.gone(inTime, leaver...)
	s.does("delete", "replicaset", "--all", "--wait=false")
	s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return len(s.pods(leaving)) == 2, nil })
	s.hangUpAll()
	s.eventually(inTime, "no pod is left", func() (bool, error) { return len(s.pods(all)) == 0, nil })
	s.noneDropped()
}

// TestTaint has Kubernetes evict by a NoExecute taint, past every budget.
func TestTaint(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(2)
	s.fill()
	pods := s.pods(all)
	s.does("taint", "node", s.nodes[0], "out=now:NoExecute")
	s.always(10*s1, "both callers talk", func() (bool, error) { return s.talking(), nil })
	s.there(pods...)
	s.noneDropped()
}

// TestOperatorsWish lets one pod go because an operator says so.
func TestOperatorsWish(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	s.fill()
	leaver := s.pods(all)[0]
	s.does("annotate", "pod", leaver, "callguard.dev/leave=please")
	s.eventually(inTime, "it takes no new call", func() (bool, error) { return len(s.pods(leaving)) == 1, nil })
	s.there(leaver)
	s.hangUpOn(leaver)
	s.gone(inTime, leaver)
	s.bounds(3, 2)
	s.noneDropped()
}

// TestDeleteNamespace works with talking agents in it: the kubelet ends them with
// their grace, which callguard does not stretch.
func TestDeleteNamespace(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(2)
	s.fill()
	s.watch.unlocked()
	s.does("delete", "namespace", s.ns, "--wait=false")
	s.eventually(soon, "both agents were asked to end", func() (bool, error) {
		for _, a := range s.agents() {
			if !a.Draining {
				return false, nil
			}
		}
		return len(s.agents()) == 2, nil
	})
	s.hangUpAll()
	s.eventually(inTime, "the namespace is gone", func() (bool, error) {
		_, err := stage.Client.CoreV1().Namespaces().Get(t.Context(), s.ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	s.noneDropped()
}
