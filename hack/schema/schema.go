// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// annotation begins a comment that adds to what a value shows.
const annotation = "@schema"

// Keywords of annotations that are not JSON schema's.
const (
	// like names the key at the root whose keys an object may have besides its own, or null
	// for none.
	like = "like"
	// aliases, of such a key at the root, are other names for some of its keys.
	aliases = "aliases"
	// told lists names that the templates refuse with an explanation.
	told = "told"
)

// object is a JSON schema.
type object map[string]any

// OfChart returns the schema of the values of the chart in a folder.
func OfChart(dir string) ([]byte, error) {
	values, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		return nil, err
	}
	file, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	if err != nil {
		return nil, err
	}
	var chart struct {
		Name         string
		Dependencies []struct{ Name, Alias string }
	}
	if err := yaml.Unmarshal(file, &chart); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "Chart.yaml"), err)
	}
	var dependencies []string
	for _, d := range chart.Dependencies {
		name := d.Alias
		if name == "" {
			name = d.Name
		}
		dependencies = append(dependencies, name)
	}
	schema, err := Of(values, "Values of chart "+chart.Name, dependencies)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "values.yaml"), err)
	}
	return schema, nil
}

// Of returns the schema of a values.yaml, in draft 07, which every Helm version reads. An
// object may have only the keys of the file. The root also allows what Helm itself adds:
// global, a key for each dependency, and enabled, for a chart that has this one as a
// part.
func Of(values []byte, title string, dependencies []string) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(values, &doc); err != nil {
		return nil, err
	}
	root := &yaml.Node{Kind: yaml.MappingNode}
	if len(doc.Content) > 0 {
		root = doc.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("values are a mapping; begin with a key, as in image: {}")
	}

	var w walk
	schema := w.mapping("", root)
	w.lay(schema, root.Line, doc.HeadComment)
	properties, _ := schema["properties"].(object)
	w.likeness(properties, properties)
	tell(schema)
	for _, name := range append([]string{"global"}, dependencies...) {
		if _, own := properties[name]; !own {
			properties[name] = object{"type": "object", "description": "Set by Helm."}
		}
	}
	if _, own := properties["enabled"]; !own {
		properties["enabled"] = object{"type": "boolean", "description": "For a chart that depends on this one."}
	}
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = title
	if err := errors.Join(w.errs...); err != nil {
		return nil, err
	}

	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// walk reads a file once and collects every mistake.
type walk struct{ errs []error }

func (w *walk) wrong(line int, format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...)))
}

// mapping returns the schema of an object that may have only these keys.
func (w *walk) mapping(path string, node *yaml.Node) object {
	properties := object{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		properties[key.Value] = w.value(strings.TrimPrefix(path+"."+key.Value, "."), key, value)
	}
	return object{"type": "object", "properties": properties, "additionalProperties": false}
}

// value returns the schema of one key, from its value and the comments above it.
func (w *walk) value(path string, key, node *yaml.Node) object {
	said := object{}
	w.lay(said, key.Line, key.HeadComment)
	if text := description(key.HeadComment); text != "" {
		said["description"] = text
	}
	if _, ok := said["$ref"]; ok {
		return said // Draft 07 ignores everything beside a $ref.
	}

	shown := object{}
	switch node.Kind {
	case yaml.MappingNode:
		_, open := said["additionalProperties"]
		switch {
		case open:
			shown["type"] = "object"
		case len(node.Content) == 0:
			w.wrong(key.Line, "%s is an empty object; say above it what it may hold, such as # %s {additionalProperties: {type: string}}, or true for anything", path, annotation)
		default:
			shown = w.mapping(path, node)
		}
	case yaml.SequenceNode:
		shown["type"] = "array"
		if _, ok := said["items"]; !ok {
			w.wrong(key.Line, "%s is a list; say above it what its items are, such as # %s {items: {type: string}}", path, annotation)
		}
	case yaml.ScalarNode:
		shown = w.scalar(path, key, node, said)
	default:
		w.wrong(key.Line, "%s is an alias; write the value out, for whoever overrides it needs to see it", path)
	}
	maps.Copy(shown, said)
	return shown
}

