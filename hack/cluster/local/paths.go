// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const rootModule = "github.com/callguard/callguard"

// cacheDir is the folder of built programs and instances, outside the checkout.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the user's cache folder: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(dir, "callguard"), nil
}

func clustersDir() (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "clusters")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the folder of the instances: %w; make %s writable", err, filepath.Dir(dir))
	}
	return dir, nil
}

// repositoryRoot finds the module of this repository from the working folder upwards, so that tests work in any folder.
func repositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("cannot find the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		ours, err := isRootModule(filepath.Join(dir, "go.mod"))
		if err != nil {
			return "", err
		}
		if ours {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("cannot find the repository: no go.mod of %s above %s; run from inside a checkout", rootModule, start)
		}
	}
}

func isRootModule(goMod string) (bool, error) {
	f, err := os.Open(goMod)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot find the repository: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if module, found := strings.CutPrefix(strings.TrimSpace(lines.Text()), "module "); found {
			return strings.TrimSpace(module) == rootModule, nil
		}
	}
	return false, lines.Err()
}
