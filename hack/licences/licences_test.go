// SPDX-License-Identifier: Apache-2.0

package licences

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/hack/oci"
)

// Licences as modules have them.
const (
	mit = `MIT License

Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
`
	gpl = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License as published by the
Free Software Foundation, either version 3 of the License, or (at your option) any later version.
`
)

func TestJudge(t *testing.T) {
	own, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	apache := string(own)
	for name, tc := range map[string]struct {
		texts []Text
		want  string
		wrong string
	}{
		"One":       {[]Text{{"LICENSE", mit}}, "MIT", ""},
		"Several":   {[]Text{{"COPYING", mit}, {"third_party/LICENSE", apache}}, "Apache-2.0 AND MIT", ""},
		"Notice":    {[]Text{{"LICENSE", apache}, {"NOTICE", "Copyright 2026 somebody"}}, "Apache-2.0", ""},
		"None":      {nil, "", "it has no licence"},
		"NoticeToo": {[]Text{{"NOTICE", mit}}, "", "it has no licence"},
		"Unknown":   {[]Text{{"LICENSE", "All rights reserved. Ask us."}}, "", "LICENSE is no licence that is known"},
		"Forbidden": {[]Text{{"LICENSE", gpl}}, "", "is not one of those under which a module may be linked: Apache-2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := judge(tc.texts)
			if got != tc.want || (err == nil) != (tc.wrong == "") {
				t.Fatalf("judged %q, error %v; want %q, error %q", got, err, tc.want, tc.wrong)
			}
			if err != nil && !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("error is %v, want %q", err, tc.wrong)
			}
		})
	}
}

// TestLinked reads the licences of this package's dependencies, and of a module that
// keeps code of others in a folder.
func TestLinked(t *testing.T) {
	modules, err := Linked(t.Context(), "../..", []oci.Platform{{System: "linux", Arch: "amd64"}, {System: "windows", Arch: "arm64"}}, "./hack/licences", "k8s.io/apimachinery/pkg/util/json")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range modules {
		got[m.Path] = m.Licence
		if len(m.Texts) == 0 || m.Version == "" {
			t.Errorf("module %s has version %q and %d texts; want both", m.Path, m.Version, len(m.Texts))
		}
	}
	for module, want := range map[string]string{"stdlib": "BSD-3-Clause", "github.com/google/licensecheck": "BSD-3-Clause", "k8s.io/apimachinery": "Apache-2.0", "sigs.k8s.io/json": "Apache-2.0 AND BSD-3-Clause"} {
		if got[module] != want {
			t.Errorf("module %s has licence %q, want %q", module, got[module], want)
		}
	}
}

func TestNoticesNameATextOnce(t *testing.T) {
	got := Notices([]Module{
		{"example.com/a", "v1.0.0", "MIT", []Text{{"LICENSE", "\nthe same  \r\ntext\n"}}},
		{"example.com/b", "v1.2.0", "MIT", []Text{{"COPYING", "the same\ntext\n\n"}, {"NOTICE", "something else"}}},
	})
	_, list, _ := strings.Cut(got, rule)
	want := `example.com/a v1.0.0 (MIT), LICENSE
example.com/b v1.2.0 (MIT), COPYING
` + rule + `
the same
text

` + rule + `example.com/b v1.2.0 (MIT), NOTICE
` + rule + `
something else

`
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}
