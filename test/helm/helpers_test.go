// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// command runs a program against the cluster, in the repository, and returns its output.
func command(ctx context.Context, input, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = repository, stage.env
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

func helm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), "", stage.helm, args...)
	trial.Must(t, err)
	return out
}

// refused runs Helm, which has to fail and to print all of this.
func refused(t *testing.T, want []string, args ...string) {
	t.Helper()
	out, err := command(t.Context(), "", stage.helm, args...)
	if err == nil {
		t.Fatalf("helm %s succeeded; want a refusal with %q", strings.Join(args, " "), want)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("helm %s does not say %q, but:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

func kubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), input, stage.kubectl, args...)
	trial.Must(t, err)
	return out
}

// configOf returns an administrator's config that acts as a service account.
func configOf(namespace, account string) *rest.Config {
	config := rest.CopyConfig(stage.config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	return config
}

func makeNamespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	_, err := stage.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		trial.Must(t, err)
	}
}

// readyPods waits for this many Ready pods of a namespace with these labels, and returns
// them.
func readyPods(t *testing.T, namespace, selector string, n int) []corev1.Pod {
	t.Helper()
	var found []corev1.Pod
	trial.Within(t, time.Minute, fmt.Sprintf("%d pods %s are Ready", n, selector), func() error {
		list, err := stage.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
			return p.DeletionTimestamp != nil || !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
		})
		if len(found) != n {
			return fmt.Errorf("%d are", len(found))
		}
		return nil
	})
	return found
}

// evict requests the eviction of a pod and returns the status of the answer.
func evict(t *testing.T, namespace, pod string, dryRun ...string) int {
	t.Helper()
	err := stage.client.PolicyV1().Evictions(namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}, DeleteOptions: &metav1.DeleteOptions{DryRun: dryRun},
	})
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return http.StatusCreated
	case errors.As(err, &status):
		return int(status.Status().Code)
	}
	t.Fatal(err)
	return 0
}

// guardedPod is a pod that the policies protect.
func guardedPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{call.GuardedLabel: "true"}},
		Spec: corev1.PodSpec{
			PriorityClassName: "callguard-calls", TerminationGracePeriodSeconds: new(int64(2)),
			Containers: []corev1.Container{{Name: "agent", Image: "agent"}},
		},
	}
}

// asGuard is a client that acts as drain-guard.
func asGuard(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(configOf(addonNamespace, "drain-guard"))
	trial.Must(t, err)
	return client
}
