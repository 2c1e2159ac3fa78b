// SPDX-License-Identifier: Apache-2.0

package manifests

// development is the version of what is built from a checkout, and that of its chart.
const development = "dev"

// version is set by the linker for a release (hack/oci), and by nobody else.
var version = development

// Version is the version of callguard that this program is of.
func Version() string { return version }
