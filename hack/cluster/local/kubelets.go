// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/hack/oci"
)

// Additional components of real nodes.
const (
	KubeProxy = "kube-proxy"
	CoreDNS   = "coredns"
)

// containerdName is the component that runs the pods of a node.
func containerdName(i int) string { return "containerd-" + strconv.Itoa(i) }

const (
	programKubelet    = "kubelet"
	programContainerd = "containerd"

	portSuffixHealth = "-health"
	pauseImage       = "callguard.local/pause:1"
	cniPlugins       = "/usr/lib/cni" // Debian's containernetworking-plugins
)

// debianPackages are the Debian packages that real nodes need.
const debianPackages = "containerd runc containernetworking-plugins iptables iproute2 conntrack"

// checkMachine returns what is missing on this machine for real nodes.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("real nodes need root; run as root, or use simulated nodes")
	}
	var missing []string
	for _, name := range []string{programContainerd, "runc", "ctr", "iptables", "ip", "nsenter", "conntrack", cniPlugins + "/bridge"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("real nodes need %s; run: apt-get install --no-install-recommends %s", strings.Join(missing, ", "), debianPackages)
	}
	return nil
}

// nodeDir is the folder for the data of a node's containerd and kubelet.
func (l layout) nodeDir(node string, parts ...string) string {
	return filepath.Join(append([]string{l.dir, "nodes", node}, parts...)...)
}

func (l layout) socket(node string) string { return l.nodeDir(node, "containerd.sock") }

// realNode lists the two components of a real node.
func realNode(s state, l layout, i int) []component {
	name := NodeName(i)
	return []component{
		{
			Name: containerdName(i), Program: programContainerd, Inside: true, Cgroup: runtimeCgroup(s.Config.Name),
			Health: fmt.Sprintf("http://%s:%d/v1/metrics", nodeAddress(s.Network), s.Ports[containerdName(i)]),
			Args:   []string{"--config=" + l.nodeDir(name, "containerd.toml")},
		},
		{
			Name: name, Node: name, Program: filepath.Join(s.Tools[moduleKubelets], programKubelet), Inside: true,
			Health: fmt.Sprintf("http://%s:%d/healthz", nodeAddress(s.Network), s.Ports[name+portSuffixHealth]),
			Args: []string{
				"--config=" + l.nodeDir(name, "kubelet.json"), "--kubeconfig=" + l.kubeconfig(name), "--hostname-override=" + name,
				"--root-dir=" + l.nodeDir(name, "kubelet"), "--cert-dir=" + l.nodeDir(name, "pki"), "--node-ip=" + strings.Join(addresses(s), ","),
			},
		},
	}
}

// servicesOfNodes lists the components that provide Services and DNS: one of each, since all nodes share one network.
func servicesOfNodes(s state, l layout) []component {
	health := func(name, path string) string {
		return fmt.Sprintf("http://%s:%d%s", nodeAddress(s.Network), s.Ports[name], path)
	}
	return []component{
		{
			Name: KubeProxy, Program: filepath.Join(s.Tools[moduleKubelets], KubeProxy), Inside: true,
			Health: health(KubeProxy, "/livez"), Args: []string{"--config=" + l.config(KubeProxy)},
		},
		{
			Name: CoreDNS, Program: filepath.Join(s.Tools[moduleCoreDNS], CoreDNS), Inside: true,
			Health: health(CoreDNS, "/health"), Args: []string{"-conf=" + l.config(CoreDNS)},
		},
	}
}

