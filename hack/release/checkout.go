// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// checkout is the source of a release.
type checkout struct {
	dir      string
	revision string
	// created is the date of everything that is made from it.
	created time.Time
	// changed means that the checkout differs from the revision.
	changed bool
	// licences are SPDX expressions of the modules that programs are linked of, by path@version.
	licences map[string]string
}

// openCheckout reads what git reports about a folder. epoch, in seconds, replaces the commit's date unless it is
// empty.
func openCheckout(ctx context.Context, dir, epoch string) (*checkout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot tell where the checkout is: %w", err)
	}
	c := &checkout{dir: dir}
	if c.revision, err = c.git(ctx, "rev-parse", "HEAD"); err != nil {
		return nil, err
	}
	source := "the commit's date"
	if epoch != "" {
		source = "SOURCE_DATE_EPOCH"
	} else if epoch, err = c.git(ctx, "log", "-1", "--format=%ct"); err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return nil, fmt.Errorf("%s is %q; use seconds since 1970, such as 1767225600", source, epoch)
	}
	c.created = time.Unix(seconds, 0).UTC()
	changes, err := c.git(ctx, "status", "--porcelain")
	c.changed = changes != ""
	return c, err
}

// copyTree copies a folder of the checkout, without files that git does not track.
func (c *checkout) copyTree(ctx context.Context, from, to string) error {
	list, err := c.git(ctx, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", from)
	if err != nil {
		return err
	}
	for file := range strings.SplitSeq(strings.TrimRight(list, "\x00"), "\x00") {
		below, err := filepath.Rel(from, file)
		if err != nil {
			return fmt.Errorf("cannot copy %s: %w", file, err)
		}
		data, err := os.ReadFile(filepath.Join(c.dir, file))
		if err != nil {
			return fmt.Errorf("cannot copy %s: %w", from, err)
		}
		if err := writeFile(filepath.Join(to, below), data); err != nil {
			return err
		}
	}
	return nil
}

// git runs git in the checkout, whoever owns it.
func (c *checkout) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=" + c.dir, "-C", c.dir}, args...)...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask git for %s of %s: %w; a release is made of a git checkout\n%s", args[0], c.dir, err, complaint.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// writeFile writes a file that all may read, and the folders above it.
func writeFile(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of %s: %w", file, err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	return nil
}
