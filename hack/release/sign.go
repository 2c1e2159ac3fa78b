// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// signer signs with a key pair that was made for this run, and tells no transparency log.
type signer struct {
	tools *tools
	// key and public are files.
	key, public string
	// services is a file that names no service: cosign would ask for a list of them otherwise.
	services string
}

// newSigner makes a key pair; the private one stays in dir, which should go with the run.
func newSigner(ctx context.Context, t *tools, dir string) (*signer, error) {
	s := &signer{tools: t, services: filepath.Join(dir, "services.json")}
	prefix := filepath.Join(dir, "cosign")
	s.key, s.public = prefix+".key", prefix+".pub"
	if _, err := t.run(ctx, cosign, "generate-key-pair", "--output-key-prefix", prefix); err != nil {
		return nil, err
	}
	_, err := t.run(ctx, cosign, "signing-config", "create", "--out", s.services)
	return s, err
}

// sign signs what a registry has under a digest; verify is what users will do.
func (s *signer) sign(ctx context.Context, ref string) error {
	_, err := s.tools.run(ctx, cosign, "sign", "--yes", "--key", s.key, "--signing-config", s.services, ref)
	return err
}

func (s *signer) verify(ctx context.Context, ref string) error {
	_, err := s.tools.run(ctx, cosign, "verify", "--key", s.public, "--private-infrastructure", ref)
	return err
}

// refuses sees that cosign does not verify what nobody signed: a check that lets everything through checks nothing.
func (s *signer) refuses(ctx context.Context, ref string) error {
	if err := s.verify(ctx, ref); err == nil {
		return fmt.Errorf("cosign verifies %s, which nobody signed", ref)
	}
	return nil
}

// signFile signs a file, verifies that, and leaves signature and public key beside it.
func (s *signer) signFile(ctx context.Context, file string) error {
	bundle := file + ".sigstore.json"
	if _, err := s.tools.run(ctx, cosign, "sign-blob", "--yes", "--key", s.key, "--signing-config", s.services, "--bundle", bundle, file); err != nil {
		return err
	}
	key, err := os.ReadFile(s.public)
	if err != nil {
		return fmt.Errorf("cannot read the public key: %w", err)
	}
	if err := writeFile(filepath.Join(filepath.Dir(file), "cosign.pub"), key); err != nil {
		return err
	}
	_, err = s.tools.run(ctx, cosign, "verify-blob", "--key", s.public, "--private-infrastructure", "--bundle", bundle, file)
	return err
}
