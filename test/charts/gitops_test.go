// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"cmp"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// page is docs/gitops.md: its text, and the objects in it by kind.
func page(t *testing.T) (string, map[string]map[string]any) {
	t.Helper()
	text, err := os.ReadFile("../../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]any{}
	for i, block := range strings.Split(string(text), "```yaml\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		objects, err := decode(block)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, block)
		}
		for _, o := range objects {
			found[o.GetKind()] = o.Object
		}
	}
	return string(text), found
}

// into decodes a part of an object.
func into(t *testing.T, object any, part any, path ...string) {
	t.Helper()
	for _, key := range path {
		below, ok := object.(map[string]any)
		if !ok {
			t.Fatalf("docs/gitops.md has nothing at %v", path)
		}
		object = below[key]
	}
	text, err := sigsyaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, part); err != nil {
		t.Fatalf("%v: %v", path, err)
	}
}

// at reports whether a rendered object has a field at a JSON pointer.
func at(r rendered, kind, name, pointer string) (there, has bool) {
	i := slices.IndexFunc(r.objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		return false, false
	}
	path := strings.Split(strings.NewReplacer("~1", "/", "~0", "~").Replace(strings.TrimPrefix(pointer, "/")), "/")
	_, has, err := unstructured.NestedFieldNoCopy(r.objects[i].Object, path...)
	return true, has && err == nil
}

// ofValues renders the voice agent with the values on the page.
func ofValues(t *testing.T, object any, path ...string) rendered {
	t.Helper()
	vals := map[string]any{}
	into(t, object, &vals, path...)
	return renderPage(t, vals)
}

func renderPage(t *testing.T, vals map[string]any) rendered {
	t.Helper()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	r, err := renderChart(c, "voice", vals)
	if err != nil {
		t.Fatalf("the values of docs/gitops.md do not render: %v", err)
	}
	return r
}

// TestIgnoredPaths: the fields that docs/gitops.md makes Argo CD and Flux ignore exist in what the chart renders with its
// values; otherwise the advice would have no effect.
func TestIgnoredPaths(t *testing.T) {
	t.Parallel()
	_, objects := page(t)
	var argo []struct {
		Group, Kind, Name string
		JSONPointers      []string
	}
	into(t, objects["Application"], &argo, "spec", "ignoreDifferences")
	var flux []struct {
		Paths  []string
		Target struct{ Kind, Name string }
	}
	into(t, objects["HelmRelease"], &flux, "spec", "driftDetection", "ignore")
	checked := 0
	check := func(r rendered, kind, name string, pointers []string) {
		for _, pointer := range pointers {
			checked++
			if there, has := at(r, kind, name, pointer); !there || !has {
				t.Errorf("%s %s is rendered: %t, and has %s: %t", kind, name, there, pointer, has)
			}
		}
	}
	for _, rule := range argo {
		if rule.Group != "apps" {
			t.Errorf("%s is of group %s", rule.Kind, rule.Group)
		}
		check(ofValues(t, objects["Application"], "spec", "source", "helm", "valuesObject"), rule.Kind, rule.Name, rule.JSONPointers)
	}
	for _, rule := range flux {
		check(ofValues(t, objects["HelmRelease"], "spec", "values"), rule.Target.Kind, rule.Target.Name, rule.Paths)
	}
	if checked < 2 {
		t.Errorf("%d paths were checked, want those of both tools", checked)
	}
}

