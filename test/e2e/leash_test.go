// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/callguard/callguard/test/lab"
)

// TestAdapterLeash tries what somebody who stole the adapter's token could do with it.
func TestAdapterLeash(t *testing.T) {
	kubeconfig, err := stage.Cluster.ServiceAccountKubeconfig(t.Context(), lab.AdapterNamespace, lab.AdapterName)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	services, thief := aggregator.NewForConfigOrDie(config).ApiregistrationV1().APIServices(), kubernetes.NewForConfigOrDie(config)
	own := lab.APIServices()[0]
	dry := metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
	patch := func(body string, sub ...string) func() error {
		return func() error {
			_, err := services.Patch(t.Context(), own, types.MergePatchType, []byte(body), dry, sub...)
			return err
		}
	}
	const leash, noRight = "metrics-adapter may change only the caBundle of APIServices", "is forbidden: User"
	for what, try := range map[string]struct {
		do   func() error
		want string // the API server's error; empty if it succeeds
	}{
		"publish an authority": {patch(`{"spec":{"caBundle":"eA=="}}`), ""},
		"be served elsewhere":  {patch(`{"spec":{"service":{"name":"evil"}}}`), leash},
		"be served by whoever": {patch(`{"spec":{"caBundle":null,"insecureSkipTLSVerify":true}}`), leash},
		"at another port":      {patch(`{"spec":{"service":{"port":1}}}`), leash},
		"serve nothing":        {patch(`{"spec":{"service":null,"caBundle":null}}`), leash},
		"come first":           {patch(`{"spec":{"groupPriorityMinimum":1}}`), leash},
		"stay forever":         {patch(`{"metadata":{"finalizers":["example.org/x"]}}`), leash},
		"be found by others":   {patch(`{"metadata":{"labels":{"kube-aggregator.kubernetes.io/automanaged":"true"}}}`), leash},
		"note something":       {patch(`{"metadata":{"annotations":{"example.org/x":"y"}}}`), leash},
		"write the status":     {patch(`{"status":{"conditions":[]}}`, "status"), noRight},
		"delete the API":       {func() error { return services.Delete(t.Context(), own, metav1.DeleteOptions{DryRun: dry.DryRun}) }, noRight},
		"another API": {func() error {
			_, err := services.Patch(t.Context(), "v1.apps", types.MergePatchType, []byte(`{"spec":{"groupPriorityMinimum":1}}`), dry)
			return err
		}, noRight},
		"delete a pod": {func() error {
			return thief.CoreV1().Pods("default").Delete(t.Context(), "any", metav1.DeleteOptions{DryRun: dry.DryRun})
		}, noRight},
		"read Secrets": {func() error {
			_, err := thief.CoreV1().Secrets(lab.AdapterNamespace).List(t.Context(), metav1.ListOptions{})
			return err
		}, noRight},
	} {
		err := try.do()
		if (err == nil) != (try.want == "") || err != nil && !strings.Contains(err.Error(), try.want) {
			t.Errorf("%s: %v; want %q", what, err, try.want)
		}
	}
}
