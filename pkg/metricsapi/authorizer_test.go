// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/custom_metrics"
)

// read reads the calls of a Deployment.
func read(who user.Info, namespace, name string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User: who, Verb: "get", Namespace: namespace, APIGroup: custom_metrics.GroupName, APIVersion: "v1beta2",
		Resource: "deployments.apps", Subresource: ActiveCalls, Name: name, ResourceRequest: true,
	}
}

// reviews is an API server that answers SubjectAccessReviews, and records them.
type reviews struct {
	mu      sync.Mutex
	asked   []string
	answers func(authorizationv1.SubjectAccessReviewSpec) (allowed, denied bool, err error)
}

// RoundTrip answers a SubjectAccessReview.
func (r *reviews) RoundTrip(req *http.Request) (*http.Response, error) {
	var review authorizationv1.SubjectAccessReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
		return nil, err
	}
	of := review.Spec.ResourceAttributes
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, fmt.Sprintf("%s: %s/%s in %q", review.Spec.User, of.Resource, of.Name, of.Namespace))
	var err error
	if review.Status.Allowed, review.Status.Denied, err = r.answers(review.Spec); err != nil {
		return nil, err
	}
	body, err := json.Marshal(review)
	return &http.Response{
		StatusCode: http.StatusCreated, Header: http.Header{"Content-Type": {"application/json"}}, Request: req,
		Body: io.NopCloser(bytes.NewReader(body)),
	}, err
}

// authorizer asks it as the adapter does, and caches answers for the same time.
func (r *reviews) authorizer(t testing.TB) authorizer.Authorizer {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: "http://in.memory", Transport: r, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(), AllowCacheTTL: time.Minute, DenyCacheTTL: 10 * time.Second,
		WebhookRetryBackoff: &wait.Backoff{Steps: 1},
	}
	delegating, err := config.New()
	if err != nil {
		t.Fatal(err)
	}
	return WidestFirst(delegating)
}