// likeness gives objects that are like a key of the root the keys of that one, as
// references, except for keys of their own.
func (w *walk) likeness(root, properties object) {
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		value, _ := properties[name].(object)
		own, _ := value["properties"].(object)
		if model, ok := value[like].(string); ok {
			delete(value, like)
			of, _ := root[model].(object)
			shared, _ := of["properties"].(object)
			if len(shared) == 0 || own == nil {
				w.errs = append(w.errs, fmt.Errorf("%s is like %q: both have to be objects with keys of their own, and %[2]s at the root", name, model))
				continue
			}
			for key, shape := range shared {
				if _, there := own[key]; !there {
					own[key] = object{"$ref": "#/properties/" + model + "/properties/" + key}
				}
				orNull(shape)
			}
			others, _ := of[aliases].(object)
			for alias, key := range others {
				own[alias] = object{"$ref": fmt.Sprintf("#/properties/%s/properties/%v", model, key)}
			}
		}
		w.likeness(root, own)
	}
}

// orNull also allows null, with which people unset a key. Helm itself removes null only
// from values with a default.
func orNull(shape any) {
	schema, _ := shape.(object)
	switch types := schema["type"].(type) {
	case string:
		schema["type"] = []any{types, "null"}
	case []any:
		if !slices.Contains(types, any("null")) {
			schema["type"] = append(types, "null")
		}
	}
	if allowed, ok := schema["enum"].([]any); ok && !slices.Contains(allowed, nil) {
		schema["enum"] = append(allowed, nil)
	}
}

// tell allows the names that are told, here and below, and removes what is not JSON
// schema.
func tell(schema object) {
	delete(schema, aliases)
	properties, _ := schema["properties"].(object)
	for _, value := range properties {
		if below, ok := value.(object); ok {
			tell(below)
		}
	}
	names, _ := schema[told].([]any)
	delete(schema, told)
	for _, name := range names {
		properties[fmt.Sprint(name)] = object{"description": "Not a value of this chart: the error of the templates names the right one."}
	}
}

func (w *walk) scalar(path string, key, node *yaml.Node, said object) object {
	types := map[string]string{"!!str": "string", "!!int": "integer", "!!float": "number", "!!bool": "boolean"}
	kind, ok := types[node.Tag]
	_, typed := said["type"]
	_, listed := said["enum"]
	if !ok && !typed && !listed {
		w.wrong(key.Line, "%s is %q, which says nothing of its type; add # %s {type: string}", path, node.Value, annotation)
	}
	if !ok {
		return object{}
	}
	var value any
	if err := node.Decode(&value); err != nil {
		w.wrong(key.Line, "%s: %w", path, err)
	}
	if allowed, ok := said["enum"].([]any); ok && !slices.Contains(allowed, value) {
		w.wrong(key.Line, "%s is %q, which its own enum does not allow; use one of %v", path, node.Value, allowed)
	}
	shown := object{"type": kind}
	if value != "" {
		shown["default"] = value
	}
	return shown
}

// lay merges the annotations of a comment into a schema. Several lines are one
// annotation.
func (w *walk) lay(schema object, line int, comment string) {
	var text []string
	for l := range strings.Lines(comment) {
		if rest, ok := strings.CutPrefix(uncomment(l), annotation+" "); ok {
			text = append(text, rest)
		}
	}
	if len(text) == 0 {
		return
	}
	said := object{}
	if err := yaml.Unmarshal([]byte(strings.Join(text, "\n")), &said); err != nil {
		w.wrong(line, "# %s above it is no YAML object: %w; write it like # %s {minLength: 1}", annotation, err, annotation)
		return
	}
	maps.Copy(schema, said)
}

// description returns the prose of a comment: what follows "--" if there is one,
// otherwise all of it, and only what is next to the key.
func description(comment string) string {
	var words []string
	for l := range strings.Lines(comment) {
		l = uncomment(l)
		switch {
		case l == "":
			words = nil
		case strings.HasPrefix(l, "@"):
		case strings.HasPrefix(l, "-- "):
			words = []string{strings.TrimPrefix(l, "-- ")}
		default:
			words = append(words, l)
		}
	}
	return strings.Join(words, " ")
}

func uncomment(line string) string {
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
}
