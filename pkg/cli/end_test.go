// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
)

// belongs makes the user alice, who is in these groups.
func (s *stage) belongs(groups ...string) {
	s.fake.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: "alice", Groups: groups}}}, nil
	})
}

// TestEnd ends a pod for a member of the break-glass group who says so, with the pod's own grace, and leaves an Event.
func TestEnd(t *testing.T) {
	const group = "callguard:break-glass"
	cases := map[string]struct {
		reason string
		pod    *corev1.Pod
		groups []string
		typed  string
		yes    bool
		change func(*stage)
		err    string
		event  string
	}{
		"Typed": {reason: "Whoever types the name means it.", groups: []string{group}, typed: "a\n", event: "Pod voice/a was ended by alice; it holds 2 calls: ticket 4711"},
		"Yes":   {reason: "A script says so.", groups: []string{group}, yes: true, event: "Pod voice/a was ended by alice; it holds 2 calls: ticket 4711"},
		"Unknown": {reason: "Not known is not none.", groups: []string{group}, yes: true, change: func(s *stage) { s.calls = map[string]int64{} },
			event: "Pod voice/a was ended by alice; how many calls it holds is not known: no witness of it answers: ticket 4711"},
		"OtherName": {reason: "Another name is no yes.", groups: []string{group}, typed: "yes\n", err: "that is not its name; nothing was changed"},
		"Nobody":    {reason: "Neither is silence.", groups: []string{group}, err: "no answer; nothing was changed"},
		"NoMember":  {reason: "The policy would refuse it.", yes: true, err: "you are not a member of group callguard:break-glass"},
		"NoEvent": {reason: "Calls are never ended without a trace.", groups: []string{group}, yes: true, change: func(s *stage) { s.refuse("create", "events") },
			err: "cannot write an Event about who ended pod voice/a and why: events is forbidden: no right to create; nothing was changed"},
		"Released":  {reason: "It ends by itself.", pod: newPod("a", released(call.NodeDrain)), groups: []string{group}, yes: true, err: "pod voice/a is not held"},
		"Unguarded": {reason: "callguard does not protect this pod.", pod: newPod("a", unguarded), groups: []string{group}, yes: true, err: "pod voice/a is not guarded"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := tc.pod
			if pod == nil {
				pod = newPod("a")
			}
			s := newStage(t, newNamespace(voice, true), newGuardDeployment(), pod)
			s.calls = map[string]int64{"a": 2}
			s.belongs(tc.groups...)
			var deleted []clienttesting.DeleteActionImpl
			var told []*corev1.Event
			s.fake.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				if d, is := a.(clienttesting.DeleteActionImpl); is {
					deleted = append(deleted, d)
				}
				return true, nil, nil
			})
			s.fake.PrependReactor("create", "events", func(a clienttesting.Action) (bool, runtime.Object, error) {
				create, is := a.(clienttesting.CreateActionImpl)
				if event, ok := create.GetObject().(*corev1.Event); is && ok && len(create.CreateOptions.DryRun) == 0 {
					told = append(told, event)
				}
				return true, &corev1.Event{}, nil
			})
			if tc.change != nil {
				tc.change(s)
			}
			common, out, _ := newCommon()
			common.In = bytes.NewBufferString(tc.typed)
			err := (&endOptions{common: common, reason: "ticket 4711", yes: tc.yes}).run(t.Context(), s.cluster, voice, "a")
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || len(deleted)+len(told) > 0 {
					t.Errorf("%s error %v, with %d deletions and %d Events; want %q and none", tc.reason, err, len(deleted), len(told), tc.err)
				}
				return
			}
			if err != nil || len(deleted) != 1 || len(told) != 1 {
				t.Fatalf("%s error %v, with %d deletions and %d Events; it says:\n%s", tc.reason, err, len(deleted), len(told), out)
			}
			if o := deleted[0].DeleteOptions; o.GracePeriodSeconds != nil || o.Preconditions == nil || *o.Preconditions.UID != "a" {
				t.Errorf("%s It is deleted with %+v; want its own grace, and no other pod of its name", tc.reason, o)
			}
			if e := told[0]; e.Message != tc.event || e.Reason != ReasonEndedByHand || e.InvolvedObject.UID != "a" || e.Type != corev1.EventTypeWarning || !e.LastTimestamp.Equal(&metav1.Time{Time: noon()}) {
				t.Errorf("%s The Event is %+v; want %q", tc.reason, e, tc.event)
			}
			if !strings.Contains(out.String(), "What calls it holds end with it, within its grace of 3600 s.\n") || !strings.HasSuffix(out.String(), "pod/a ends\n") {
				t.Errorf("%s It says:\n%s", tc.reason, out)
			}
		})
	}
}
