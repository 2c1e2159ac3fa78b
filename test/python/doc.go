// SPDX-License-Identifier: Apache-2.0

// Package python tests the lines of Python in docs/opt-in.md for agents without
// call-gate, against a stand-in for LiveKit Agents for Python. It needs only Debian's
// python3.
//
// It installs no SDK, and starts no LiveKit. test/gate does that for Node.
package python
