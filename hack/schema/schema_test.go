// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason string
		values string
		want   string // the schema of the values' keys
	}{
		"Scalars": {
			reason: "A value shows its type, and its default unless it is empty text.",
			values: "a: x\nb: 1\nc: 1.5\nd: true\ne: \"\"\nf: \"1\"",
			want: `{"a":{"type":"string","default":"x"},"b":{"type":"integer","default":1},"c":{"type":"number","default":1.5},
				"d":{"type":"boolean","default":true},"e":{"type":"string"},"f":{"type":"string","default":"1"}}`,
		},
		"Objects": {
			reason: "An object takes no key but those it shows, at every depth.",
			values: "a:\n  b:\n    c: 1",
			want: `{"a":{"type":"object","additionalProperties":false,"properties":{
				"b":{"type":"object","additionalProperties":false,"properties":{"c":{"type":"integer","default":1}}}}}}`,
		},
		"FreeForm": {
			reason: "An object that is declared open accepts any keys, whatever its default has.",
			values: "# @schema {additionalProperties: true}\nresources:\n  limits: {cpu: 1}",
			want:   `{"resources":{"type":"object","additionalProperties":true}}`,
		},
		"Lists": {
			reason: "Items are as the comment says.",
			values: "# @schema {items: {type: string}}\nargs: []",
			want:   `{"args":{"type":"array","items":{"type":"string"}}}`,
		},
		"AnnotationOverValue": {
			reason: "A comment replaces what the value shows.",
			values: "# @schema {type: [string, number], minLength: 1}\ntag: dev",
			want:   `{"tag":{"type":["string","number"],"minLength":1,"default":"dev"}}`,
		},
		"SeveralLines": {
			reason: "Lines of one comment are one annotation.",
			values: "# @schema {minimum: 1,\n# @schema  maximum: 3}\na: 2",
			want:   `{"a":{"type":"integer","default":2,"minimum":1,"maximum":3}}`,
		},
		"Null": {
			reason: "A missing value needs its type said.",
			values: "# @schema {type: [string, \"null\"]}\na:",
			want:   `{"a":{"type":["string","null"]}}`,
		},
		"Reference": {
			reason: "Draft 07 ignores everything next to a reference, so only prose may be there.",
			values: "a: {b: 1}\n# @schema {$ref: \"#/properties/a\"}\n# -- Like a.\nc: {}",
			want: `{"a":{"type":"object","additionalProperties":false,"properties":{"b":{"type":"integer","default":1}}},
				"c":{"$ref":"#/properties/a","description":"Like a."}}`,
		},
		"Like": {
			reason: "An object may have the keys of another, or null for one, besides its own, which stay as they are.",
			values: "a: {b: 1, c: x}\n# @schema {like: a}\nd: {c: 2, e: true}",
			want: `{"a":{"type":"object","additionalProperties":false,"properties":{"b":{"type":["integer","null"],"default":1},"c":{"type":["string","null"],"default":"x"}}},
				"d":{"type":"object","additionalProperties":false,"properties":{
				"b":{"$ref":"#/properties/a/properties/b"},"c":{"type":"integer","default":2},"e":{"type":"boolean","default":true}}}}`,
		},
		"Description": {
			reason: "The prose next to a key describes it; a heading above a blank line, and annotations, do not.",
			values: "# A heading.\n#\n# @schema {minLength: 1}\n# -- What it is,\n# at length.\na: x\n# Plain prose.\nb: x",
			want: `{"a":{"type":"string","default":"x","minLength":1,"description":"What it is, at length."},
				"b":{"type":"string","default":"x","description":"Plain prose."}}`,
		},
		"LikeByOtherNames": {
			reason: "The keys of another have all their names.",
			values: "# @schema {aliases: {color: tint}}\nall: {tint: red}\n# @schema {like: all}\nmine: {size: 1}",
			want: `{"all":{"type":"object","additionalProperties":false,"properties":{"tint":{"type":["string","null"],"default":"red"}}},
				"mine":{"type":"object","additionalProperties":false,"properties":{"size":{"type":"integer","default":1},
				"tint":{"$ref":"#/properties/all/properties/tint"},"color":{"$ref":"#/properties/all/properties/tint"}}}}`,
		},
		"Told": {
			reason: "A name that the templates refuse in words gets through to them.",
			values: "# @schema {told: [count]}\na: {b: 1}",
			want: `{"a":{"type":"object","additionalProperties":false,"properties":{"b":{"type":"integer","default":1},
				"count":{"description":"Not a value of this chart: the error of the templates names the right one."}}}}`,
		},
		"OwnGlobal": {
			reason: "A chart with its own values under one of Helm's keys keeps them.",
			values: "# @schema {additionalProperties: true}\nglobal: {}\n# -- Mine.\nenabled: false",
			want:   `{"global":{"type":"object","additionalProperties":true},"enabled":{"type":"boolean","default":false,"description":"Mine."}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Of([]byte(tc.values), "t", nil)
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			var schema struct{ Properties map[string]any }
			if err := json.Unmarshal(got, &schema); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{}
			if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
				t.Fatal(err)
			}
			for _, helms := range []string{"global", "enabled"} {
				if _, own := want[helms]; !own {
					delete(schema.Properties, helms)
				}
			}
			if diff := cmp.Diff(want, schema.Properties); diff != "" {
				t.Errorf("%s\n(-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

// TestRoot checks what the root has besides the values' own keys.
func TestRoot(t *testing.T) {
	t.Parallel()
	got, err := Of([]byte("# @schema {required: [a]}\n\n# -- A.\na: 1\n"), "Values of chart x", []string{"lib"})
	if err != nil {
		t.Fatal(err)
	}
	schema := map[string]any{}
	if err := json.Unmarshal(got, &schema); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"$schema":              "http://json-schema.org/draft-07/schema#",
		"title":                "Values of chart x",
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"a"},
		"properties": map[string]any{
			"a":       map[string]any{"type": "integer", "default": 1.0, "description": "A."},
			"global":  map[string]any{"type": "object", "description": "Set by Helm."},
			"lib":     map[string]any{"type": "object", "description": "Set by Helm."},
			"enabled": map[string]any{"type": "boolean", "description": "For a chart that depends on this one."},
		},
	}
	if diff := cmp.Diff(want, schema); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestMistakes checks that each is named with its line and a solution, all at once.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ values, want string }{
		"EmptyObject": {values: "a: {}", want: "line 1: a is an empty object; say above it what it may hold"},
		"List":        {values: "a:\n  b: [x]", want: "line 2: a.b is a list; say above it what its items are"},
		"Null":        {values: "a:", want: `line 1: a is "", which says nothing of its type`},
		"BrokenYAML":  {values: "# @schema {minLength: 1\na: x", want: "line 2: # @schema above it is no YAML object"},
		"OwnEnum":     {values: "# @schema {enum: [x, y]}\na: z", want: `line 2: a is "z", which its own enum does not allow; use one of [x y]`},
		"Alias":       {values: "a: &a x\nb: *a", want: "line 2: b is an alias; write the value out"},
		"NoMapping":   {values: "- a", want: "values are a mapping; begin with a key"},
		"LikeNothing": {values: "# @schema {like: b}\na: {c: 1}", want: `a is like "b": both have to be objects`},
		"AllAtOnce":   {values: "a: {}\nb: {}", want: "line 2: b is an empty object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Of([]byte(tc.values), "t", nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestOfChart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := OfChart(dir); err == nil {
		t.Error("a folder without values.yaml gave no error")
	}
	for name, text := range map[string]string{
		"values.yaml": "a: 1\n",
		"Chart.yaml":  "name: x\ndependencies: [{name: lib}, {name: lib, alias: second}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := OfChart(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"Values of chart x"`, `"lib": {`, `"second": {`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the schema lacks %s:\n%s", want, got)
		}
	}
}
