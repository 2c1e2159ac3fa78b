// SPDX-License-Identifier: Apache-2.0

// Package weburl parses URLs of servers as people write them, so that all of callguard's
// programs accept the same URLs.
//
// It connects to nothing, and does not know which server a URL belongs to.
package weburl

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// MaxLength is the maximum length of a URL, in bytes. A host's name has at most 253.
const MaxLength = 1 << 10

// Parse reads a URL with scheme ws, wss, http or https and returns it with http or https,
// because both pairs name the same server. Upper case in the scheme, space around the URL,
// such as the newline at the end of a file, and superfluous slashes in its path are
// ignored. A user, query or fragment is refused, so the result contains nothing secret and
// can be logged.
//
// The error names what is wrong and example, a URL that works. It repeats the URL only if
// that contains no password.
func Parse(raw, example string) (*url.URL, error) {
	raw = strings.TrimSpace(raw)
	shown := strconv.Quote(raw)
	if strings.ContainsAny(raw, "@?#") || len(raw) > MaxLength { // what follows may be a password or a token
		shown = "the URL"
	}
	u, why := parse(raw)
	if why != nil {
		return nil, fmt.Errorf("%s cannot be used: %w; use one such as %s", shown, why, example)
	}
	return u, nil
}

func parse(raw string) (*url.URL, error) {
	switch {
	case raw == "":
		return nil, errors.New("it is empty")
	case len(raw) > MaxLength:
		return nil, fmt.Errorf("it is longer than %d bytes", MaxLength)
	case strings.Contains(raw, "@"):
		return nil, errors.New("it holds a user name or password before an @, which nobody there asks for")
	case strings.ContainsAny(raw, "?#"):
		return nil, errors.New("it holds a query or a fragment")
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The library's error repeats the URL.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, err
	}
	switch u.Scheme { // the library has converted it to lower case
	case "ws", "wss":
		u.Scheme = "http" + strings.TrimPrefix(u.Scheme, "ws")
	case "http", "https":
	default:
		return nil, errors.New("its scheme is not ws, wss, http or https")
	}
	if u.Hostname() == "" {
		return nil, errors.New("it names no host")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, errors.New("its port is not a number from 1 to 65535")
		}
	}
	u.RawPath = ""
	if u.Path = path.Clean("/" + u.Path); u.Path == "/" {
		u.Path = ""
	}
	return u, nil
}
