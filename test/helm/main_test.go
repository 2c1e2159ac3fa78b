// SPDX-License-Identifier: Apache-2.0

// Package helm tests what people do to the charts with Helm, on a real control plane: install,
// scale, upgrade, roll back, transfer fields, uninstall. Nodes are simulated, so pods run nothing:
// metrics-adapter answers nothing, and drain-guard does nothing. A test that writes in their place
// says so.
//
// test/charts and manifests test what a chart renders, and test/nodes what its programs do on real
// nodes.
//
// Tests of charts/callguard have the cluster for themselves, one after the other. Then those of
// charts/voice-agent run in parallel, each in its own namespace.
package helm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/lab"
)

const repository = "../.."

// stage is what all tests share.
var stage struct {
	config      *rest.Config // an administrator's
	client      kubernetes.Interface
	apiServices aggregator.Interface
	cluster     *local.Cluster
	home        string // for files of the tests
	// programs and their environment
	helm, kubectl string
	env           []string
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil { // they mostly wait
		return 1, err
	}
	path, err := exec.CommandContext(ctx, "go", "tool", "-n", "-modfile="+filepath.Join(repository, "hack/tools/helm/go.mod"), "helm").Output()
	if err != nil {
		return 1, fmt.Errorf("cannot build Helm: %w", err)
	}
	stage.helm = strings.TrimSpace(string(path))
	home, err := os.MkdirTemp("", "callguard-helm-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()

	cluster, err := local.Up(ctx, local.Config{Name: lab.InstanceName("helm"), Nodes: 2, Progress: os.Stderr})
	if err != nil {
		return 1, err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, cluster.Down(last))
	}()
	stage.cluster, stage.home = cluster, home
	if stage.config, err = cluster.AdminConfig(); err != nil {
		return 1, err
	}
	if stage.client, err = kubernetes.NewForConfig(stage.config); err != nil {
		return 1, err
	}
	if stage.apiServices, err = aggregator.NewForConfig(stage.config); err != nil {
		return 1, err
	}
	if stage.kubectl, err = cluster.Kubectl(); err != nil {
		return 1, err
	}
	kubeconfig, err := cluster.AdminKubeconfig()
	if err != nil {
		return 1, err
	}
	stage.env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+filepath.Join(home, "kube"),
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	return m.Run(), nil
}

// theAddon is installed once for all these tests, without its adapter, because no adapter runs
// here.
var theAddon = sync.OnceValue(func() error {
	_, err := command(context.Background(), "", stage.helm, addonArgs("install", "--create-namespace", "--set", "metricsAdapter.mode=none")...)
	return err
})

// program is the path of the drain-guard of this checkout.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(stage.home, "drain-guard")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "./cmd/drain-guard")
	// The flags of test/lab, so that packages are compiled once.
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build drain-guard: %w: %s", err, out)
	}
	return path, nil
})
