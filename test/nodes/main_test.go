// SPDX-License-Identifier: Apache-2.0

// Package nodes tests callguard as users run it: both charts, installed by Helm
// on real nodes, with images, the real livekit-server and the real LiveKit Agents
// for Node in pods. It needs root and Debian's containerd.
package nodes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	protologger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/hack/oci"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/nodeagent"
)

const repository = "../.."

// Images of the tests, by their names in the charts' values.
const (
	callguardImage = "callguard"
	livekitImage   = "livekit-server"
	agentImage     = "voice-agent"
	imageTag       = "e2e"
)

// stage is what all tests share: a cluster with two real nodes, and Helm.
var stage struct {
	cluster    *local.Cluster
	client     kubernetes.Interface
	kubectl    string
	helm       string
	kubeconfig string
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	lksdk.SetLogger(protologger.LogRLogger(logr.Discard()))
	flag.Parse()
	stage.cluster, err = local.Up(ctx, local.Config{
		Name: lab.InstanceName("nodes"), Nodes: 2, Kubelets: true, NodeLeaseSeconds: local.DefaultNodeLease, Progress: os.Stderr,
		IPv6Services: *ipv6Services, ClusterDomain: *clusterDomain,
		ControllerManagerArgs: []string{"--horizontal-pod-autoscaler-downscale-stabilization=10s"},
	})
	if err != nil {
		return 1, err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, stage.cluster.Down(last))
	}()
	config, err := stage.cluster.AdminConfig()
	if err != nil {
		return 1, err
	}
	if stage.client, err = kubernetes.NewForConfig(config); err != nil {
		return 1, err
	}
	if stage.kubectl, err = stage.cluster.Kubectl(); err != nil {
		return 1, err
	}
	if stage.kubeconfig, err = stage.cluster.AdminKubeconfig(); err != nil {
		return 1, err
	}
	path, err := exec.CommandContext(ctx, "go", "tool", "-n", "-modfile="+filepath.Join(repository, "hack/tools/helm/go.mod"), "helm").Output()
	if err != nil {
		return 1, fmt.Errorf("cannot build Helm: %w", err)
	}
	stage.helm = strings.TrimSpace(string(path))
	if err := loadImages(ctx, os.Stderr); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// loadImages builds the images and loads them into the nodes.
func loadImages(ctx context.Context, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "callguard-images-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs := filepath.Join(dir, "programs")
	if err := os.Mkdir(programs, 0o700); err != nil {
		return err
	}
	ours, err := oci.Programs(ctx, repository, programs, oci.LocalArch, oci.Development)
	if err != nil {
		return err
	}
	livekit, err := local.Program(ctx, "livekit-server", progress)
	if err != nil {
		return err
	}
	modules, err := nodeagent.Install(ctx, progress)
	if err != nil {
		return err
	}
	agent, err := nodeagent.Image(ctx, modules)
	if err != nil {
		return err
	}
	for name, image := range map[string]oci.Image{
		callguardImage: ours, agentImage: agent,
		livekitImage: {Entrypoint: []string{"/livekit-server"}, Files: map[string]string{"/livekit-server": livekit}},
	} {
		began := time.Now()
		file := filepath.Join(dir, name+".tar")
		if _, err := image.Write(file, name+":"+imageTag); err != nil {
			return err
		}
		if err := stage.cluster.LoadImage(ctx, file); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(progress, "image %s: built and loaded in %.0f s\n", name, time.Since(began).Seconds())
	}
	return nil
}

// randomName is for a secret that is used once.
func randomName(of string) string {
	sum := sha256.Sum256(fmt.Append(nil, of, time.Now().UnixNano()))
	return hex.EncodeToString(sum[:16])
}
