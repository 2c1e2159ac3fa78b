// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/callguard/callguard/test/fleet"
)

// Links are the links between programs of a stage with Options.Linked. All guards share theirs.
type Links struct {
	GuardLiveKit, AdapterLiveKit, GuardAPI *Link
	// Gates is before every gate's status, for guards, adapters and kubectl plugins. Nodes ask their own gates without it.
	Gates *Link

	mu     sync.Mutex
	urls   map[linked]string
	agents map[string]*Link // namespace → link
}

// linked is a server that is reached by a link.
type linked struct {
	link   *Link
	server string
}

func newLinks() *Links {
	return &Links{
		GuardLiveKit: NewLink(), AdapterLiveKit: NewLink(), GuardAPI: NewLink(), Gates: NewLink(),
		urls: map[linked]string{}, agents: map[string]*Link{},
	}
}

// Agents is the link between LiveKit and the workers of a namespace: of an agent without a gate its worker's connection, on which
// LiveKit offers jobs, of one with a gate all that its gate has with LiveKit. Agents are in their rooms without it.
func (ls *Links) Agents(namespace string) *Link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.agents[namespace] == nil {
		ls.agents[namespace] = NewLink()
	}
	return ls.agents[namespace]
}

// url is where a server is reached by a link.
func (ls *Links) url(link *Link, server string) (string, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	key := linked{link, server}
	if ls.urls[key] != "" {
		return ls.urls[key], nil
	}
	scheme, host, ok := strings.Cut(server, "://")
	if !ok {
		return "", fmt.Errorf("no link can be put before %q; use a URL such as https://127.0.0.1:6443", server)
	}
	at, _, err := link.Listen("127.0.0.1:0", host)
	if err != nil {
		return "", err
	}
	ls.urls[key] = scheme + "://" + at
	return ls.urls[key], nil
}

// guardLiveKit and adapterLiveKit are where guards and adapters reach the first LiveKit.
func (l *Lab) guardLiveKit() (string, error) {
	if l.Links == nil {
		return l.LiveKits[0].URL, nil
	}
	return l.Links.url(l.Links.GuardLiveKit, l.LiveKits[0].URL)
}

func (l *Lab) adapterLiveKit() (string, error) {
	if l.Links == nil {
		return l.LiveKits[0].URL, nil
	}
	return l.Links.url(l.Links.AdapterLiveKit, l.LiveKits[0].URL)
}

// linkedProjectOf is projectOf, with the link of a pod's worker or gate.
func (l *Lab) linkedProjectOf(pod *corev1.Pod) (fleet.Project, bool) {
	project, ok := l.projectOf(pod)
	if !ok || l.Links == nil {
		return project, ok
	}
	var err error
	project.Via, err = l.Links.url(l.Links.Agents(pod.Namespace), project.URL)
	return project, err == nil // asked again at the agent's next try
}

// guardKubeconfig is a kubeconfig with which guards reach kube-apiserver by their link.
func (l *Lab) guardKubeconfig(path string) (string, error) {
	if l.Links == nil {
		return path, nil
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot lead the kubeconfig of guards by a link: %w", err)
	}
	for _, cluster := range config.Clusters {
		if cluster.Server, err = l.Links.url(l.Links.GuardAPI, cluster.Server); err != nil {
			return "", err
		}
	}
	path = filepath.Join(l.Cluster.Dir(), GuardName+"-by-link.kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return "", fmt.Errorf("cannot lead the kubeconfig of guards by a link: %w", err)
	}
	return path, nil
}

// close ends all links.
func (ls *Links) close() {
	if ls == nil {
		return
	}
	ls.mu.Lock()
	all := []*Link{ls.GuardLiveKit, ls.AdapterLiveKit, ls.GuardAPI, ls.Gates}
	for _, link := range ls.agents {
		all = append(all, link)
	}
	ls.mu.Unlock()
	for _, link := range all {
		link.Close()
	}
}
