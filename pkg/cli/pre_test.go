// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

// may makes the stage grant the user every right except these, as VERB RESOURCE.
func (s *stage) may(not ...string) {
	s.fake.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create, _ := a.(clienttesting.CreateActionImpl)
		review, is := create.GetObject().(*authorizationv1.SelfSubjectAccessReview)
		if !is {
			return true, nil, fmt.Errorf("asked with a %T", create.GetObject())
		}
		of := review.Spec.ResourceAttributes
		review.Status.Allowed = !slices.Contains(not, of.Verb+" "+of.Resource)
		return true, review, nil
	})
}

func kubelet(name, version string) *corev1.Node {
	node := newNode(false)
	node.Name, node.Status.NodeInfo.KubeletVersion = name, version
	return node
}

// TestDoctorBefore: problems of an install are found before it, with what to do.
func TestDoctorBefore(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		objects []runtime.Object
		change  func(*stage)
		want    string
		err     error
	}{
		"Well": {reason: "How to go on is said.", want: "OK install nothing of this keeps callguard from being installed: helm install callguard charts/callguard"},
		"Kubernetes": {reason: "Helm would refuse.", err: errFailed, want: "FAIL kubernetes v1.33.4 is older than 1.34.0, and Helm refuses to install the charts; upgrade the control plane", change: func(s *stage) {
			if d, is := s.fake.Discovery().(*fakediscovery.FakeDiscovery); is {
				d.FakedServerVersion = &version.Info{GitVersion: "v1.33.4"}
			}
		}},
		"NoPolicies": {reason: "Nothing would hold calls.", err: errFailed, want: "FAIL api-server v1.37.1 has no ValidatingAdmissionPolicy", change: func(s *stage) { s.fake.Resources[1].APIResources = nil }},
		"Kubelets": {reason: "Kubernetes allows it, but it is untested.", err: errWarned, objects: []runtime.Object{kubelet("old", "v1.32.1")},
			want: "WARN nodes 1 of 2 nodes are older than 1.34.0, with which callguard was not tested: old (v1.32.1); upgrade them"},
		"KubeletUnknown": {reason: "Unknown is not new enough.", err: errWarned, objects: []runtime.Object{kubelet("odd", "")}, want: "WARN nodes of 1 of 2 nodes the version is not known: odd"},
		"NodesUnread":    {reason: "Which right is missing is said.", err: errWarned, want: "WARN nodes not checked: cannot list nodes:", change: func(s *stage) { s.refuse("list", "nodes") }},
		"OtherAdapter": {reason: "The advice says what to set.", err: errWarned, change: func(s *stage) { s.owners = map[string]string{"v1beta1": "prometheus-adapter"} },
			want: "WARN metrics-api APIService v1beta1.custom.metrics.k8s.io is served by Service callguard-system/prometheus-adapter: with its defaults the chart refuses to be installed; " +
				"have both serve: --set metricsAdapter.mode=compose --set metricsAdapter.compose.service.namespace=callguard-system --set metricsAdapter.compose.service.name=prometheus-adapter"},
		"MetricsUnread": {reason: "Unreadable objects are reported.", err: errWarned, change: func(s *stage) { s.apiServices = errors.New("no answer") }, want: "WARN metrics-api not checked: cannot read APIService v1beta1.custom.metrics.k8s.io: no answer"},
		"Rights": {reason: "Each missing right is named.", err: errFailed, change: func(s *stage) { s.may("create apiservices", "create deployments") },
			want: "FAIL rights you need the right to create apiservices.apiregistration.k8s.io, deployments.apps in namespace callguard-system; install as somebody with ClusterRole cluster-admin"},
		"Escalate": {reason: "Kubernetes lets nobody grant rights that they do not have.", err: errWarned, change: func(s *stage) { s.may("escalate clusterroles") }, want: "WARN rights you may create all that the chart has, and not escalate clusterroles"},
		"Budget": {reason: "Drains would give up.", err: errWarned, objects: []runtime.Object{newPod("a"), otherBudget("second")},
			want: "WARN other-budgets PodDisruptionBudget voice/second matches pods with label callguard.dev/guarded, such as a"},
		"Installed": {reason: "Another command checks it.", err: errWarned, objects: []runtime.Object{newGuardDeployment()}, want: "WARN callguard a Deployment, a lease or an admission policy of callguard already exists"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBareStage(t, append([]runtime.Object{kubelet("node-1", "v1.37.1")}, tc.objects...)...)
			s.owners = map[string]string{}
			s.may()
			if tc.change != nil {
				tc.change(s)
			}
			var out bytes.Buffer
			err := report(&out, s.examineBefore(t.Context()), "")
			if !errors.Is(err, tc.err) {
				t.Errorf("%s It ends with %v; want %v", tc.reason, err, tc.err)
			}
			if !slices.ContainsFunc(strings.Split(out.String(), "\n"), func(line string) bool { return strings.HasPrefix(strings.Join(strings.Fields(line), " "), tc.want) }) {
				t.Errorf("%s It does not say %q:\n%s", tc.reason, tc.want, &out)
			}
			if (tc.err == errFailed) == strings.Contains(out.String(), "nothing of this keeps") { //nolint:errorlint // the very one
				t.Errorf("%s It says how to install, or does not:\n%s", tc.reason, &out)
			}
			for _, a := range s.fake.Actions() {
				if !slices.Contains([]string{"get", "list"}, a.GetVerb()) && a.GetResource().Resource != "selfsubjectaccessreviews" {
					t.Errorf("it is to change nothing, and does %s %s", a.GetVerb(), a.GetResource().Resource)
				}
			}
			out.Reset()
			_ = report(&out, s.examineBefore(t.Context()), outputJSON)
			if !strings.Contains(out.String(), `"kind": "FindingList"`) {
				t.Errorf("with -o json it says %s", &out)
			}
		})
	}
}
