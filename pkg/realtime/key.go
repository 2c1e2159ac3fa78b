// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode"
)

const (
	maxKey  = 4 << 10 // bytes of the file
	maxText = 300     // runes of text from outside
	// tokenRunes are the characters of a bearer token (RFC 6750). None of them is escaped in
	// quoted text, so that clean can find the key there.
	tokenRunes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
)

// readKey reads the key from its file each time. A Secret that is mounted as a file follows
// its rotation; an environment variable never does.
func readKey(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("the key cannot be read: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(file, maxKey+1))
	if err != nil {
		return "", fmt.Errorf("the key cannot be read: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	switch {
	case len(raw) > maxKey:
		return "", fmt.Errorf("file %s is larger than a key", name)
	case key == "":
		return "", fmt.Errorf("file %s is empty", name)
	case strings.ContainsFunc(key, func(r rune) bool { return !strings.ContainsRune(tokenRunes, r) }):
		return "", fmt.Errorf("file %s holds something else than a key: there is a space, a line or a strange character in it", name)
	}
	return key, nil
}

// secrets match text that looks like a key, or like credentials in a URL.
type secrets struct{ key, bearer, userinfo *regexp.Regexp }

func newSecrets() secrets {
	return secrets{
		key:      regexp.MustCompile(`\bsk-[A-Za-z0-9_*.-]+`),
		bearer:   regexp.MustCompile(`(?i)\b(Bearer|Basic)\s+\S+`),
		userinfo: regexp.MustCompile(`//[^/@\s"]+@`),
	}
}

const hidden = "[hidden]"

// clean makes a text safe to show: without the key and anything that looks like one, on one
// line, and short.
func (s secrets) clean(text, key string) string {
	if key != "" {
		text = strings.ReplaceAll(text, key, hidden)
	}
	text = s.bearer.ReplaceAllString(text, "$1 "+hidden)
	text = s.key.ReplaceAllString(text, hidden)
	text = s.userinfo.ReplaceAllString(text, "//"+hidden+"@")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	return text
}
