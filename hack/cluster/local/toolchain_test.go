// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanBuild(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal("no go command; install Go")
	}
	plans, err := planTools(t.Context(), Config{Kubelets: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, p := range plans {
		got[p.name] = p.programs()
	}
	want := map[string][]string{
		moduleEtcd: {programEtcd}, moduleKwok: {programKwok}, moduleLiveKit: {programLiveKit},
		moduleKubernetes: {programAPIServer, programControllerManager, KubeProxy, programScheduler, programKubectl, programKubelet},
		moduleCoreDNS:    {CoreDNS},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("programs by module: -want, +got:\n%s", diff)
	}
	flags := kubernetesVersionFlags("v1.37.2")
	for _, part := range []string{"gitVersion=v1.37.2", "gitMajor=1", "gitMinor=37"} {
		if !strings.HasSuffix(flags, part) && !strings.Contains(flags, part+" ") {
			t.Errorf("version flags %q lack %s", flags, part)
		}
	}
}
