// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// signer signs with a key pair that was created for this run, and uses no transparency log.
type signer struct {
	tools *tools
	// key and public are file names.
	key, public string
	// services and roots are files without any service or authority: otherwise cosign would download lists of them.
	services, roots string
}

// newSigner creates a key pair; the private key stays in dir, which should be deleted after the run.
func newSigner(ctx context.Context, t *tools, dir string) (*signer, error) {
	s := &signer{tools: t, services: filepath.Join(dir, "services.json"), roots: filepath.Join(dir, "roots.json")}
	prefix := filepath.Join(dir, "cosign")
	s.key, s.public = prefix+".key", prefix+".pub"
	if _, err := t.run(ctx, cosign, "generate-key-pair", "--output-key-prefix", prefix); err != nil {
		return nil, err
	}
	if _, err := t.run(ctx, cosign, "signing-config", "create", "--out", s.services); err != nil {
		return nil, err
	}
	_, err := t.run(ctx, cosign, "trusted-root", "create", "--out", s.roots)
	return s, err
}

// sign signs a digest in a registry; verify is what users will do.
func (s *signer) sign(ctx context.Context, ref string) error {
	_, err := s.tools.run(ctx, cosign, "sign", "--yes", "--key", s.key, "--signing-config", s.services, "--trusted-root", s.roots, ref)
	return err
}

func (s *signer) verify(ctx context.Context, ref string) error {
	_, err := s.tools.run(ctx, cosign, "verify", "--key", s.public, "--insecure-ignore-tlog", ref)
	return err
}

// attest signs a statement about a digest in a registry, and verifies that it is there. kind is one of cosign's, and predicate
// is the file with the statement.
func (s *signer) attest(ctx context.Context, ref, kind, predicate string) error {
	if _, err := s.tools.run(ctx, cosign, "attest", "--yes", "--key", s.key, "--signing-config", s.services, "--trusted-root", s.roots, "--type", kind, "--predicate", predicate, ref); err != nil {
		return err
	}
	_, err := s.tools.run(ctx, cosign, "verify-attestation", "--key", s.public, "--insecure-ignore-tlog", "--type", kind, ref)
	return err
}

// refuses checks that cosign finds nothing where nothing was signed: a check that accepts everything is none.
func (s *signer) refuses(ctx context.Context, ref string) error {
	const withoutSignature = 10 // cosign's exit code
	err := s.verify(ctx, ref)
	if err == nil {
		return fmt.Errorf("cosign verifies %s, which nobody signed", ref)
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != withoutSignature {
		return err
	}
	return nil
}

// signFile signs a file, verifies that, and leaves signature and public key beside it.
func (s *signer) signFile(ctx context.Context, file string) error {
	bundle := file + ".sigstore.json"
	if _, err := s.tools.run(ctx, cosign, "sign-blob", "--yes", "--key", s.key, "--signing-config", s.services, "--trusted-root", s.roots, "--bundle", bundle, file); err != nil {
		return err
	}
	key, err := os.ReadFile(s.public)
	if err != nil {
		return fmt.Errorf("cannot read the public key: %w", err)
	}
	if err := writeFile(filepath.Join(filepath.Dir(file), "cosign.pub"), key); err != nil {
		return err
	}
	_, err = s.tools.run(ctx, cosign, "verify-blob", "--key", s.public, "--insecure-ignore-tlog", "--bundle", bundle, file)
	return err
}
