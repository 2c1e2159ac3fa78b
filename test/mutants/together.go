// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutantVariable names the mutant that a test binary with several is to be.
const mutantVariable = "CALLGUARD_MUTANT"

// together writes what replaces the files of mutants, so that one test binary has them all: linking takes most of the
// time. Each function that is changed is there once as it is, and once for each mutant. The first calls the one
// that mutantVariable names. It returns the files, by where they belong, and the mutants that they have: a change outside of
// a function, or of one with a parameter without a name, is left out.
func together(root string, mutants []Mutant) (files map[string]string, has map[string]bool, err error) {
	files, has = map[string]string{}, map[string]bool{}
	byFile := map[string][]Mutant{}
	for _, m := range mutants {
		byFile[m.File] = append(byFile[m.File], m)
	}
	for _, name := range slices.Sorted(maps.Keys(byFile)) {
		path := filepath.Join(root, name)
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, raw, parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		text, copies := string(raw), ""
		for _, d := range slices.Backward(file.Decls) { // from the end, so that offsets stay right
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			at := func(p token.Pos) int { return set.Position(p).Offset }
			was, call := text[at(f.Pos()):at(f.End())], ""
			for _, m := range byFile[name] {
				if strings.Count(was, m.Old) != m.times() || strings.Count(string(raw), m.Old) != m.times() {
					continue
				}
				changed, how, ok := changedCopy(f, strings.ReplaceAll(was, m.Old, m.New), fmt.Sprintf("Mutant%d", len(has)))
				if ok {
					has[m.Name] = true
					copies += "\n\n" + changed
					call += fmt.Sprintf("\n\tif mutantIs == %q {\n%s\n}\n", m.Name, how)
				}
			}
			body := at(f.Body.Lbrace) + 1
			text = text[:body] + call + text[body:]
		}
		files[path] = text + copies
		files[filepath.Join(filepath.Dir(path), "mutant_is.go")] = fmt.Sprintf("package %s\n\nimport \"os\"\n\nvar mutantIs = os.Getenv(%q)\n", file.Name.Name, mutantVariable)
	}
	return files, has, nil
}

// changedCopy gives what a mutant makes of a function another name, and returns it with the statements that call it.
func changedCopy(f *ast.FuncDecl, changed, suffix string) (text, call string, ok bool) {
	const head = "package p\n"
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", head+changed, parser.SkipObjectResolution)
	if err != nil || len(file.Decls) != 1 {
		return "", "", false
	}
	is, ok := file.Decls[0].(*ast.FuncDecl)
	if !ok {
		return "", "", false
	}
	end := set.Position(is.Name.End()).Offset - len(head)
	call = f.Name.Name + suffix
	if f.Recv != nil {
		receiver, ok := named(f.Recv)
		if of, isValue := f.Recv.List[0].Type.(*ast.Ident); !ok && isValue { // it is not used, so any will do
			receiver, ok = "(*new("+of.Name+"))", true
		}
		if !ok {
			return "", "", false
		}
		call = receiver + "." + call
	}
	arguments, ok := named(f.Type.Params)
	if f.Type.Results != nil {
		call = "return " + call
	}
	call += "(" + arguments + ")"
	if f.Type.Results == nil {
		call += "\nreturn"
	}
	return changed[:end] + suffix + changed[end:], call, ok
}

// named lists parameters as arguments; not ok if one has no name.
func named(list *ast.FieldList) (arguments string, ok bool) {
	var names []string
	for _, field := range list.List {
		if len(field.Names) == 0 {
			return "", false
		}
		for _, name := range field.Names {
			if name.Name == "_" {
				return "", false
			}
			if _, variadic := field.Type.(*ast.Ellipsis); variadic {
				names = append(names, name.Name+"...")
			} else {
				names = append(names, name.Name)
			}
		}
	}
	return strings.Join(names, ", "), true
}
