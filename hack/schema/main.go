// SPDX-License-Identifier: Apache-2.0

// Command schema writes the values.schema.json of a Helm chart from its values.yaml, to
// standard output: `go run ./hack/schema charts/voice-agent`.
//
// It infers what it can and takes the rest from annotations. It renders no chart and
// checks no values: Helm does that.
package main

import (
	"fmt"
	"os"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "name one folder of a chart, such as: go run ./hack/schema charts/voice-agent")
		return 2
	}
	schema, err := OfChart(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := os.Stdout.Write(schema); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