// TestWidestFirst: for users who may read more than requested there is one question; for
// others the requested right decides, whatever the answer to the wider question.
func TestWidestFirst(t *testing.T) {
	everything, inVoice, web := `%s: */ in ""`, `%s: */ in "voice"`, `%s: deployments.apps/web in "voice"`
	for name, tc := range map[string]struct {
		reason  string
		answers func(authorizationv1.SubjectAccessReviewSpec) (allowed, denied bool, err error)
		want    authorizer.Decision
		asked   []string
	}{
		"Everything": {reason: "As the autoscaler's controller may.", asked: []string{everything}, want: authorizer.DecisionAllow,
			answers: func(authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) { return true, false, nil }},
		"Namespace": {reason: "As a team may in its own.", asked: []string{everything, inVoice}, want: authorizer.DecisionAllow,
			answers: func(s authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) {
				return s.ResourceAttributes.Namespace == "voice", false, nil
			}},
		"Object": {reason: "As a Role with resourceNames allows.", asked: []string{everything, inVoice, web}, want: authorizer.DecisionAllow,
			answers: func(s authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) {
				return s.ResourceAttributes.Name == "web", false, nil
			}},
		"DeniedWide": {reason: "An authorizer that forbids everything has not forbidden this.", asked: []string{everything, inVoice, web}, want: authorizer.DecisionAllow,
			answers: func(s authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) {
				return s.ResourceAttributes.Name == "web", s.ResourceAttributes.Name == "", nil
			}},
		"Unanswered": {reason: "No answer about the widest right.", asked: []string{everything, inVoice, web}, want: authorizer.DecisionAllow,
			answers: func(s authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) {
				if s.ResourceAttributes.Name == "" {
					return false, false, errors.New("no such resource")
				}
				return true, false, nil
			}},
		"Nothing": {reason: "A stranger stays one.", asked: []string{everything, inVoice, web}, want: authorizer.DecisionNoOpinion,
			answers: func(authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) { return false, false, nil }},
		"Denied": {reason: "An explicit no is passed on.", asked: []string{everything, inVoice, web}, want: authorizer.DecisionDeny,
			answers: func(authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) { return false, true, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r := &reviews{answers: tc.answers}
			got, _, err := r.authorizer(t).Authorize(t.Context(), read(&user.DefaultInfo{Name: "ann"}, "voice", "web"))
			if err != nil || got != tc.want {
				t.Errorf("%s Decision %v, %v; want %v", tc.reason, got, err, tc.want)
			}
			var want []string
			for _, question := range tc.asked {
				want = append(want, fmt.Sprintf(question, "ann"))
			}
			if diff := cmp.Diff(want, r.asked); diff != "" {
				t.Errorf("%s -want, +asked:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestOneReviewAMinute reads 4,000 objects, many at once, for three minutes as an
// autoscaler does: one question a minute. A revoked right ends within one.
func TestOneReviewAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		may := true
		r := &reviews{answers: func(authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) { return may, false, nil }}
		a := r.authorizer(t)
		hpa := &user.DefaultInfo{Name: "hpa", Groups: []string{"system:serviceaccounts"}}
		for range 12 { // every 15 s
			var all sync.WaitGroup
			for worker := range 8 {
				all.Go(func() {
					for i := range 500 {
						name := fmt.Sprintf("web-%d", 500*worker+i)
						if got, _, err := a.Authorize(t.Context(), read(hpa, fmt.Sprintf("ns-%d", i%50), name)); err != nil || got != authorizer.DecisionAllow {
							t.Errorf("%s: %v, %v", name, got, err)
						}
					}
				})
			}
			all.Wait()
			time.Sleep(15 * time.Second)
		}
		if n := len(r.asked); n > 3 {
			t.Errorf("in three minutes %d questions were asked, want 3 at most", n)
		}
		may = false
		time.Sleep(time.Minute)
		if got, _, _ := a.Authorize(t.Context(), read(hpa, "ns-1", "web-1")); got == authorizer.DecisionAllow {
			t.Error("a right is used longer than a minute after it was revoked")
		}
	})
}

// TestSameNameIsNotTheSame: an answer about one user is not used for another with that
// name, such as a token of a recreated account or with fewer groups.
func TestSameNameIsNotTheSame(t *testing.T) {
	r := &reviews{answers: func(s authorizationv1.SubjectAccessReviewSpec) (bool, bool, error) {
		return len(s.Groups) > 0, false, nil
	}}
	a := r.authorizer(t)
	for _, tc := range []struct {
		who  *user.DefaultInfo
		want authorizer.Decision
	}{
		{&user.DefaultInfo{Name: "ann", Groups: []string{"readers"}}, authorizer.DecisionAllow},
		{&user.DefaultInfo{Name: "ann"}, authorizer.DecisionNoOpinion},
	} {
		if got, _, err := a.Authorize(t.Context(), read(tc.who, "voice", "web")); err != nil || got != tc.want {
			t.Errorf("%+v: %v, %v; want %v", tc.who, got, err, tc.want)
		}
	}
	seen := map[string]int{}
	for i, who := range []*user.DefaultInfo{
		{Name: "a", Groups: []string{"b", "c"}}, {Name: "a", Groups: []string{"b c"}}, {Name: "a", Groups: []string{`b""c`}},
		{Name: "a", UID: "b"}, {Name: "ab"}, {Name: "a", Groups: []string{"b"}}, {Name: "a", Groups: []string{"c", "b"}},
		{Name: "a", Extra: map[string][]string{"b": {"c"}}}, {Name: "a", Extra: map[string][]string{"b": {}, "c": {}}}, {Name: "a", Extra: map[string][]string{"b": {"c", "d"}}},
		{Name: "a", Extra: map[string][]string{"b": {"c"}, "d": nil}}, {Name: "a", Groups: []string{"b]["}}, {Name: "a", Groups: []string{"b"}, Extra: map[string][]string{"c": nil}},
	} {
		text := question(authorizer.AttributesRecord{User: who})
		if other, same := seen[text]; same {
			t.Errorf("%+v, number %d, shares its answer with number %d", who, i, other)
		}
		seen[text] = i
	}
}
