// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPlanBuild(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal("no go command; install Go")
	}
	got := map[string][]string{}
	sums := map[string]string{}
	for _, cfg := range []Config{{Kubelets: true}, {Clocks: Clocks{Nodes: time.Minute}}} {
		plans, err := planTools(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plans {
			got[p.name], sums[p.name] = p.programs(), p.sum
		}
	}
	want := map[string][]string{
		moduleEtcd: {programEtcd}, moduleKwok: {programKwok}, moduleLiveKit: {programLiveKit},
		moduleKubernetes:    {programAPIServer, programControllerManager, programScheduler, programKubectl},
		moduleKubelets:      {KubeProxy, programKubelet},
		moduleCoreDNS:       {CoreDNS},
		clocked(moduleKwok): {programKwok}, clocked(moduleKubernetes): {programAPIServer, programControllerManager, programScheduler},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("programs by module: -want, +got:\n%s", diff)
	}
	if sums[moduleKwok] == sums[clocked(moduleKwok)] {
		t.Error("a kwok whose clock can be wrong has the sum of one whose clock is right")
	}
	flags := kubernetesVersionFlags("v1.37.2")
	for _, part := range []string{"gitVersion=v1.37.2", "gitMajor=1", "gitMinor=37"} {
		if !strings.HasSuffix(flags, part) && !strings.Contains(flags, part+" ") {
			t.Errorf("version flags %q lack %s", flags, part)
		}
	}
}
