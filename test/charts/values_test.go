// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli/values"
)

// TestRefused: values that cannot work are refused before anything is sent, with what to do.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		want string
	}{
		"EmptyTag":            {given{set: []string{"agent.image.tag="}}, "agent.image has neither tag nor digest; use --set-string agent.image.tag=1.2.3, or a digest such as sha256:…"},
		"NullTag":             {given{set: []string{"agent.image.tag=null"}}, "agent.image has neither tag nor digest"},
		"ShortDigest":         {given{set: []string{"agent.image.digest=sha256:12"}}, "/agent/image/digest"},
		"EmptyLiveKitTag":     {given{set: []string{"livekit.image.tag="}}, "livekit.image has neither tag nor digest"},
		"EmptyGuardTag":       {given{set: []string{"callguard.image.tag="}}, "callguard.image has neither tag nor digest"},
		"TagOfDigits":         {given{set: []string{"agent.image.tag=1234567"}}, `agent.image.tag is the number 1234567, and a tag is text; write tag: "1234567", or --set-string agent.image.tag=1234567`},
		"TagOfDigitsFile":     {given{json: []string{"agent.image.tag=12345678"}}, `agent.image.tag is the number 12345678`},
		"MCPWithoutImage":     {given{set: []string{"mcpServers.crm.port=80"}}, "mcpServers.crm.image.repository is empty; set it to the image's name, such as registry.example.com/agent"},
		"MCPWithoutTag":       {given{set: []string{"mcpServers.crm.image.repository=x"}}, "mcpServers.crm.image has neither tag nor digest"},
		"MCPTagOfDigits":      {given{set: []string{"mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=1234567"}}, "mcpServers.crm.image.tag is the number 1234567"},
		"MCPName":             {given{set: []string{"mcpServers.CRM.image.repository=x", "mcpServers.CRM.image.tag=a"}}, "invalid propertyName 'CRM'"},
		"MCPLongName":         {given{set: []string{"mcpServers." + strings.Repeat("m", 23) + ".image.tag=a"}}, "invalid propertyName"},
		"PullPolicy":          {given{set: []string{"agent.image.pullPolicy=Sometimes"}}, "value must be one of 'Always', 'IfNotPresent', 'Never'"},
		"Mode":                {given{set: []string{"agent.probes.realtime.mode=maybe"}}, "value must be one of 'cached', 'strict', 'off'"},
		"Metric":              {given{set: []string{"agent.autoscaling.metric=Value"}}, "value must be one of 'Object', 'Pods'"},
		"OnDeadline":          {given{set: []string{"callguard.onDeadline=Delete"}}, "value must be one of 'Hold', 'Release'"},
		"Witness":             {given{set: []string{"callguard.witnesses=rooms\\,gates"}}, "/callguard/witnesses"},
		"Model":               {given{set: []string{"openai.model=GPT 4"}}, "/openai/model"},
		"Voice":               {given{set: []string{"openai.voice=Marin"}}, "/openai/voice"},
		"EnvObject":           {given{set: []string{"agent.env.A.value=x"}}, "/agent/env/A"},
		"TargetZero":          {given{set: []string{"agent.autoscaling.targetActiveCalls=0"}}, "/agent/autoscaling/targetActiveCalls"},
		"NoKeys":              {given{set: []string{"livekit.apiKey="}}, "LiveKit's keys are missing; set livekit.existingSecret to the name of a Secret that has LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, or livekit.apiKey and livekit.apiSecret, which `openssl rand -hex 32` makes"},
		"NoURL":               {given{set: []string{"livekit.enabled=false"}}, "livekit.enabled is false, and no URL of LiveKit is set; set livekit.url, such as wss://project.livekit.cloud"},
		"URLBesideServer":     {given{set: []string{"livekit.url=wss://x"}}, "livekit.url is wss://x, and the chart runs a LiveKit of its own; set livekit.enabled=false to use that one"},
		"ManyWithoutRedis":    {given{set: []string{"livekit.replicas=2"}}, "livekit.replicas is 2, and servers find each other's rooms through Redis; set livekit.redis.address, such as redis.redis.svc:6379"},
		"SentinelsOfNobody":   {given{set: []string{"livekit.redis.sentinel.addresses={a:26379}"}}, "livekit.redis.sentinel.masterName is empty; set it to what the Sentinels call your Redis"},
		"TwoRedis":            {given{set: []string{"livekit.redis.sentinel.addresses={a:26379}", "livekit.redis.sentinel.masterName=m", "livekit.redis.address=redis:6379"}}, "livekit.redis.address is redis:6379, and livekit.redis.sentinel knows where Redis is; use one of them"},
		"ServersWithoutRedis": {given{set: []string{"livekit.autoscaling.enabled=true"}}, "livekit.autoscaling.maxReplicas is 8, and servers find each other's rooms through Redis"},
		"ServersOfTwo":        {given{set: []string{"livekit.autoscaling.enabled=true", "livekit.redis.address=redis:6379", "livekit.replicas=3"}}, "livekit.replicas is 3, and an autoscaler owns the number of servers; set livekit.autoscaling.minReplicas=3 and leave livekit.replicas at 1"},
		"ServersMin":          {given{set: []string{"livekit.autoscaling.enabled=true", "livekit.redis.address=redis:6379", "livekit.autoscaling.minReplicas=9"}}, "livekit.autoscaling.minReplicas is 9, above maxReplicas, 8"},
		"ServersWithoutCPU":   {given{set: []string{"livekit.autoscaling.enabled=true", "livekit.redis.address=redis:6379", "livekit.resources.requests.cpu=null"}}, "set livekit.resources.requests.cpu"},
		"NullImage":           {given{set: []string{"agent.image=null"}}, "missing property 'image'"},
		"NullAgent":           {given{set: []string{"agent=null"}}, "missing property 'agent'"},
		"MinZero":             {given{set: []string{"agent.autoscaling.minReplicas=0"}}, "use 1 or more, or KEDA: agent.autoscaling.keda.enabled=true"},
		"MinNegative":         {given{set: []string{"agent.autoscaling.minReplicas=-1"}}, "/agent/autoscaling/minReplicas': minimum: got -1, want 0"},
		"MinAboveMax":         {given{set: []string{"agent.autoscaling.minReplicas=30"}}, "agent.autoscaling.minReplicas is 30, above maxReplicas, 20; use 20 or less"},
		"GraceTooShort": {
			given{set: []string{"agent.terminationGracePeriodSeconds=600"}},
			"agent.terminationGracePeriodSeconds is 600, and an agent drains for 3600 s (agent.drainTimeoutSeconds): its calls would be killed; use 4020 or more",
		},
		"GraceOfEqualLength": {given{set: []string{"worker.terminationGracePeriodSeconds=3600"}}, "worker.terminationGracePeriodSeconds is 3600"},
		"Recreate":           {given{set: []string{"agent.strategy.type=Recreate"}}, "agent.strategy.type is Recreate"},
		"GateThatIsOff":      {given{file: "cloud", set: []string{"callguard.gate.enabled=false"}}, "callguard.witnesses is \"gate\", and call-gate is not enabled"},
		"AzureAtOpenAI":      {given{set: []string{"openai.azure.enabled=true"}}, "openai.baseUrl, https://api.openai.com/v1, is OpenAI's own; use the endpoint of your resource, such as https://RESOURCE.openai.azure.com"},
		"AzureForgotten":     {given{set: []string{"openai.azure.apiVersion=2025-04-01-preview"}}, `openai.azure.apiVersion is "2025-04-01-preview", and openai.azure.enabled is false, so nothing reads it; set openai.azure.enabled=true`},
		"OpenAIQuery":        {given{set: []string{"openai.baseUrl=https://res.openai.azure.com/openai/realtime?api-version=1"}}, "openai.baseUrl holds a password, a query or a fragment; use one such as https://api.openai.com/v1, and openai.azure.apiVersion"},
		"OpenAIPassword":     {given{set: []string{"openai.baseUrl=https://me:hush@api.example.com/v1"}}, "openai.baseUrl holds a password"},
		"ProxyPassword":      {given{set: []string{"proxy.url=http://me:hush@proxy:3128"}}, "proxy.url holds a password; put the URL into a Secret, and name that in proxy.existingSecret"},
		"FormerProxy":        {given{set: []string{"openai.proxy.url=http://me:hush@proxy:3128"}}, "openai.proxy.url is not a value of this chart; use proxy.url: all programs use it; with proxy.agent=false, agent and worker do not, as before"},
		"FormerCA":           {given{set: []string{"openai.ca.configMap=authorities"}}, "openai.ca.configMap is not a value of this chart; use ca.configMap"},
		"TwoCAs":             {given{set: []string{"ca.configMap=a", "ca.secret=b"}}, `ca.secret is "b" and ca.configMap is "a"; only one can be used; set the other to ""`},
		"ShortSecret":        {given{set: []string{"livekit.apiSecret=hush"}}, "livekit.apiSecret has 4 characters, fewer than the 32 that LiveKit asks for; make one with `openssl rand -hex 32`"},
		"KeysOfNoSecret":     {given{set: []string{"livekit.secretKeys.url=LIVEKIT_URL"}}, "livekit.secretKeys names keys, but livekit.existingSecret names no Secret; set livekit.existingSecret"},
		"NodePortTCP":        {given{file: "azure", set: []string{"livekit.rtc.tcpPort=7881"}}, "livekit.rtc.tcpPort is 7881: LiveKit announces to callers the port it listens on, and a Service of type NodePort can only use ports 30000 to 32767; use 30881"},
		"NodePortTURN":       {given{file: "azure", set: []string{"livekit.turn.enabled=true", "livekit.turn.tlsPort=0"}}, "livekit.turn.udpPort is 3478: LiveKit announces to callers the port it listens on, and a Service of type NodePort can only use ports 30000 to 32767; use 30883"},
		"TURNWithoutDomain":  {given{set: []string{"livekit.turn.enabled=true", "livekit.turn.externalTls=true"}}, "livekit.turn.domain is empty, and callers are told turns:DOMAIN:443"},
		"TURNWithoutSecret":  {given{set: []string{"livekit.turn.enabled=true", "livekit.turn.domain=turn.example.com"}}, "livekit.turn.existingSecret is empty, and TURN over TLS needs a certificate"},
		"TURNWithoutPort":    {given{set: []string{"livekit.turn.enabled=true", "livekit.turn.tlsPort=0", "livekit.turn.udpPort=0"}}, "livekit.turn is enabled, and has no port; use livekit.turn.tlsPort=5349"},
		"OnePortForTwo":      {given{set: []string{"livekit.turn.enabled=true", "livekit.turn.tlsPort=0", "livekit.turn.udpPort=7882"}}, "LiveKit would listen at port 7882/UDP for both rtc-udp and turn-udp"},
		"MetricsPort":        {given{set: []string{"livekit.prometheusPort=7880"}}, "LiveKit would listen at port 7880/TCP for both http and metrics"},
		"IngressOfNobody":    {given{set: []string{"livekit.ingress.enabled=true"}}, "livekit.ingress is enabled, and has no host; set livekit.ingress.hosts={livekit.example.com}"},
		"RouteOfNoGateway":   {given{set: []string{"livekit.httpRoute.enabled=true"}}, "livekit.httpRoute is enabled, and has no Gateway; set livekit.httpRoute.parentRefs[0].name to the name of a Gateway"},
		"NodePortUDP":        {given{file: "azure", set: []string{"livekit.rtc.udpPort=32768"}}, "livekit.rtc.udpPort is 32768: LiveKit announces to callers the port it listens on, and a Service of type NodePort can only use ports 30000 to 32767; use 30882"},
		"SharedAccount":      {given{set: []string{"podDefaults.serviceAccount.name=voice"}}, `podDefaults.serviceAccount.name is "voice", and each component would create it; set podDefaults.serviceAccount.create=false, or the name of one, such as agent.serviceAccount.name`},
		"SecondContainer":    {given{json: []string{`agent.extraContainers=[{"name":"logs","image":"logs:1"}]`}}, "agent.extraContainers is set: Kubernetes may evict a pod with calls until all its containers run; move them to agent.initContainers, with restartPolicy: Always, or turn off the guarding with callguard.enabled=false"},
		"SecondOfAll":        {given{json: []string{`podDefaults.extraContainers=[{"name":"logs","image":"logs:1"}]`}}, "agent.extraContainers is set"},
		"EnvWithoutName":     {given{json: []string{`agent.env=[{"value":"x"}]`}}, "'/agent/env/0': missing property 'name'"},
		"Token":              {given{set: []string{"agent.serviceAccount.automountServiceAccountToken=true"}}, "agent.serviceAccount.automountServiceAccountToken is not a value of this chart; use agent.serviceAccount.automount"},
		"TokenOfAServer":     {given{set: []string{"mcpServers.crm.serviceAccount.automountServiceAccountToken=false"}}, "mcpServers.crm.serviceAccount.automountServiceAccountToken is not a value of this chart; use mcpServers.crm.serviceAccount.automount"},
		"ReplicasBesideHPA":  {given{set: []string{"agent.replicas=7"}}, "agent.replicas is 7, and an autoscaler owns the number of agents; set agent.autoscaling.minReplicas=7 and leave agent.replicas at 2, or set agent.autoscaling.enabled=false"},
		"Organization":       {given{set: []string{"openai.organization=a b"}}, "/openai/organization"},
		"PlainOpenAI":        {given{set: []string{"openai.baseUrl=http://api.example.com/v1"}}, "/openai/baseUrl"},
		"PolicyOfNobody":     {given{json: []string{`networkPolicy.extraIngress={"crm":[]}`}}, "networkPolicy.extraIngress.crm names no component; use agent, worker, livekit, or mcp-NAME of one of mcpServers"},
		"PolicyOfNoServer":   {given{json: []string{`networkPolicy.extraIngress={"mcp-crm":[]}`}}, "networkPolicy.extraIngress.mcp-crm names no component"},
		"SharedPort":         {given{set: []string{"agent.port=8089"}}, "use the same port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tc.render()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v\nwant an error with %s", err, tc.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error repeats a password: %v", err)
			}
		})
	}
}

