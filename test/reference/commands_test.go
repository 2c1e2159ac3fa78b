// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/pkg/cli"
	"github.com/callguard/callguard/test/trial"
)

const root = "../../"

// Marks of commands that no test runs, followed by the reason.
const (
	// cloud: it needs something outside of this repository.
	cloud = "cloud: "
	// reads: plain kubectl that reads or watches objects of Kubernetes' own.
	reads = "reads: "
	// quoted: it is from somebody else's text, and the page says what to run instead.
	quoted = "quoted: "
)

// runners says of each documented kubectl, helm and other command which test runs it, as "TestName folder", or why none does. The
// keys are regular expressions for the whole command. A test may use other names for objects than the page. Commands of make,
// go and hack/ are not here: TestCommands looks for the target, test or file.
func runners() map[string]string {
	return map[string]string{
		// Read from README.md and run as they are.
		`helm install callguard charts/callguard -n callguard-system --create-namespace .*`: "TestInstall test/nodes",
		`kubectl create secret generic livekit .*`:                                          "TestInstall test/nodes",
		`kubectl rollout status deployment drain-guard -n callguard-system`:                 "TestInstall test/nodes",
		`helm test callguard -n callguard-system`:                                           "TestInstall test/nodes",
		`kubectl create namespace voice`:                                                    "TestInstall test/nodes",
		`kubectl label namespace (voice|telephony|NAME) callguard.dev/enabled=true`:         "TestInstall test/nodes",
		`kubectl create secret generic voice-secrets .*`:                                    "TestInstall test/nodes",
		`helm install voice charts/voice-agent -n voice --set livekit.apiKey=KEY .*`:        "TestInstall test/nodes",

		// The plugin.
		`kubectl calls( --node node-4| -n NAMESPACE| --help)?`:         "TestCalls test/drain",
		`kubectl calls why( NAME| POD| agent-\S+ -n testcalls)?`:       "TestCalls test/drain",
		`kubectl calls why deployment/NAME -n NAMESPACE`:               "TestWhyOf pkg/cli",
		`kubectl calls drain( NODE| node-4)?`:                          "TestCalls test/drain",
		`kubectl calls drain node-4 -o json`:                           "TestDrainEvents pkg/cli",
		`kubectl calls status( node-4| NODE)?`:                         "TestStatus pkg/cli",
		`kubectl calls doctor`:                                         "TestCallsDoctor test/drain",
		`kubectl calls doctor --pre`:                                   "TestDoctorBefore pkg/cli",
		`kubectl calls plan( node-4)?`:                                 "TestCallsEnd test/drain",
		`kubectl calls end( NAME .*)?`:                                 "TestCallsEnd test/drain",
		`kubectl calls (plan|drain|status) node-1`:                     "TestOperatorsWalk test/drain",
		`kubectl calls why agent-\S+ -n voice`:                         "TestOperatorsWalk test/drain",
		`kubectl calls -n voice`:                                       "TestOperatorsWalk test/drain",
		`kubectl taint node node-2 maintenance.*`:                      "TestOperatorsWalk test/drain",
		`kubectl uncordon (node-1|NODE)`:                               "TestOperatorsWalk test/drain",
		`kubectl calls version`:                                        "TestVersions pkg/cli",
		`kubectl annotate pod NAME( .*)? callguard.dev/leave=`:         "TestOperatorsWish test/drain",
		`kubectl label pods -n voice .*`:                               "TestOptInOfTalkingPods test/drain",
		`kubectl annotate lease .* callguard.dev/livekit-url-`:         "TestDefaultProjectRewritten test/drain",
		`kubectl (delete pod|drain) .*--as-group=callguard:break-.*`:   "TestBreakGlass test/drain",
		`kubectl get --raw "/apis/custom.metrics.k8s.io/v1beta2/.*`:    "TestVersions test/e2e",
		`helm template (… )?\| kubectl apply`:                          "TestTemplateUnlocksNothing test/helm",
		`helm install voice .* -f .*/article-values.yaml`:              "TestTheArticlesCommand test/charts",
		`kubectl rollout status deployment/voice-voice-agent-agent .*`: "TestRollout test/drain",

		`kubectl calls try( -n \w+ --livekit-secret \w+)?`:               "TestTry test/e2e",
		`kubectl calls (-A|why POD -n NAMESPACE)`:                        "TestList pkg/cli",
		`kubectl exec .* -- /metrics-adapter hand-back .*`:               "TestBesideAnotherAdapter test/e2e",
		`kubectl annotate apiservice .* callguard.dev/before-`:           "TestBesideAnotherAdapter test/e2e",
		`helm upgrade --install callguard .*metricsAdapter.mode=comp.*`:  "TestAnotherAdapter test/helm",
		`helm upgrade --install callguard .*metricsAdapter.keda.enabl.*`: "TestAddonForKEDA test/charts",
		`kubectl rollout restart deployment (drain-guard|metrics-ad).*`:  "TestUnlock test/drain",

		`kubectl get (pods|deployment|jobs) .*(callguard-system|NAMES).*`: reads + "pods, a Deployment or Jobs by their labels",
		`kubectl logs -n NAMESPACE job/NAME`:                              reads + "the log of a Job",
		`kubectl logs -n callguard-system -l app.kubernetes.io/name=d.*`:  reads + "the log of drain-guard",
		`helm list -n callguard-system`:                                   reads + "the version of a release",
		`kubectl get apiservice v1beta2.custom.metrics.k8s.io .*`:         reads + "one APIService",

		`lk room participants list`: cloud + "LiveKit's own command, which is not part of this repository",

		`kubectl describe node NODE`:               reads + "Events and state",
		`kubectl describe hpa NAME -n NAMESPACE`:   reads + "Events and state",
		`kubectl get namespace NAME -o yaml`:       reads + "its conditions",
		`kubectl get pods -A -o wide .*guarded=.*`: reads + "pods with a label",
		`kubectl get pdb callguard -n voice`:       reads + "one PodDisruptionBudget",
		`kubectl get apiservices \| grep custom.*`: reads + "the APIServices",

		`kubectl patch deployment egress .*`:                              cloud + "LiveKit's egress, which is not part of this repository",
		`kubectl get secret (callguard-client-ca|metrics-adapter-tls) .*`: cloud + "cert-manager, which makes these Secrets",
		`kubectl create configmap (keda-client-ca|callguard-ca) .*`:       cloud + "cert-manager, whose authorities these are",
		`cosign verify --key cosign.pub .*`:                               cloud + "a published image; make release-dry-run does the same on loopback",

		// What an operator does when something is wrong.
		`helm upgrade callguard charts/callguard -n .* --reuse-values`:      "TestReusedValues test/helm",
		`helm uninstall callguard -n callguard-system`:                      "TestUninstall test/helm",
		`kubectl apply --server-side --force-conflicts -f .*/doors.yaml`:    "TestAccidents test/accidents/live",
		`kubectl delete apiservice v1beta1.custom.metrics.k8s.io v1beta2.*`: "TestAccidents test/accidents/live",
		`kubectl delete node NODE`:                                          "TestNodeObjectGone test/drain",
		`kubectl annotate namespace NAME callguard.dev/disable=true`:        "TestDisable test/doors",
		`kubectl label namespace NAME callguard.dev/enabled-`:               "TestDisable test/doors",
		`kubectl exec -n .* deploy/drain-guard -- /drain-guard unlock`:      "TestUnlock test/drain",
		`kubectl rollout restart deployment NAME -n NAMESPACE`:              "TestUnlock test/drain",

		`helm create .*`: quoted + "the article",
		`helm install … (--kube-server-side|--wait)`: quoted + "the article",
		`helm status … \| jq .info.status`:           quoted + "the article",
	}
}

