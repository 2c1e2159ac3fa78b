// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"flag"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/trial"
)

// With one of these flags, the test only installs, and an autoscaler follows calls, in a cluster of that
// kind.
var (
	ipv6Services  = flag.Bool("ipv6-services", false, "have a cluster whose Services have IPv6 addresses alone")     //nolint:gochecknoglobals // a flag of the test
	clusterDomain = flag.String("cluster-domain", local.DefaultClusterDomain, "have a cluster with this DNS domain") //nolint:gochecknoglobals // a flag of the test
)

// otherCluster reports whether the test is about the cluster's network.
func otherCluster() bool { return *ipv6Services || *clusterDomain != local.DefaultClusterDomain }

// clusterIsOther fails if the cluster is not of the kind that the test is about.
func clusterIsOther(t *testing.T, _ *phones) {
	services, err := stage.client.CoreV1().Services(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
	trial.Must(t, err)
	for _, s := range services.Items {
		for _, address := range s.Spec.ClusterIPs {
			if is, err := netip.ParseAddr(address); err == nil && is.Is6() != *ipv6Services {
				t.Errorf("Service %s/%s has address %s", s.Namespace, s.Name, address)
			}
		}
	}
	for _, pod := range pods(t, voiceNamespace, agentSelector) {
		if search := kubectl(t, "exec", "-n", voiceNamespace, pod.Name, "-c", "agent", "--", "/usr/bin/node", "-p", `require("fs").readFileSync("/etc/resolv.conf", "utf8")`); !strings.Contains(search, " svc."+*clusterDomain) {
			t.Errorf("pod %s looks for names so:\n%s", pod.Name, search)
		}
	}
}
