// SPDX-License-Identifier: Apache-2.0

// Package python tests the lines of Python that docs/opt-in.md shows to those who do
// without call-gate, against a stand-in for LiveKit Agents for Python: Debian's
// python3 is all they need here.
//
// It installs no SDK, and starts no LiveKit. For Node that is done in test/gate.
package python
