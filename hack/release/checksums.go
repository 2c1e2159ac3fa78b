// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const checksumsFile = "checksums.txt"

// checksums lists every file of a folder as sha256sum does, in the order of their names.
func checksums(dir string) (string, error) {
	files, err := os.ReadDir(dir) // sorted
	if err != nil {
		return "", fmt.Errorf("cannot list what is released: %w", err)
	}
	var text strings.Builder
	for _, f := range files {
		sum, err := fileSum(filepath.Join(dir, f.Name()))
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(&text, "%s  %s\n", sum, f.Name())
	}
	return text.String(), nil
}

// fileSum is the SHA-256 of a file, in hexadecimal.
func fileSum(file string) (string, error) {
	in, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("cannot read what is released: %w", err)
	}
	sum := sha256.New()
	_, err = io.Copy(sum, in)
	if err := errors.Join(err, in.Close()); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", file, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