// writeNodes writes the configuration of real nodes.
func writeNodes(s state, l layout) error {
	ca, err := loadAuthority(l.pki(""), "ca")
	if err != nil {
		return err
	}
	for i := range s.Config.Nodes {
		name := NodeName(i + 1)
		kp, err := ca.sign(serverTemplate(nodeUser(name), nodeAddress(s.Network)))
		if err != nil {
			return fmt.Errorf("cannot make the certificate of %s: %w", name, err)
		}
		kubelet, err := json.MarshalIndent(kubeletConfig(s, l, name), "", "  ")
		if err != nil {
			return fmt.Errorf("cannot write the settings of %s: %w", name, err)
		}
		for path, data := range map[string][]byte{
			l.nodeDir(name, "kubelet.crt"): kp.cert, l.nodeDir(name, "kubelet.key"): kp.key,
			l.nodeDir(name, "kubelet.json"):           kubelet,
			l.nodeDir(name, "containerd.toml"):        []byte(containerdConfig(s, l, i+1)),
			l.nodeDir(name, "cni", "bridge.conflist"): []byte(bridgeConfig(s, l, i+1)),
		} {
			if err := writeFile(path, data); err != nil {
				return err
			}
		}
	}
	proxy, err := json.MarshalIndent(map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
		"clientConnection": map[string]any{"kubeconfig": l.kubeconfig(KubeProxy)}, "clusterCIDR": strings.Join(podNetworks(s), ","),
		"hostnameOverride":   NodeName(1),
		"healthzBindAddress": fmt.Sprintf("%s:%d", nodeAddress(s.Network), s.Ports[KubeProxy]),
		// Keep the kernel's own limits.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the settings of %s: %w", KubeProxy, err)
	}
	names := fmt.Sprintf(".:53 {\n  bind %[1]s\n  errors\n  health %[1]s:%[2]d\n  kubernetes %[3]s {\n    kubeconfig %[4]s\n  }\n}\n",
		nodeAddress(s.Network), s.Ports[CoreDNS], s.Config.ClusterDomain, l.kubeconfig(CoreDNS))
	return errors.Join(writeFile(l.config(KubeProxy), proxy), writeFile(l.config(CoreDNS), []byte(names)))
}

// kubeletConfig is a KubeletConfiguration: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/.
func kubeletConfig(s state, l layout, name string) map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": nodeAddress(s.Network), "port": s.Ports[name],
		"healthzBindAddress": nodeAddress(s.Network), "healthzPort": s.Ports[name+portSuffixHealth],
		"tlsCertFile": l.nodeDir(name, "kubelet.crt"), "tlsPrivateKeyFile": l.nodeDir(name, "kubelet.key"),
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
			"x509": map[string]any{"clientCAFile": l.pki("ca.crt")},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"clusterDomain": s.Config.ClusterDomain, "clusterDNS": []string{nodeAddress(s.Network)}, "resolvConf": "",
		"containerRuntimeEndpoint": "unix://" + l.socket(name),
		// Each node removes unknown groups below its own control group.
		"cgroupDriver": "cgroupfs", "cgroupRoot": nodeCgroup(s.Config.Name, name), "failCgroupV1": false,
		"failSwapOn": false, "maxPods": s.Config.PodsPerNode, "nodeLeaseDurationSeconds": s.Config.NodeLeaseSeconds,
		"podLogsDir": l.nodeDir(name, "logs"), "volumePluginDir": l.nodeDir(name, "plugins"),
		// The disk belongs to the machine: no node may evict pods for it, or delete images that cannot be pulled again.
		"evictionHard":                map[string]string{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
	}
}

func containerdConfig(s state, l layout, i int) string {
	name := NodeName(i)
	const cri = `plugins."io.containerd.grpc.v1.cri"`
	return strings.Join([]string{
		"version = 2",
		fmt.Sprintf("root = %q", l.nodeDir(name, "images")),
		fmt.Sprintf("state = %q", l.nodeDir(name, "state")),
		`disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]`,
		"[grpc]",
		fmt.Sprintf("address = %q", l.socket(name)),
		"[metrics]",
		fmt.Sprintf("address = \"%s:%d\"", nodeAddress(s.Network), s.Ports[containerdName(i)]),
		"[" + cri + "]",
		fmt.Sprintf("sandbox_image = %q", pauseImage),
		// If root lacks CAP_SYS_RESOURCE, runc cannot lower a score.
		"restrict_oom_score_adj = true",
		"netns_mounts_under_state_dir = true",
		"[" + cri + ".cni]",
		fmt.Sprintf("bin_dir = %q", cniPlugins),
		fmt.Sprintf("conf_dir = %q", l.nodeDir(name, "cni")),
		"[" + cri + ".containerd]",
		`default_runtime_name = "runc"`,
		"[" + cri + ".containerd.runtimes.runc]",
		`runtime_type = "io.containerd.runc.v2"`,
		"",
	}, "\n")
}

