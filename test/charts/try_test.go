// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// TestTriedCalls: "helm test" makes a call, and so does a CronJob if there is a schedule: with which key, and which flags.
func TestTriedCalls(t *testing.T) {
	t.Parallel()
	inside := "--livekit-url=ws://v-voice-agent-livekit.voice.svc:7880"
	common := []string{"try", "--namespace=voice", "--livekit-secret-dir=/etc/livekit", "--expect=track", "--answer-within=30s"}
	with := func(more ...string) []string { return append(append([]string{}, common...), more...) }
	for name, tc := range map[string]struct {
		given
		args   []string // empty: no call is made
		secret string
		cron   string
	}{
		"Default":   {args: with(inside), secret: "v-voice-agent-livekit-keys"},
		"Off":       {given: given{set: []string{"try.enabled=false", "try.schedule=@hourly"}}},
		"OldValues": {given: given{json: []string{"try=null"}}},
		"Unguarded": {given: given{file: "unguarded"}},
		"Scheduled": {given: given{set: []string{"try.schedule=*/5 * * * *"}}, args: with(inside), secret: "v-voice-agent-livekit-keys", cron: "*/5 * * * *"},
		"OwnKey":    {given: given{set: []string{"try.existingSecret=own", "livekit.existingSecret=lk", "livekit.secretKeys.apiKey=a", "livekit.secretKeys.apiSecret=b"}}, args: with(inside), secret: "own"},
		"NamedKeys": {given: given{set: []string{"livekit.existingSecret=lk", "livekit.secretKeys.apiKey=a", "livekit.secretKeys.apiSecret=b"}},
			args: with(inside, "--livekit-secret-keys=api-key=a,api-secret=b"), secret: "lk"},
		"Outside": {given: given{set: []string{"livekit.enabled=false", "livekit.existingSecret=lk", "livekit.secretKeys.url=u"}},
			args: with("--livekit-secret-keys=url=u"), secret: "lk"},
		"AgentName": {given: given{set: []string{"try.agentName=receptionist"}}, args: with(inside, "--agent-name=receptionist"), secret: "v-voice-agent-livekit-keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			pods, crons := all[corev1.Pod](t, r, "Pod"), all[batchv1.CronJob](t, r, "CronJob")
			if tc.args == nil {
				if len(pods) != 0 || len(crons) != 0 {
					t.Errorf("%d pods and %d CronJobs make calls", len(pods), len(crons))
				}
				return
			}
			specs := map[string]corev1.PodSpec{}
			for name, pod := range pods {
				specs[name] = pod.Spec
				if pod.Annotations["helm.sh/hook"] != "test" {
					t.Errorf("Pod %s is made at every install", name)
				}
			}
			for name, cron := range crons {
				specs[name] = cron.Spec.JobTemplate.Spec.Template.Spec
				if cron.Spec.Schedule != tc.cron || cron.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent || *cron.Spec.JobTemplate.Spec.BackoffLimit != 0 {
					t.Errorf("the CronJob is %+v", cron.Spec)
				}
			}
			if want := map[bool]int{true: 1, false: 0}[tc.cron != ""]; len(pods) != 1 || len(crons) != want {
				t.Fatalf("%d pods and %d CronJobs make calls, want one and %d", len(pods), len(crons), want)
			}
			for name, spec := range specs {
				if diff := cmp.Diff(tc.args, spec.Containers[0].Args); diff != "" {
					t.Errorf("the flags of %s (-want, +got):\n%s", name, diff)
				}
				if got := spec.Volumes[0].Secret.SecretName; got != tc.secret {
					t.Errorf("%s has the key of Secret %s, want %s", name, got, tc.secret)
				}
				want := []rbacv1.PolicyRule{
					{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
					{APIGroups: []string{"custom.metrics.k8s.io"}, Resources: []string{"pods/active_calls"}, Verbs: []string{"get"}},
				}
				role := roles(t, r)[spec.ServiceAccountName]
				if role == nil {
					t.Fatalf("account %s of %s has no Role", spec.ServiceAccountName, name)
				}
				if diff := cmp.Diff(want, role.Rules); diff != "" {
					t.Errorf("what %s may do (-want, +got):\n%s", name, diff)
				}
			}
		})
	}
}
