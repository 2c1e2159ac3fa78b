// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/pflag"
)

// Settings are a program's flags, and what is wrong with their values.
type Settings interface {
	Flags() *pflag.FlagSet
	Validate() error
}

// Parse reads arguments into settings; instead is what to write instead of a word that is
// not a flag. The program runs only if Parse returns true. Otherwise err is why not, or nil
// if help was requested.
func Parse(args []string, settings Settings, instead string, stderr io.Writer) (run bool, err error) {
	fs := settings.Flags()
	fs.SetOutput(stderr)
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if fs.NArg() > 0 {
		return false, fmt.Errorf("unexpected argument %q; %s", fs.Arg(0), instead)
	}
	if err := settings.Validate(); err != nil {
		return false, fmt.Errorf("settings cannot be used:\n%w", err)
	}
	return true, nil
}

// Mistakes gathers what is wrong with settings, so that everything is reported at once.
type Mistakes struct{ errs []error }

// Add adds mistakes; nil is ignored.
func (m *Mistakes) Add(errs ...error) { m.errs = append(m.errs, errs...) }

// Wrong adds a flag's invalid value, and a valid one.
func (m *Mistakes) Wrong(flag string, value any, use string) {
	m.Add(fmt.Errorf("--%s is %q; use %s", flag, fmt.Sprint(value), use))
}

// Address adds a mistake if an address has no port.
func (m *Mistakes) Address(flag, address, use string) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		m.Wrong(flag, address, use)
	}
}

// AtLeast adds a mistake if a time is too short.
func (m *Mistakes) AtLeast(flag string, value, least time.Duration) {
	if value < least {
		m.Wrong(flag, value, least.String()+" or more")
	}
}

// Concurrency adds a mistake if a number of concurrent requests is below one, or more than
// anybody needs.
func (m *Mistakes) Concurrency(flag string, n int) {
	if n < 1 || n > 1024 {
		m.Wrong(flag, n, "a number from 1 to 1024, such as 16")
	}
}

// File adds a mistake if a file is named and does not exist.
func (m *Mistakes) File(flag, path string) {
	if path == "" {
		return
	}
	if _, err := os.Stat(path); err != nil {
		m.Add(unreadable(flag, err))
	}
}

// Err returns all mistakes, one per line; nil if there are none.
func (m *Mistakes) Err() error { return errors.Join(m.errs...) }

// ReadFile reads the file that a flag names; without a name it returns nothing.
func ReadFile(flag, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(flag, err)
	}
	return content, nil
}

func unreadable(flag string, err error) error {
	return fmt.Errorf("--%s: %w; name a file that can be read", flag, err)
}
