// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Command returns the plugin's commands with their flags, for the reference documentation. Main runs them.
func Command() *cobra.Command { return newCommand(genericiooptions.NewTestIOStreamsDiscard()) }
