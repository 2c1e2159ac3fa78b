// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// stateFormat changes whenever an older state no longer matches what this code would start.
const stateFormat = 5

// state describes an instance, in one file in its folder.
type state struct {
	Format int    `json:"format"`
	Config Config `json:"config"`
	// Ready is set once all components were healthy at the same time.
	Ready bool `json:"ready"`
	// Tools are the folders of the programs, by module; each name depends on what was built.
	Tools map[string]string `json:"tools"`
	Ports map[string]int    `json:"ports"`
	// FirstSlice is X of node-1's pod addresses 127.X.0.0/16; node-2 has the next.
	FirstSlice int `json:"firstSlice"`
	// Network numbers the network of an instance with real nodes; others have none.
	Network    int         `json:"network,omitempty"`
	LiveKits   []LiveKit   `json:"liveKits"`
	Components []component `json:"components"`
}

// component is one program of an instance and, while it runs, its process.
type component struct {
	Name    string   `json:"name"`
	Program string   `json:"program"`
	Args    []string `json:"args"`
	Log     string   `json:"log"`
	// Health answers 200 when the component works.
	Health string `json:"health"`
	// Node is the name of the node whose kubelet or kwok this is, else empty.
	Node string `json:"node,omitempty"`
	// Inside means that it runs in the network namespace of the nodes.
	Inside bool `json:"inside,omitempty"`
	// Cgroup is the control group it and its children start in, or empty.
	Cgroup string `json:"cgroup,omitempty"`
	// Clock is how far the component's clock is ahead of this machine's.
	Clock time.Duration `json:"clock,omitempty"`
	// Starts counts its starts.
	Starts  int     `json:"starts"`
	Process process `json:"process"`
}

func stateFile(dir string) string { return filepath.Join(dir, "state.json") }

// loadState reads the state in an instance's folder; the error is fs.ErrNotExist when there is none.
func loadState(dir string) (state, error) {
	var s state
	raw, err := os.ReadFile(stateFile(dir))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("cannot read the state of an instance: %s: %w; end its processes by hand, then remove the folder", stateFile(dir), err)
	}
	return s, nil
}

// save replaces the state file atomically, so that a reader never finds half of it.
func (s state) save(dir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	return writeFile(stateFile(dir), raw)
}

// component finds a component by name; the error lists all names.
func (s state) component(name string) (component, error) {
	i := slices.IndexFunc(s.Components, func(c component) bool { return c.Name == name })
	if i < 0 {
		names := make([]string, 0, len(s.Components))
		for _, c := range s.Components {
			names = append(names, c.Name)
		}
		return component{}, fmt.Errorf("no component %q; use one of %v", name, names)
	}
	return s.Components[i], nil
}

// setStarted records the process of a component.
func (s state) setStarted(name string, p process) {
	for i := range s.Components {
		if s.Components[i].Name == name {
			s.Components[i].Process = p
			s.Components[i].Starts++
		}
	}
}

// otherStates reads the states of all instances but one.
func otherStates(clusters, but string) ([]state, error) {
	entries, err := os.ReadDir(clusters)
	if err != nil {
		return nil, fmt.Errorf("cannot list the instances: %w", err)
	}
	var out []state
	for _, e := range entries {
		if !e.IsDir() || e.Name() == but {
			continue
		}
		s, err := loadState(filepath.Join(clusters, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// writeFile atomically writes a file that only its owner can read.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