// TestCommands: every command in the documentation exists, and a test runs it or the table says why none can.
func TestCommands(t *testing.T) {
	commands := documented(t)
	if len(commands) < 60 {
		t.Fatalf("only %d commands were found: %v", len(commands), slices.Sorted(maps.Keys(commands)))
	}
	used := map[string]bool{}
	for command, page := range commands {
		if err := exists(command); err != nil {
			t.Errorf("%s: `%s`: %v", page, command, err)
		}
		if ours(command) {
			continue
		}
		found := false
		for pattern := range runners() {
			if regexp.MustCompile("^(?:" + pattern + ")$").MatchString(command) {
				found, used[pattern] = true, true
			}
		}
		if !found {
			t.Errorf("%s: `%s` is not in runners(); add it with the test that runs it, or with the mark and reason why none does", page, command)
		}
	}
	for pattern, by := range runners() {
		if !used[pattern] {
			t.Errorf("runners() has %q, which no page shows; remove it", pattern)
		}
		if slices.ContainsFunc([]string{cloud, reads, quoted}, func(mark string) bool { return strings.HasPrefix(by, mark) && by != mark }) {
			continue
		}
		name, folder, _ := strings.Cut(by, " ")
		if !tests(t, folder)[name] {
			t.Errorf("runners() has %q run by %s of %q, which has no such test", pattern, name, folder)
		}
	}
}

// ours reports whether a command is from this repository and is run or read as a whole: its target, test or file is looked up.
func ours(command string) bool {
	word := strings.Fields(command)[0]
	return word == "make" || word == "go" || strings.HasPrefix(word, "hack/")
}