// TestAccepted: values that look odd but work.
func TestAccepted(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("a", 64)
	for name, g := range map[string]given{
		"Global":        {set: []string{"global.imageRegistry=x", "enabled=true", "voice-lib.global.x=y"}},
		"DigestAlone":   {set: []string{"agent.image.tag=", "agent.image.digest=" + digest}},
		"NewModel":      {set: []string{"openai.model=gpt-realtime-9"}},
		"LocalOpenAI":   {set: []string{"openai.baseUrl=http://localhost"}},
		"LocalPort":     {set: []string{"openai.baseUrl=WS://127.0.0.1:8000/v1/"}},
		"CustomVoice":   {set: []string{"openai.voice=voice_68a1"}},
		"TargetNumber":  {json: []string{`agent.autoscaling.targetActiveCalls=8`}},
		"FreeForm":      {set: []string{"agent.resources.limits.nvidia\\.com/gpu=1", "agent.affinity.nodeAffinity.x=y"}},
		"NoServerTwice": {file: "cloud", set: []string{"livekit.replicas=2"}},
		"EqualMinMax":   {set: []string{"agent.autoscaling.minReplicas=20"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := g.render(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTypoAtEveryLevel: an unknown key is refused at every level.
func TestTypoAtEveryLevel(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(folder, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Type                 any
		AdditionalProperties any
		Properties           map[string]json.RawMessage
	}
	freeForm := []string{
		"affinity", "behavior", "config", "dnsConfig", "liveness", "podSecurityContext", "readiness", "resources", "securityContext", "startup", "strategy",
	}
	var levels []string
	var walk func(path string, raw json.RawMessage)
	walk = func(path string, raw json.RawMessage) {
		var o object
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if o.Type != "object" {
			return
		}
		switch o.AdditionalProperties {
		case false:
			levels = append(levels, path)
		case true:
			if !slices.Contains(freeForm, path[strings.LastIndex(path, ".")+1:]) {
				t.Errorf("the schema lets %s hold anything; only blocks that Kubernetes or LiveKit define may: %v", path, freeForm)
			}
		case nil:
			if path != ".global" && path != ".voice-lib" {
				t.Errorf("the schema does not say what else %s may hold", path)
			}
		}
		for key, value := range o.Properties {
			walk(path+"."+key, value)
		}
	}
	walk("", text)
	if len(levels) < 30 {
		t.Fatalf("the schema has %d strict objects, want those of values.yaml: %v", len(levels), levels)
	}
	check := func(path string, more ...string) {
		key := strings.TrimPrefix(path+".tpyo", ".")
		if _, err := (given{set: append(more, key+"=1")}).render(); err == nil || !strings.Contains(err.Error(), "'tpyo'") {
			t.Errorf("--set %s=1 is not refused as unknown: %v", key, err)
		}
	}
	for _, path := range levels {
		check(path)
		if rest, ok := strings.CutPrefix(path, ".mcpDefaults"); ok {
			check("mcpServers.crm"+rest, "mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a")
		}
	}
}

// TestAsPart: the chart works as a dependency of another, enabled by a condition, with values below its own key.
func TestAsPart(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	if err := os.CopyFS(filepath.Join(parent, "charts", "voice-agent"), os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(parent, "Chart.yaml"), "apiVersion: v2\nname: clinic\nversion: 1.0.0\ndependencies:\n- {name: voice-agent, version: 0.1.0, condition: voice-agent.enabled}\n")
	write(t, filepath.Join(parent, "values.yaml"), "global: {region: eu}\nvoice-agent:\n  enabled: true\n  agent: {image: {repository: x, tag: a}}\n  livekit: {apiKey: k, apiSecret: a-secret-of-at-least-32-characters}\n")
	for _, on := range []bool{true, false} {
		c, err := loader.Load(parent)
		if err != nil {
			t.Fatal(err)
		}
		r, err := renderChart(c, "v", map[string]any{"voice-agent": map[string]any{"enabled": on}})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(deployments(t, r)); (got == 3) != on {
			t.Errorf("with voice-agent.enabled=%t there are %d Deployments", on, got)
		}
	}
}

// TestLint: strict, with the library, for every file of ci/; and without values the chart is refused for what only its user
// can know.
func TestLint(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(folder, "ci", "*-values.yaml"))
	if err != nil || len(files) < 5 {
		t.Fatalf("want five files of values in ci/, got %v, %v", files, err)
	}
	for _, file := range files {
		vals, err := (&values.Options{ValueFiles: []string{file}}).MergeValues(nil)
		if err != nil {
			t.Fatal(err)
		}
		lint := action.NewLint()
		lint.Strict, lint.Namespace = true, namespace
		for _, path := range []string{folder, filepath.Join(folder, "charts", "voice-lib")} {
			for _, m := range lint.Run([]string{path}, vals).Messages {
				if m.Severity > support.InfoSev {
					t.Errorf("%s with %s: %v", path, file, m)
				}
			}
		}
	}
	_, err = renderOf(t, nil)
	for _, want := range []string{"agent.image has neither tag nor digest", "set livekit.existingSecret"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the bare chart is not refused with %q: %v", want, err)
		}
	}
}

// renderOf renders the chart with these values and no others.
func renderOf(t *testing.T, vals map[string]any) (rendered, error) {
	t.Helper()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return renderChart(c, "v", vals)
}

// TestValuesOfTheLastRelease: an upgrade with --reuse-values brings values that lack the newer ones, and have empty pod fields
// at each component. Pods are rendered as with today's defaults, and keep their user.
func TestValuesOfTheLastRelease(t *testing.T) {
	t.Parallel()
	old := given{json: []string{
		"podDefaults=null", "ca=null", "proxy=null", "openshift=null", "nameOverride=null", "livekit.secretKeys=null", "livekit.extraArgs=null",
		"commonAnnotations=null", "ipFamilyPolicy=null", "ipFamilies=null", "extraObjects=null", "livekit.autoscaling=null", "livekit.redis.sentinel=null", "livekit.turn=null", "livekit.ingress=null", "livekit.httpRoute=null", "podMonitor=null", "networkPolicy.metricsFrom=null", "networkPolicy.extraIngress=null",
		`openai.ca={"configMap":"","key":"ca.crt"}`, `openai.proxy={"url":"","existingSecret":"","existingSecretKey":"proxy"}`,
	}}
	for _, component := range []string{"agent", "worker", "livekit", "mcpDefaults"} {
		for _, field := range []string{
			`serviceAccount={"create":true,"name":"","annotations":{}}`, "podAnnotations={}", "podLabels={}", "securityContext={}", `priorityClassName=""`,
			"nodeSelector={}", "affinity={}", "tolerations=[]", "topologySpreadConstraints=[]",
		} {
			old.json = append(old.json, component+"."+field)
		}
		if component != "livekit" {
			old.json = append(old.json, component+".env={}", component+".envFrom=[]", component+".volumes=[]", component+".volumeMounts=[]", component+".podSecurityContext={}")
		}
	}
	servers := []string{"mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a"}
	old.set = servers
	today := deployments(t, given{set: append(servers, "podDefaults.podSecurityContext.runAsUser=null")}.must(t))
	for name, d := range deployments(t, old.must(t)) {
		if diff := cmp.Diff(today[name].Spec, d.Spec); diff != "" {
			t.Errorf("%s (-today +with the earlier values):\n%s", name, diff)
		}
	}
}

// TestLibrary: it is declared, locked, and renders nothing itself.
func TestLibrary(t *testing.T) {
	t.Parallel()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Dependencies()) != 1 || len(c.Metadata.Dependencies) != 1 {
		t.Fatalf("the chart has %d charts inside and declares %d; declare voice-lib in Chart.yaml", len(c.Dependencies()), len(c.Metadata.Dependencies))
	}
	lib := c.Dependencies()[0]
	if lib.Metadata.Type != "library" || c.Metadata.Dependencies[0].Name != lib.Metadata.Name || c.Metadata.Dependencies[0].Repository != "" {
		t.Errorf("%s is declared as %+v", lib.Metadata.Name, c.Metadata.Dependencies[0])
	}
	if c.Lock == nil || c.Lock.Dependencies[0].Version != lib.Metadata.Version || c.Metadata.Dependencies[0].Version != lib.Metadata.Version {
		t.Errorf("Chart.lock has %+v, the library is %s; run \"helm dependency update\" in the chart", c.Lock, lib.Metadata.Version)
	}
	for _, tpl := range lib.Templates {
		if !strings.HasPrefix(filepath.Base(tpl.Name), "_") {
			t.Errorf("%s of a library is never rendered; begin its name with _", tpl.Name)
		}
	}
	for name := range (given{file: "full"}).must(t).files {
		if strings.Contains(name, "voice-lib") {
			t.Errorf("the library renders %s", name)
		}
	}
}

// TestPackage: two packages of the same files and the same date are the same.
func TestPackage(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var archives [2][]byte
	for i := range archives {
		copied := filepath.Join(t.TempDir(), "voice-agent")
		if err := os.CopyFS(copied, os.DirFS(folder)); err != nil {
			t.Fatal(err)
		}
		p := action.NewPackage()
		p.Destination, p.SourceDateEpoch = t.TempDir(), &date
		path, err := p.Run(copied, nil)
		if err != nil {
			t.Fatal(err)
		}
		archives[i], err = os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := loader.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Dependencies()) != 1 || c.Schema == nil {
			t.Error("the package lacks the library or the schema")
		}
		for _, f := range c.Files {
			if strings.HasPrefix(f.Name, "ci/") {
				t.Errorf("the package carries %s", f.Name)
			}
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two packages of the same chart differ")
	}
}

// TestNothingIsInvented: no template uses the cluster, the clock or random numbers, which would make renders differ.
func TestNothingIsInvented(t *testing.T) {
	t.Parallel()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	templates := c.Templates
	for _, d := range c.Dependencies() {
		templates = append(templates, d.Templates...)
	}
	for _, tpl := range templates {
		for _, word := range []string{"lookup ", "randAlpha", "randNumeric", "randAscii", "randBytes", "randInt", "uuidv4", "genPrivateKey", "genCA", "genSelfSigned", "genSigned", "now "} {
			for line := range strings.Lines(string(tpl.Data)) {
				_, code, _ := strings.Cut(line, "{{")
				if strings.Contains(code, word) {
					t.Errorf("%s has %q: %s", tpl.Name, word, line)
				}
			}
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
