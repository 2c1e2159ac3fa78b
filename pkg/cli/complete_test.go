// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// TestCompleter: under the name with which kubectl requests completion the program
// completes; under its own name it runs commands.
func TestCompleter(t *testing.T) {
	for program, want := range map[string][]string{
		"/usr/bin/kubectl_complete-calls": {"__complete", "drain", "no"},
		"kubectl_complete-calls.exe":      {"__complete", "drain", "no"},
		"/usr/bin/kubectl-calls":          {"drain", "no"},
	} {
		if diff := cmp.Diff(want, Args(program, []string{"drain", "no"})); diff != "" {
			t.Errorf("of %s (-want, +got):\n%s", program, diff)
		}
	}
}

// TestCompletion: it offers existing names, except those already typed.
func TestCompletion(t *testing.T) {
	s := newDrainStage(t, spare(), scaledWorkload("agent", true))
	for name, tc := range map[string]struct {
		of          names
		args        []string
		begun, want string
	}{
		"Nodes":     {of: nodesToName, begun: "node", want: "node-1 node-2"},
		"NotTwice":  {of: nodesToName, args: []string{"node-1"}, want: "node-2"},
		"Pods":      {of: podsToName, want: "a b"},
		"Begun":     {of: podsToName, begun: "b", want: "b"},
		"All":       {of: allToName, want: "a b deployment/agent node/node-1 node/node-2"},
		"Workloads": {of: allToName, begun: "deployment/", want: "deployment/agent"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := tc.of(t.Context(), s.cluster, voice)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(offered(all, tc.args, tc.begun), " "); got != tc.want {
				t.Errorf("it offers %q; want %q", got, tc.want)
			}
		})
	}
	s.refuse("list", "nodes")
	if all, err := allToName(t.Context(), s.cluster, voice); err != nil || len(all) != 3 {
		t.Errorf("without the right to list nodes it offers %v, %v; want the rest", all, err)
	}
}

// TestCompletesAsKubectlAsks runs the plugin as kubectl does when somebody presses Tab,
// against an API server that has one node and one namespace.
func TestCompletesAsKubectlAsks(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/v1/nodes":
			_, _ = w.Write([]byte(`{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"node-7"}}]}`))
		case "/api/v1/namespaces":
			_, _ = w.Write([]byte(`{"kind":"NamespaceList","apiVersion":"v1","items":[{"metadata":{"name":"voice"}}]}`))
		default:
			http.NotFound(w, r)
		}
	}))
	defer api.Close()
	for typed, want := range map[string]string{
		"drain no": "node-7", "plan no": "node-7", "list --namespace v": "voice",
		"list -o ": "json\nyaml\nname\nwide", "drain -o ": "json", "list --sort-by ": "name\ncalls\nnode\nstate\nage", "drain --on-deadline ": "hold\nrelease", "try --expect ": "join\ntrack",
	} {
		var out, errOut bytes.Buffer
		args := Args(completer, append([]string{"--server=" + api.URL}, strings.Split(typed, " ")...))
		if code := Main(t.Context(), args, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut}); code != ExitDone {
			t.Fatalf("%s: exit code %d: %s", typed, code, &errOut)
		}
		if !strings.HasPrefix(out.String(), want+"\n:4\n") { // and no file names
			t.Errorf("%s: it offers:\n%s%s", typed, &out, &errOut)
		}
	}
}
