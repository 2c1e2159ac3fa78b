// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
)

// Names of the components that exist once. Nodes and LiveKit servers are named by NodeName and LiveKitName.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

// NodeName is the name of a simulated node, counted from 1, and of the component that simulates it.
func NodeName(i int) string { return "node-" + strconv.Itoa(i) }

// LiveKitName is the name of a LiveKit server, counted from 1, and of its component.
func LiveKitName(i int) string { return "livekit-" + strconv.Itoa(i) }

// Ports beyond the one that has the component's name.
const (
	portEtcdPeer    = "etcd-peer"
	portEtcdHealth  = "etcd-health"
	portSuffixMedia = "-media"
)

// portNames lists every port an instance needs. Media ports serve TCP and UDP.
func portNames(cfg Config) []string {
	names := []string{Etcd, portEtcdPeer, portEtcdHealth, APIServer, ControllerManager, Scheduler}
	for i := range cfg.Nodes {
		names = append(names, NodeName(i+1))
		if cfg.Kubelets {
			names = append(names, NodeName(i+1)+portSuffixHealth, containerdName(i+1))
		}
	}
	if cfg.Kubelets {
		names = append(names, KubeProxy, CoreDNS)
	}
	for i := range cfg.LiveKits {
		names = append(names, LiveKitName(i+1), LiveKitName(i+1)+portSuffixMedia)
	}
	return names
}

// layout knows the paths in an instance's folder.
type layout struct{ dir string }

func (l layout) pki(name string) string { return filepath.Join(l.dir, "pki", name) }
func (l layout) kubeconfig(name string) string {
	return filepath.Join(l.dir, "kubeconfigs", name+".yaml")
}
func (l layout) config(name string) string { return filepath.Join(l.dir, "config", name+".yaml") }
func (l layout) env(name string) string    { return filepath.Join(l.dir, name+".env") }
func (l layout) logs() string              { return filepath.Join(l.dir, "logs") }
func (l layout) audit() string             { return filepath.Join(l.logs(), "audit.log") }
func (l layout) lock() string              { return filepath.Join(l.dir, "state.lock") }

// components lists everything an instance runs, in start order.
func components(s state, l layout) []component {
	list := []component{etcd(s, l), apiServer(s, l)}
	if !s.Config.Bare {
		list = append(list, controllerManager(s, l), scheduler(s, l))
	}
	for i := range s.Config.Nodes {
		switch {
		case s.Config.Bare:
		case s.Config.Kubelets:
			list = append(list, realNode(s, l, i+1)...)
		default:
			list = append(list, node(s, l, NodeName(i+1)))
		}
	}
	if s.Config.Kubelets {
		list = append(list, servicesOfNodes(s, l)...)
	}
	for _, lk := range s.LiveKits {
		list = append(list, liveKit(s, l, lk))
	}
	for i := range list {
		c := &list[i]
		c.Log = filepath.Join(l.logs(), c.Name+".log")
		if c.Clock = s.Config.Clocks.of(*c); c.Clock != 0 {
			module := moduleKubernetes
			if c.Node != "" {
				module = moduleKwok
			}
			c.Program = filepath.Join(s.Tools[clocked(module)], filepath.Base(c.Program))
		}
	}
	return list
}

func etcd(s state, l layout) component {
	client, peer := httpsURL(s.Ports[Etcd]), httpURL(s.Ports[portEtcdPeer])
	return component{
		Name: Etcd, Program: filepath.Join(s.Tools[moduleEtcd], programEtcd),
		Health: httpURL(s.Ports[portEtcdHealth]) + "/readyz",
		Args: []string{
			"--name=" + Etcd, "--data-dir=" + filepath.Join(l.dir, "etcd"),
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=" + Etcd + "=" + peer,
			"--listen-metrics-urls=" + httpURL(s.Ports[portEtcdHealth]),
			"--cert-file=" + l.pki("etcd.crt"), "--key-file=" + l.pki("etcd.key"),
			"--client-cert-auth", "--trusted-ca-file=" + l.pki("etcd-ca.crt"),
			// The data is deleted with the instance.
			"--unsafe-no-fsync", "--log-level=warn",
		},
	}
}

