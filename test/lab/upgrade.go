// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Upgrade replaces the guard's rights and policies with those of another folder of manifests, as helm upgrade does: it
// applies that folder, then deletes what only the previous one has. It starts and stops no guard.
func (l *Lab) Upgrade(ctx context.Context, from, to string) error {
	before, err := installed(from)
	if err != nil {
		return err
	}
	after, err := installed(to)
	if err != nil {
		return err
	}
	for _, name := range guardManifests() {
		if _, err := l.Kubectl(ctx, "apply", "--server-side", "-f", filepath.Join(to, name)); err != nil {
			return err
		}
	}
	for _, object := range before {
		if slices.Contains(after, object) {
			continue
		}
		if _, err := l.Kubectl(ctx, "delete", "--ignore-not-found", object.kind, object.name, "--namespace="+object.namespace); err != nil {
			return err
		}
	}
	return nil
}

// object identifies an object that manifests install.
type object struct{ kind, namespace, name string }

// installed lists the objects of a folder of manifests.
func installed(dir string) ([]object, error) {
	var list []object
	for _, name := range guardManifests() {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(string(text)), len(text))
		for {
			var o unstructured.Unstructured
			err := documents.Decode(&o.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read %s of %s: %w", name, dir, err)
			}
			if len(o.Object) > 0 {
				kind := o.GroupVersionKind()
				list = append(list, object{kind.Kind + "." + kind.Version + "." + kind.Group, o.GetNamespace(), o.GetName()})
			}
		}
	}
	return list, nil
}