// addresses returns the addresses of every node.
func addresses(s state) []string {
	if s.Config.IPv6Services {
		return []string{nodeAddress(s.Network), nodeAddress6(s.Network)}
	}
	return []string{nodeAddress(s.Network)}
}

func podNetworks(s state) []string {
	if s.Config.IPv6Services {
		return []string{podNetwork(s.Network), podNetwork6(s.Network)}
	}
	return []string{podNetwork(s.Network)}
}

func bridgeConfig(s state, l layout, i int) string {
	ranges, routes := fmt.Sprintf(`[{"subnet": %q}]`, nodePodNetwork(s.Network, i)), `{"dst": "0.0.0.0/0"}`
	if s.Config.IPv6Services {
		ranges += fmt.Sprintf(`, [{"subnet": %q}]`, nodePodNetwork6(s.Network, i))
		routes += `, {"dst": "::/0"}`
	}
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0", "name": "pods", "plugins": [{
    "type": "bridge", "bridge": "pods%d", "isGateway": true, "hairpinMode": true,
    "ipam": {"type": "host-local", "dataDir": %q, "ranges": [%s], "routes": [%s]}
  }]
}
`, i, l.nodeDir(NodeName(i), "addresses"), ranges, routes)
}

// startNodes starts the real nodes. kube-apiserver must run.
func (c *Cluster) startNodes(ctx context.Context, s state) error {
	pause, err := c.pause(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range []string{KubeProxy, CoreDNS} {
		group.Go(func() error { return c.Start(ctx, name) })
	}
	group.Go(func() error { return c.startKubelets(ctx, s, pause) })
	return group.Wait()
}

func (c *Cluster) startKubelets(ctx context.Context, s state, pause string) error {
	runtimes, inTime := errgroup.WithContext(ctx)
	for i := range s.Config.Nodes {
		runtimes.Go(func() error {
			if err := c.Start(inTime, containerdName(i+1)); err != nil {
				return err
			}
			return c.importImage(inTime, NodeName(i+1), pause)
		})
	}
	if err := runtimes.Wait(); err != nil {
		return err
	}
	// Each kubelet clears /var/lib/kubelet/device-plugins, a path that no flag changes, and then listens there, before its node
	// is ready. If two do so at the same time, one finds its address in use and exits.
	for i := range s.Config.Nodes {
		if err := c.Start(ctx, NodeName(i+1)); err != nil {
			return err
		}
		if err := c.waitReady(ctx, NodeName(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// waitReady waits until a node is ready.
func (c *Cluster) waitReady(ctx context.Context, node string) error {
	client, err := c.adminClient()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return false, nil //nolint:nilerr // its kubelet is about to register it, or the API server is busy
		}
		return slices.ContainsFunc(n.Status.Conditions, func(is corev1.NodeCondition) bool {
			return is.Type == corev1.NodeReady && is.Status == corev1.ConditionTrue
		}), nil
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w; read its log", node, err)
	}
	return nil
}

// pause builds the image of the process that keeps a pod's namespaces, and returns its file.
func (c *Cluster) pause(ctx context.Context) (string, error) {
	repository, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	program := filepath.Join(c.dir, "pause")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./hack/cluster/pause")
	cmd.Dir, cmd.Env = repository, buildEnvironment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the pause program: %w\n%s", err, out)
	}
	file := filepath.Join(c.dir, "pause.tar")
	_, err = oci.Image{Entrypoint: []string{"/pause"}, Files: map[string]string{"/pause": program}}.Write(file, pauseImage)
	return file, err
}

// LoadImage loads an image, a file in the format of docker save, into every real node.
func (c *Cluster) LoadImage(ctx context.Context, file string) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	if !s.Config.Kubelets {
		return fmt.Errorf("instance %s has simulated nodes, which run no images; start it with --kubelets", c.name)
	}
	for i := range s.Config.Nodes {
		if err := c.importImage(ctx, NodeName(i+1), file); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) importImage(ctx context.Context, node, file string) error {
	out, err := exec.CommandContext(ctx, "ctr", "--address", c.layout().socket(node), "--namespace", "k8s.io", "images", "import", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot load %s into %s: %w\n%s", file, node, err, out)
	}
	return nil
}
