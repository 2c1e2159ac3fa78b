// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// settings are those of a program with one flag for each kind of mistake.
type settings struct {
	color, address, file string
	logLevel             LogLevel
}

func (s *settings) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("program", pflag.ContinueOnError)
	fs.StringVar(&s.color, "color", "red", "A color.")
	fs.StringVar(&s.address, "address", ":80", "An address.")
	fs.StringVar(&s.file, "file", "", "A file.")
	s.logLevel = "info"
	s.logLevel.AddFlag(fs)
	return fs
}

func (s *settings) Validate() error {
	var m Mistakes
	if s.color != "red" {
		m.Wrong("color", s.color, "red")
	}
	m.Address("address", s.address, "host:port such as :80")
	m.File("file", s.file)
	m.Add(s.logLevel.Validate())
	return m.Err()
}

func TestParse(t *testing.T) {
	cases := map[string]struct {
		reason  string
		args    []string
		runs    bool
		wantErr string
		says    string
	}{
		"Defaults": {reason: "A program runs as it is.", runs: true},
		"Settings": {reason: "Settings are flags.", args: []string{"--address=[::1]:80", "--log-level=DEBUG"}, runs: true},
		"Help":     {reason: "Asking for help is no mistake, and runs nothing.", args: []string{"--help"}, says: "--log-level string   debug, info, warn or error. (default \"info\")"},
		"NoFlag":   {reason: "A mistyped flag is not passed over.", args: []string{"--colour=red"}, wantErr: "unknown flag: --colour"},
		"Word":     {reason: "A word is not passed over.", args: []string{"red"}, wantErr: `unexpected argument "red"; use --color`},
		"All": {reason: "All mistakes are reported at once, each with a value that would work.",
			args: []string{"--color=blue", "--address=80", "--file=/does/not/exist", "--log-level=loud"},
			wantErr: `settings cannot be used:
--color is "blue"; use red
--address is "80"; use host:port such as :80
--file: stat /does/not/exist: no such file or directory; name a file that can be read
--log-level is "loud"; use debug, info, warn or error`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var stderr strings.Builder
			runs, err := Parse(tc.args, &settings{}, "use --color", &stderr)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tc.wantErr, got); diff != "" || runs != tc.runs {
				t.Errorf("%s runs: %t, want %t; error (-want, +got):\n%s", tc.reason, runs, tc.runs, diff)
			}
			if !strings.Contains(stderr.String(), tc.says) {
				t.Errorf("%s it says %q; want %q", tc.reason, stderr.String(), tc.says)
			}
		})
	}
}

func TestLogger(t *testing.T) {
	var out strings.Builder
	log, err := LogLevel("warn").Logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud")
	if out := out.String(); strings.Contains(out, "quiet") || !strings.Contains(out, "level=WARN msg=loud") {
		t.Errorf("the log says %q", out)
	}
	if _, err := LogLevel("loud").Logger(&out); err == nil {
		t.Error("an unknown level must be an error")
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	if content, err := ReadFile("ca-file", ""); content != nil || err != nil {
		t.Errorf("no file reads %q, %v", content, err)
	}
	if _, err := ReadFile("ca-file", path); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "--ca-file: ") {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	if content, err := ReadFile("ca-file", path); string(content) != "PEM" || err != nil {
		t.Errorf("the file reads %q, %v", content, err)
	}
}
