// SPDX-License-Identifier: Apache-2.0

// Package charts tests what charts/voice-agent renders, with Helm itself in process: no
// cluster, no network, no programs. It checks every object as a server-side apply would,
// and what must hold for all values.
//
// It is a module of its own, because Helm brings hundreds of packages. It does not
// upgrade or roll back releases.
package charts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/cli/values"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	folder    = "../../charts/voice-agent"
	namespace = "voice"
)

// given is the input of helm: files of ci/, and --set.
type given struct {
	release string // "v" if empty
	file    string // "default" if empty
	set     []string
	json    []string
	chart   func(*chart.Chart)
}

// rendered is Helm's output.
type rendered struct {
	files   map[string]string
	objects []*unstructured.Unstructured
}

func (g given) render() (rendered, error) {
	c, err := loader.Load(folder)
	if err != nil {
		return rendered{}, err
	}
	if g.chart != nil {
		g.chart(c)
	}
	file, release := g.file, g.release
	if file == "" {
		file = "default"
	}
	if release == "" {
		release = "v"
	}
	options := values.Options{
		ValueFiles: []string{filepath.Join(folder, "ci", file+"-values.yaml")},
		Values:     g.set,
		JSONValues: g.json,
	}
	vals, err := options.MergeValues(nil)
	if err != nil {
		return rendered{}, err
	}
	return renderChart(c, release, vals)
}

func renderChart(c *chart.Chart, release string, vals map[string]any) (rendered, error) {
	if err := chartutil.ProcessDependencies(c, vals); err != nil {
		return rendered{}, err
	}
	all, err := util.ToRenderValues(c, vals, common.ReleaseOptions{
		Name: release, Namespace: namespace, Revision: 1, IsInstall: true,
	}, common.DefaultCapabilities)
	if err != nil {
		return rendered{}, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return rendered{}, err
	}
	r := rendered{files: files}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		objects, err := decode(files[name])
		if err != nil {
			return rendered{}, fmt.Errorf("%s: %w\n%s", name, err, files[name])
		}
		r.objects = append(r.objects, objects...)
	}
	return r, nil
}

func decode(text string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewBufferString(text), 4096)
	for {
		content := map[string]any{}
		err := decoder.Decode(&content)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(content) > 0 {
			objects = append(objects, &unstructured.Unstructured{Object: content})
		}
	}
}

func (g given) must(t *testing.T) rendered {
	t.Helper()
	r, err := g.render()
	if err != nil {
		t.Fatalf("%+v does not render: %v", g.set, err)
	}
	return r
}

// all returns the objects of one kind, typed and by name.
func all[T any](t *testing.T, r rendered, kind string) map[string]*T {
	t.Helper()
	found := map[string]*T{}
	for _, o := range r.objects {
		if o.GetKind() != kind {
			continue
		}
		typed := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
			t.Fatalf("%s %s: %v", kind, o.GetName(), err)
		}
		found[o.GetName()] = typed
	}
	return found
}

func deployments(t *testing.T, r rendered) map[string]*appsv1.Deployment {
	t.Helper()
	return all[appsv1.Deployment](t, r, "Deployment")
}

func services(t *testing.T, r rendered) map[string]*corev1.Service {
	t.Helper()
	return all[corev1.Service](t, r, "Service")
}

func budgets(t *testing.T, r rendered) map[string]*policyv1.PodDisruptionBudget {
	t.Helper()
	return all[policyv1.PodDisruptionBudget](t, r, "PodDisruptionBudget")
}

func autoscalers(t *testing.T, r rendered) map[string]*autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	return all[autoscalingv2.HorizontalPodAutoscaler](t, r, "HorizontalPodAutoscaler")
}

func policies(t *testing.T, r rendered) map[string]*networkingv1.NetworkPolicy {
	t.Helper()
	return all[networkingv1.NetworkPolicy](t, r, "NetworkPolicy")
}

func roles(t *testing.T, r rendered) map[string]*rbacv1.Role {
	t.Helper()
	return all[rbacv1.Role](t, r, "Role")
}

// deployment returns the Deployment of one component.
func deployment(t *testing.T, r rendered, component string) *appsv1.Deployment {
	t.Helper()
	for _, d := range deployments(t, r) {
		if d.Labels["app.kubernetes.io/component"] == component {
			return d
		}
	}
	t.Fatalf("there is no Deployment of component %s", component)
	return nil
}

func containers(d *appsv1.Deployment) []corev1.Container {
	return append(slices.Clone(d.Spec.Template.Spec.InitContainers), d.Spec.Template.Spec.Containers...)
}

func container(t *testing.T, d *appsv1.Deployment, name string) corev1.Container {
	t.Helper()
	for _, c := range containers(d) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("Deployment %s has no container %s", d.Name, name)
	return corev1.Container{}
}

// env returns a container's variables as text.
func env(c corev1.Container) map[string]string {
	found := map[string]string{}
	for _, e := range c.Env {
		found[e.Name] = e.Value
	}
	return found
}

func (r rendered) notes() string { return r.files["voice-agent/templates/NOTES.txt"] }