// TestWrittenByOthers: fields that the page calls left out for others are not rendered, and those it calls rendered are.
func TestWrittenByOthers(t *testing.T) {
	t.Parallel()
	text, _ := page(t)
	rows := regexp.MustCompile("(?m)^\\| (\\w+) `([^`]+)` `(/[^`]+)` \\|").FindAllStringSubmatch(text, -1)
	voice := func(vals map[string]any) rendered {
		vals["agent"] = merged(vals["agent"], map[string]any{"image": map[string]any{"repository": "x", "tag": "a"}})
		vals["livekit"] = merged(vals["livekit"], map[string]any{"existingSecret": "livekit", "redis": map[string]any{"address": "redis:6379"}})
		return renderPage(t, vals)
	}
	own := map[string]any{"autoscaling": map[string]any{"enabled": true}}
	fixed := map[string]any{"autoscaling": map[string]any{"enabled": false}}
	ca := addon{set: []string{"tls.mode=existingSecret", "tls.existingSecret=own"}, json: []string{`tls.caBundle="-----BEGIN CERTIFICATE-----"`}}
	states := map[string]struct{ out, in rendered }{
		"/spec/caBundle":          {addon{}.must(t), ca.must(t)},
		"voice-voice-agent-agent": {voice(map[string]any{}), voice(map[string]any{"agent": fixed})},
		"voice-voice-agent-livekit": {
			voice(map[string]any{"livekit": own}), voice(map[string]any{}),
		},
	}
	if len(rows) != len(states) {
		t.Fatalf("the table has %d rows, want %d: %v", len(rows), len(states), rows)
	}
	for _, row := range rows {
		kind, name, pointer := row[1], row[2], row[3]
		state, ok := states[name]
		if !ok {
			state, ok = states[pointer]
		}
		if !ok {
			t.Errorf("no test checks %s %s", name, pointer)
			continue
		}
		if there, has := at(state.out, kind, name, pointer); !there || has {
			t.Errorf("%s %s is rendered: %t; %s, which others write, is: %t", kind, name, there, pointer, has)
		}
		if there, has := at(state.in, kind, name, pointer); !there || !has {
			t.Errorf("%s %s is rendered: %t; %s, where the chart has to say it, is: %t", kind, name, there, pointer, has)
		}
	}
}

// TestProject: the AppProject on the page lets Argo CD create all of charts/callguard, and nothing more.
func TestProject(t *testing.T) {
	t.Parallel()
	_, objects := page(t)
	type kind struct{ Group, Kind string }
	var allowed []kind
	into(t, objects["AppProject"], &allowed, "spec", "clusterResourceWhitelist")
	var destinations []struct{ Server, Namespace string }
	into(t, objects["AppProject"], &destinations, "spec", "destinations")
	var kinds []kind
	var namespaces, given []string
	for _, o := range (addon{set: []string{"namespace.create=true", "networkPolicy.enabled=true"}}).must(t).objects {
		if ns := o.GetNamespace(); ns != "" {
			namespaces = append(namespaces, ns)
			continue
		}
		kinds = append(kinds, kind{o.GroupVersionKind().Group, o.GetKind()})
	}
	for _, d := range destinations {
		given = append(given, d.Namespace)
	}
	byKind := func(a, b kind) int { return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind)) }
	slices.SortFunc(kinds, byKind)
	slices.SortFunc(allowed, byKind)
	if diff := gocmp.Diff(slices.Compact(kinds), allowed); diff != "" {
		t.Errorf("kinds of the cluster (-rendered +allowed):\n%s", diff)
	}
	slices.Sort(namespaces)
	slices.Sort(given)
	if diff := gocmp.Diff(slices.Compact(namespaces), given); diff != "" {
		t.Errorf("namespaces (-rendered +allowed):\n%s", diff)
	}
}

// TestKustomization: the kustomization on the page renders, with the grace policy, and nothing around it would rename or move
// objects.
func TestKustomization(t *testing.T) {
	t.Parallel()
	_, objects := page(t)
	for key := range objects["Kustomization"] {
		if !slices.Contains([]string{"apiVersion", "kind", "helmCharts"}, key) {
			t.Errorf("the Kustomization has %s, which reaches into all objects", key)
		}
	}
	var charts []struct {
		Name, ReleaseName, Namespace, KubeVersion string
		SkipHooks                                 bool
		ValuesInline                              map[string]any
	}
	into(t, objects["Kustomization"], &charts, "helmCharts")
	if len(charts) != 1 || charts[0].Name != "callguard" || !charts[0].SkipHooks {
		t.Fatalf("the charts are %+v", charts)
	}
	var json []string
	for key, value := range charts[0].ValuesInline {
		one, err := sigsyaml.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		as, err := sigsyaml.YAMLToJSON(one)
		if err != nil {
			t.Fatal(err)
		}
		json = append(json, key+"="+string(as))
	}
	r := addon{namespace: charts[0].Namespace, version: "v" + charts[0].KubeVersion, json: json}.must(t)
	if there, _ := at(r, "MutatingAdmissionPolicy", "callguard-grace", "/spec"); !there {
		t.Error("with these values there is no policy callguard-grace")
	}
}

// merged merges a map over another.
func merged(over any, onto map[string]any) map[string]any {
	if values, ok := over.(map[string]any); ok {
		maps.Copy(onto, values)
	}
	return onto
}
