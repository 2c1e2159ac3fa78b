// SPDX-License-Identifier: Apache-2.0

package local

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidateReportsEverythingAtOnce(t *testing.T) {
	err := Config{Name: "No Name", Nodes: -1, PodsPerNode: 1, LiveKits: 99, WebhookURLs: []string{"x"}, NodeLeaseSeconds: -1}.Validate()
	want := `name is "No Name"; use at most 40 lower-case letters, digits and dashes, such as "default"
number of nodes is -1; use 1 to 200, such as 4
number of seconds of a node's lease is -1; use 1 to 3600, such as 40
number of LiveKit servers is 99; use 1 to 16, such as 1
webhook URL is "x"; use one such as http://127.0.0.1:8090/webhook`
	if err == nil {
		t.Fatal("got no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if err := (Config{}).withDefaults().Validate(); err != nil {
		t.Errorf("the zero config: %v", err)
	}
}
