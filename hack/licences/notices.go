// SPDX-License-Identifier: Apache-2.0

package licences

import (
	"fmt"
	"strings"
)

const rule = "================================================================================\n"

// Notices is what has to be shipped with programs that contain these modules: each licence and notice once, below the modules that
// have it.
func Notices(modules []Module) string {
	var order []string
	owners := map[string][]string{}
	for _, m := range modules {
		for _, t := range m.Texts {
			text := plain(t.Content)
			if owners[text] == nil {
				order = append(order, text)
			}
			owners[text] = append(owners[text], fmt.Sprintf("%s %s (%s), %s", m.Path, m.Version, m.Licence, t.File))
		}
	}
	var out strings.Builder
	out.WriteString("The programs of callguard are licensed under the Apache License, Version 2.0 (file LICENSE). They are linked of the\n" +
		"modules below, which have licences of their own. The source of a module can be had by its path and version.\n\n")
	for _, text := range order {
		out.WriteString(rule)
		for _, owner := range owners[text] {
			out.WriteString(owner + "\n")
		}
		out.WriteString(rule + "\n" + text + "\n")
	}
	return out.String()
}

// plain removes differences between copies of one text that mean nothing: line endings,
// trailing blanks, surrounding empty lines.
func plain(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t\r\f")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n") + "\n"
}
