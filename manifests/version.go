// SPDX-License-Identifier: Apache-2.0

package manifests

// development is the version of programs that are built from a checkout, and of its chart.
const development = "dev"

// version is set only by the linker, for a release (hack/oci).
var version = development

// Version returns the version of callguard from which this program was built.
func Version() string { return version }