func apiServer(s state, l layout) component {
	c := component{
		Name: APIServer, Program: filepath.Join(s.Tools[moduleKubernetes], programAPIServer),
		Health: s.apiServerURL() + "/readyz",
		Args: []string{
			"--bind-address=" + s.apiServerAddress(), "--secure-port=" + strconv.Itoa(s.Ports[APIServer]),
			"--tls-cert-file=" + l.pki("control-plane.crt"), "--tls-private-key-file=" + l.pki("control-plane.key"),
			"--etcd-servers=" + httpsURL(s.Ports[Etcd]), "--etcd-cafile=" + l.pki("etcd-ca.crt"),
			"--etcd-certfile=" + l.pki("etcd-client.crt"), "--etcd-keyfile=" + l.pki("etcd-client.key"),
			"--client-ca-file=" + l.pki("ca.crt"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + l.pki("sa.pub"), "--service-account-signing-key-file=" + l.pki("sa.key"),
			"--requestheader-client-ca-file=" + l.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + l.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + l.pki("front-proxy-client.key"),
			"--service-cluster-ip-range=" + s.serviceNetwork(), "--allow-privileged=true", "--advertise-address=" + s.apiServerAddress(),
		},
	}
	if s.Config.Kubelets {
		c.Args = append(c.Args, "--enable-aggregator-routing=true", "--kubelet-certificate-authority="+l.pki("ca.crt"),
			"--kubelet-client-certificate="+l.pki("kubelet-client.crt"), "--kubelet-client-key="+l.pki("kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP")
	} else {
		c.Args = append(c.Args,
			// This is the only way to reach an adapter outside the cluster, behind a Service of type ExternalName
			// localhost.
			"--enable-aggregator-routing=false",
			// The API server reaches no pod network, and EndpointSlices refuse loopback addresses.
			"--endpoint-reconciler-type=none")
	}
	if len(s.Config.AuditUsers) > 0 {
		c.Args = append(c.Args, "--audit-policy-file="+l.config(auditPolicy), "--audit-log-path="+l.audit(), "--audit-log-mode=blocking")
	}
	return c
}

func controllerManager(s state, l layout) component {
	config := l.kubeconfig(ControllerManager)
	args := []string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(s.Ports[ControllerManager]),
		"--tls-cert-file=" + l.pki("control-plane.crt"), "--tls-private-key-file=" + l.pki("control-plane.key"),
		"--use-service-account-credentials",
		"--service-account-private-key-file=" + l.pki("sa.key"), "--root-ca-file=" + l.pki("ca.crt"),
		// A single replica needs no election, and after a restart would wait for its own old lease.
		"--leader-elect=false",
		"--horizontal-pod-autoscaler-sync-period=2s",
		// It requests a token for each controller at its start, which takes four seconds at the default rate.
		"--kube-api-qps=200", "--kube-api-burst=400",
	}
	return component{
		Name: ControllerManager, Program: filepath.Join(s.Tools[moduleKubernetes], programControllerManager),
		Health: httpsURL(s.Ports[ControllerManager]) + "/healthz",
		Args:   append(args, s.Config.ControllerManagerArgs...),
	}
}

func scheduler(s state, l layout) component {
	config := l.kubeconfig(Scheduler)
	return component{
		Name: Scheduler, Program: filepath.Join(s.Tools[moduleKubernetes], programScheduler),
		Health: httpsURL(s.Ports[Scheduler]) + "/readyz",
		Args: []string{
			"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(s.Ports[Scheduler]),
			"--tls-cert-file=" + l.pki("control-plane.crt"), "--tls-private-key-file=" + l.pki("control-plane.key"),
			"--leader-elect=false",
			// At the default rate it binds 50 pods a second, and a cluster of thousands would wait for it.
			"--kube-api-qps=1000", "--kube-api-burst=2000",
		},
	}
}

func node(s state, l layout, name string) component {
	return component{
		Name: name, Node: name, Program: filepath.Join(s.Tools[moduleKwok], programKwok),
		Health: httpURL(s.Ports[name]) + "/healthz",
		Args: []string{
			"--kubeconfig=" + l.kubeconfig(name), "--config=" + l.config(programKwok),
			"--manage-single-node=" + name,
			"--node-lease-duration-seconds=" + strconv.Itoa(s.Config.NodeLeaseSeconds),
			fmt.Sprintf("--server-address=127.0.0.1:%d", s.Ports[name]),
		},
	}
}

func liveKit(s state, l layout, lk LiveKit) component {
	return component{
		Name: lk.Name, Program: filepath.Join(s.Tools[moduleLiveKit], programLiveKit),
		Health: lk.URL + "/",
		Args:   []string{"--config", l.config(lk.Name)},
	}
}

// apiServerAddress is loopback, unless pods have to reach it.
func (s state) apiServerAddress() string {
	switch {
	case s.Config.IPv6Services: // of the same family as its own Service
		return hostAddress6(s.Network)
	case s.Config.Kubelets:
		return hostAddress(s.Network)
	}
	return "127.0.0.1"
}

// serviceNetwork contains the addresses of Services; the API server's own Service has the first.
func (s state) serviceNetwork() string {
	if s.Config.IPv6Services {
		return "fd00:10::/112"
	}
	return "10.0.0.0/16"
}

func (s state) apiServerURL() string {
	return "https://" + net.JoinHostPort(s.apiServerAddress(), strconv.Itoa(s.Ports[APIServer]))
}

func httpURL(port int) string  { return fmt.Sprintf("http://127.0.0.1:%d", port) }
func httpsURL(port int) string { return fmt.Sprintf("https://127.0.0.1:%d", port) }
