// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"embed"
	"fmt"
	"runtime"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// stages define what a simulated kubelet does with its node and its pods.
//
//go:embed stages/*.yaml
var stages embed.FS

// writeStages joins all stages into the one file that kwok reads.
func writeStages(l layout) error {
	entries, err := stages.ReadDir("stages")
	if err != nil {
		return fmt.Errorf("cannot read the stages of the nodes: %w", err)
	}
	var all []string
	for _, e := range entries {
		data, err := stages.ReadFile("stages/" + e.Name())
		if err != nil {
			return fmt.Errorf("cannot read the stages of the nodes: %w", err)
		}
		all = append(all, string(data))
	}
	return writeFile(l.config(programKwok), []byte(strings.Join(all, "\n---\n")))
}

// allowKwok grants the nodes what kwok reads and a kubelet does not: a list of nodes, at its start, and the node leases.
func allowKwok(ctx context.Context, client kubernetes.Interface) error {
	const name = "callguard:kwok"
	_, err := client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list"}},
			{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"list", "watch"}},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot allow kwok to read nodes and leases: %w", err)
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: nodesGroup}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot allow kwok to read nodes and leases: %w", err)
	}
	return nil
}

// registerNodes creates all nodes of a bare instance, and removes the taint that kube-apiserver adds to every new node and
// kube-controller-manager would remove.
func (c *Cluster) registerNodes(ctx context.Context, s state, client kubernetes.Interface) error {
	for i := range s.Config.Nodes {
		name := NodeName(i + 1)
		if err := c.registerNode(ctx, s, name); err != nil {
			return err
		}
		if _, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot take the taint off %s: %w", name, err)
		}
	}
	return nil
}

// registerNode creates the Node as the node's user, as a kubelet does. A registered node stays as it is.
func (c *Cluster) registerNode(ctx context.Context, s state, name string) error {
	client, err := c.nodeClient(name)
	if err != nil {
		return err
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("cannot register %s: %w", name, err)
	}
	_, err = client.CoreV1().Nodes().Create(ctx, nodeObject(s, name, version.GitVersion), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot register %s: %w", name, err)
	}
	// kwok holds its lease under a new name at each start, and would wait until the lease under its old name expires.
	err = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot drop the former lease of %s: %w", name, err)
	}
	return nil
}

func nodeObject(s state, name, kubeletVersion string) *corev1.Node {
	slice := nodeSlice(s, name)
	resources := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("64"),
		corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourcePods:   *resource.NewQuantity(int64(s.Config.PodsPerNode), resource.DecimalSI),
	}
	var conditions []corev1.NodeCondition // whatever simulates the node sets it ready
	if s.Config.Bare {
		now := metav1.Now()
		conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bare", Message: "nobody plays this node",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}}
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		}},
		Status: corev1.NodeStatus{
			Capacity: resources, Allocatable: resources, Conditions: conditions,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("127.%d.255.254", slice)},
				{Type: corev1.NodeHostName, Address: name},
			},
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: runtime.GOARCH, OSImage: "simulated",
				KubeletVersion: kubeletVersion, ContainerRuntimeVersion: "kwok://simulated",
			},
		},
	}
}

// nodeSlice is X of a node's pod addresses 127.X.0.0/16.
func nodeSlice(s state, name string) int {
	for i := range s.Config.Nodes {
		if NodeName(i+1) == name {
			return s.FirstSlice + i
		}
	}
	return 0
}

// podCIDR is the part of a node's slice from which its kwok assigns addresses. Each start uses the next part, because a
// restarted kwok does not know which addresses its pods already have.
func podCIDR(slice, start int) string {
	const parts, size = 16, 16
	return fmt.Sprintf("127.%d.%d.0/20", slice, start%parts*size)
}

// nodeReady returns why a node is not ready, or an empty string.
func nodeReady(n *corev1.Node) string {
	for _, cond := range n.Status.Conditions {
		if cond.Type != corev1.NodeReady {
			continue
		}
		if cond.Status == corev1.ConditionTrue {
			return ""
		}
		return fmt.Sprintf("the node is not ready: %s: %s", cond.Reason, cond.Message)
	}
	return "the node has not said that it is ready"
}
