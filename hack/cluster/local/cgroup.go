// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroup is the control group of everything that an instance with real nodes runs in its pods, and of the processes
// that run them.
func cgroup(instance string) string { return "/callguard/" + instance }

// runtimeCgroup holds containerd and its shims, nodeCgroup the pods of a node.
func runtimeCgroup(instance string) string    { return cgroup(instance) + "/runtime" }
func nodeCgroup(instance, node string) string { return cgroup(instance) + "/" + node }

// hierarchies are the folders in which control groups are made: one for each
// controller with cgroup v1, one for all with v2.
func hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, fmt.Errorf("cannot list the control groups: %w", err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, filepath.Join(cgroupMount, e.Name()))
		}
	}
	return all, nil
}

// makeCgroup creates a control group in every hierarchy. A cpuset starts empty, and accepts no process until its
// CPUs and memory are set.
func makeCgroup(group string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		dir := h
		for part := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
			above := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cannot make the control group %s: %w; real nodes need root", group, err)
			}
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(above, file))
				if err != nil || filepath.Base(h) != "cpuset" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
					return fmt.Errorf("cannot make the control group %s: %w", group, err)
				}
			}
		}
	}
	return nil
}

// joinCgroup puts a process, and what it starts from then on, into a control group.
func joinCgroup(group string, pid int) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h, group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("cannot put process %d into the control group %s: %w", pid, group, err)
		}
	}
	return nil
}

// clearCgroup kills all processes in a control group and removes it and its children.
func clearCgroup(ctx context.Context, group string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		left := false
		for _, h := range all {
			var dirs []string
			err := filepath.WalkDir(filepath.Join(h, group), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil // the group disappeared meanwhile, which is the goal
			})
			if err != nil {
				return false, err
			}
			for _, dir := range slices.Backward(dirs) { // children first
				raw, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				for line := range strings.FieldsSeq(string(raw)) {
					if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
				if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					left = true
				}
			}
		}
		return !left, nil
	})
}

// unmountBelow unmounts what kubelets and containerd mounted in an instance's folder, the innermost first.
func unmountBelow(dir string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot list the mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("cannot unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