// exists looks for the make target, script, test or flag that a command names.
func exists(command string) error {
	words := strings.Fields(command)
	switch {
	case words[0] == "make":
		makefile, err := os.ReadFile(root + "Makefile")
		if err != nil {
			return err
		}
		for _, target := range words[1:] {
			if !strings.Contains(target, "=") && !strings.Contains(string(makefile), "\n"+target+": ") {
				return fmt.Errorf("the Makefile has no target %s", target)
			}
		}
	case strings.HasPrefix(words[0], "hack/"):
		info, err := os.Stat(root + words[0])
		if err != nil {
			return err
		}
		if info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s cannot be run", words[0])
		}
	case words[0] == "go" && words[1] == "test":
		return goTest(words[2:])
	case words[0] == "go" && words[1] == "run":
		_, err := os.Stat(root + words[2])
		return err
	case words[0] == "kubectl" && len(words) > 1 && words[1] == "calls":
		return plugin(words[2:])
	}
	return nil
}

// goTest looks for a test, benchmark or fuzz target in the named packages that -run, -bench or -fuzz selects.
func goTest(words []string) error {
	var packages []string
	pattern := "Test"
	for i, word := range words {
		switch {
		case strings.HasPrefix(word, "./"):
			packages = append(packages, word)
		case slices.Contains([]string{"-run", "-bench", "-fuzz"}, word) && i+1 < len(words) && words[i+1] != "xxx":
			pattern = strings.Trim(words[i+1], "'")
		}
	}
	if len(packages) == 0 {
		return fmt.Errorf("it names no package")
	}
	selected, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for _, p := range packages {
		if strings.HasSuffix(p, "NAME") {
			continue // any package
		}
		names, err := functions(root + p)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(names, selected.MatchString) {
			return fmt.Errorf("%s has no test that matches %q", p, pattern)
		}
	}
	return nil
}

// plugin looks for the command of kubectl calls and for its flags.
func plugin(words []string) error {
	command, rest, err := cli.Command().Find(words)
	if err != nil {
		return err
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.AddFlagSet(command.LocalFlags())
	flags.AddFlagSet(command.InheritedFlags())
	for _, word := range rest {
		name, _, _ := strings.Cut(word, "=")
		if long, is := strings.CutPrefix(name, "--"); is && long != "help" && flags.Lookup(long) == nil {
			return fmt.Errorf("kubectl calls %s has no flag --%s", command.Name(), long)
		}
		if short, is := strings.CutPrefix(name, "-"); is && len(short) == 1 && flags.ShorthandLookup(short) == nil {
			return fmt.Errorf("kubectl calls %s has no flag -%s", command.Name(), short)
		}
	}
	return nil
}

// tests returns the names of the tests of a folder.
func tests(t *testing.T, folder string) map[string]bool {
	t.Helper()
	names, err := functions(root + folder)
	trial.Must(t, err)
	has := map[string]bool{}
	for _, name := range names {
		has[name] = true
	}
	return has
}

// functions returns the names of the tests, benchmarks and fuzz targets of a folder; with /... of those below, too.
func functions(folder string) ([]string, error) {
	folder, below := strings.CutSuffix(folder, "/...")
	var names []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != folder && !below {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w*)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
		return err
	})
	return names, err
}

// documented returns the commands that the documentation shows, with the page of each: the lines of fenced blocks without a
// language, and code in a sentence that is more than a command's name.
func documented(t *testing.T) map[string]string {
	t.Helper()
	pages := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md"}
	trial.Must(t, filepath.WalkDir(root+"docs", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, strings.TrimPrefix(path, root))
		}
		return err
	}))
	fence := regexp.MustCompile("(?ms)^ *```(\\w*)\n(.*?)^ *```$")
	span := regexp.MustCompile("`([^`\n]+)`")
	begins := regexp.MustCompile(`^(?:kubectl|helm|make|go (?:test|run)|hack/[\w/-]+\.sh|lk|cosign|curl) ?`)
	commands := map[string]string{}
	for _, page := range pages {
		raw, err := os.ReadFile(root + page)
		trial.Must(t, err)
		text := strings.ReplaceAll(string(raw), "\\\n", " ")
		for _, block := range fence.FindAllStringSubmatch(text, -1) {
			if block[1] != "" && block[1] != "console" {
				continue
			}
			for line := range strings.Lines(block[2]) {
				line, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "$ "), "  #")
				if line = strings.Join(strings.Fields(line), " "); begins.MatchString(line) {
					commands[line] = page
				}
			}
		}
		for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			code := strings.ReplaceAll(m[1], `\|`, "|")
			if !begins.MatchString(code) || strings.Contains(code, "*") {
				continue
			}
			// `kubectl drain` and `helm uninstall` name a command; with an object they are one.
			if words := strings.Fields(code); ours(code) && len(words) > 1 || len(words) > 3 || strings.HasPrefix(code, "kubectl calls ") {
				commands[code] = page
			}
		}
	}
	return commands
}
