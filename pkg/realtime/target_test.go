// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTarget: each API is used as its own SDKs do.
func TestTarget(t *testing.T) {
	const (
		resource = "wss://res.openai.azure.com"
		preview  = "2025-04-01-preview"
	)
	cases := map[string]struct {
		reason  string
		cfg     Config
		url     string
		headers http.Header
	}{
		"OpenAI": {
			reason: "A model, and a bearer token.", cfg: Config{BaseURL: "https://api.openai.com/v1"},
			url: "wss://api.openai.com/v1/realtime?model=m",
		},
		"Whole": {
			reason: "The path may be there already.", cfg: Config{BaseURL: "wss://api.openai.com/v1/realtime"},
			url: "wss://api.openai.com/v1/realtime?model=m",
		},
		"Whom": {
			reason: "Organization and project are headers of their own.", cfg: Config{BaseURL: "https://api.openai.com/v1", Organization: "org-1", Project: "proj_1"},
			url:     "wss://api.openai.com/v1/realtime?model=m",
			headers: http.Header{"Authorization": {"Bearer k"}, "Openai-Organization": {"org-1"}, "Openai-Project": {"proj_1"}},
		},
		"Gateway": {
			reason: "A path of somebody else stays.", cfg: Config{BaseURL: "https://gateway.example.com/llm"},
			url: "wss://gateway.example.com/llm/realtime?model=m",
		},
		"Endpoint": {
			reason: "A resource's endpoint, as the portal shows it.", cfg: Config{BaseURL: "https://res.openai.azure.com/", AuthHeader: APIKey, Deployment: "d"},
			url: resource + "/openai/v1/realtime?model=d", headers: http.Header{"Api-Key": {"k"}},
		},
		"EndpointOpenAI": {
			reason: "As LiveKit's plugins extend it.", cfg: Config{BaseURL: "https://res.openai.azure.com/openai", AuthHeader: APIKey, Deployment: "d"},
			url: resource + "/openai/v1/realtime?model=d", headers: http.Header{"Api-Key": {"k"}},
		},
		"V1": {
			reason: "As OpenAI's SDKs are given it.", cfg: Config{BaseURL: "https://res.openai.azure.com/openai/v1/", AuthHeader: APIKey, Deployment: "d"},
			url: resource + "/openai/v1/realtime?model=d", headers: http.Header{"Api-Key": {"k"}},
		},
		"NamedAsModel": {
			reason: "A deployment may have its model's name.", cfg: Config{BaseURL: "https://res.openai.azure.com", AuthHeader: APIKey},
			url: resource + "/openai/v1/realtime?model=m", headers: http.Header{"Api-Key": {"k"}},
		},
		"Token": {
			reason: "Azure takes a token of Entra ID as a bearer token.", cfg: Config{BaseURL: "https://res.openai.azure.com", Deployment: "d"},
			url: resource + "/openai/v1/realtime?model=d",
		},
		"Preview": {
			reason: "The preview has other names for both.", cfg: Config{BaseURL: "https://res.openai.azure.com", AuthHeader: APIKey, Deployment: "d", APIVersion: preview},
			url: resource + "/openai/realtime?api-version=" + preview + "&deployment=d", headers: http.Header{"Api-Key": {"k"}},
		},
		"PreviewOpenAI": {
			reason: "The same URL, longer.", cfg: Config{BaseURL: "wss://res.openai.azure.com/openai/realtime", AuthHeader: APIKey, Deployment: "d", APIVersion: preview},
			url: resource + "/openai/realtime?api-version=" + preview + "&deployment=d", headers: http.Header{"Api-Key": {"k"}},
		},
		"OtherDomain": {
			reason: "A resource of another kind.", cfg: Config{BaseURL: "https://RES.cognitiveservices.azure.com", AuthHeader: APIKey},
			url: "wss://RES.cognitiveservices.azure.com/openai/v1/realtime?model=m", headers: http.Header{"Api-Key": {"k"}},
		},
		"AzureBehindGateway": {
			reason: "A gateway before Azure has Azure's paths behind its own.", cfg: Config{BaseURL: "https://gateway.example.com/eu/openai", AuthHeader: APIKey, Deployment: "d"},
			url: "wss://gateway.example.com/eu/openai/v1/realtime?model=d", headers: http.Header{"Api-Key": {"k"}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.cfg.Model = "m"
			if tc.headers == nil {
				tc.headers = http.Header{"Authorization": {"Bearer k"}}
			}
			to, err := newTarget(tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if got := to.url.String(); got != tc.url {
				t.Errorf("%s asked at %s; want %s", tc.reason, got, tc.url)
			}
			if diff := cmp.Diff(tc.headers, to.with("k")); diff != "" {
				t.Errorf("%s headers (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	if _, err := newTarget(Config{BaseURL: "wss://api.openai.com/v1", AuthHeader: "cookie"}); err == nil || !strings.Contains(err.Error(), "use bearer or api-key") {
		t.Errorf("an auth header that is none: %v", err)
	}
}

// The answers of Azure OpenAI, as users have published them: of its front door to an API
// key sent as a bearer token (Microsoft Q&A, "Access token is missing"), to an invalid
// key, for a deployment that does not exist, for a path or version that does not exist,
// for a deployment of a model without Realtime (Q&A 5916641, misspelt as it is there),
// and for a caller that a network rule keeps out.
const (
	azureBearer     = `{ "statusCode": 401, "message": "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired." }`
	azureKey        = `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."}}`
	azureDeployment = `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}`
	azurePath       = `{"error":{"code":"404","message": "Resource not found"}}`
	azureOperation  = `{"error":{"code":"OpperationNotSupported","message":"The realtime operation does not work with the specified model. Please choose different model and try again."}}`
	azureNetwork    = `{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}`
)

// azureAPI answers like a resource of Azure OpenAI with one deployment, voice-1.
func azureAPI(a *api) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		header := http.Header{"Apim-Request-Id": {"4b30c637"}, "Content-Type": {"application/json"}}
		query := r.URL.Query()
		var deployment string
		switch {
		case r.URL.Path == "/openai/v1/realtime" && !query.Has("api-version"):
			deployment = query.Get("model")
		case r.URL.Path == "/openai/realtime" && query.Get("api-version") == "2025-04-01-preview":
			deployment = query.Get("deployment")
		case r.URL.Path == "/openai/v1/realtime":
			answers(http.StatusUnauthorized, header, azureKey)(w, r)
			return
		default:
			answers(http.StatusNotFound, header, azurePath)(w, r)
			return
		}
		switch {
		case r.Header.Get("Api-Key") == "" && r.Header.Get("Authorization") != "Bearer entra.token":
			answers(http.StatusUnauthorized, header, azureBearer)(w, r)
		case r.Header.Get("Api-Key") != "" && r.Header.Get("Api-Key") != key:
			answers(http.StatusUnauthorized, header, azureKey)(w, r)
		case deployment == "whisper":
			answers(http.StatusBadRequest, header, azureOperation)(w, r)
		case deployment != "voice-1":
			answers(http.StatusNotFound, header, azureDeployment)(w, r)
		default: // it names the model behind the deployment, and no type of session
			a.session(`{"type":"session.created","event_id":"event_1","session":{"id":"sess_1","model":"gpt-realtime-2025-08-28"}}`)(w, r)
		}
	}
}

// TestAzure: with Azure's header, names and path, sessions open; without, the answer says
// what to set.
func TestAzure(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*Config)
		key    string
		want   Reason // empty: a session opens
		says   string
	}{
		"Key":        {reason: "The key goes into a separate header.", change: func(c *Config) { c.AuthHeader, c.Deployment = APIKey, "voice-1" }},
		"Slash":      {reason: "An endpoint often ends in a slash.", change: func(c *Config) { c.AuthHeader, c.Deployment, c.BaseURL = APIKey, "voice-1", c.BaseURL+"/\n" }},
		"Preview":    {reason: "The preview is asked otherwise.", change: func(c *Config) { c.AuthHeader, c.Deployment, c.APIVersion = APIKey, "voice-1", "2025-04-01-preview" }},
		"Token":      {reason: "A token of Entra ID is a bearer token.", change: func(c *Config) { c.Deployment = "voice-1" }, key: "entra.token"},
		"Bearer":     {reason: "A key sent as a bearer token is wrong, but the advice must not be to find another key.", change: func(c *Config) { c.Deployment = "voice-1" }, want: KeyRejected, says: "Azure OpenAI takes a key in the header api-key; set --auth-header=api-key (openai.azure.enabled=true in charts/voice-agent)"},
		"OtherKey":   {reason: "A key of another resource is none.", change: func(c *Config) { c.AuthHeader, c.Deployment = APIKey, "voice-1" }, key: "0123456789abcdef", want: KeyRejected, says: "put a valid key of this very resource into the Secret"},
		"ModelName":  {reason: "A deployment has its own name.", change: func(c *Config) { c.AuthHeader = APIKey }, want: ModelGone, says: "name a deployment of a realtime model in --deployment"},
		"NoRealtime": {reason: "A deployment of another kind of model stays one.", change: func(c *Config) { c.AuthHeader, c.Deployment = APIKey, "whisper" }, want: ModelGone, says: "OpperationNotSupported"},
		"OldVersion": {reason: "A version that is over is no model that is gone.", change: func(c *Config) { c.AuthHeader, c.Deployment, c.APIVersion = APIKey, "voice-1", "2024-10-01-preview" }, want: ModelGone, says: "check --base-url and --api-version"},
		"V1Version": {reason: "The API without versions refuses one as if the key were wrong.", change: func(c *Config) {
			c.AuthHeader, c.Deployment, c.APIVersion, c.BaseURL = APIKey, "voice-1", "2025-04-01-preview", c.BaseURL+"/openai/v1"
		}, want: KeyRejected, says: "leave --api-version out"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			a.does(azureAPI(a))
			p := newProber(t, a, func(c *Config) {
				c.BaseURL = a.URL
				if tc.change(c); c.AuthHeader != APIKey && c.APIVersion == "" {
					c.BaseURL = a.URL + "/openai" // its host name does not show that it is Azure
				}
			})
			if tc.key != "" {
				p.writeKey(t, tc.key)
			}
			p.probe(t.Context())
			_, got := p.get(t)
			if got.Reason != tc.want || !strings.Contains(got.Why, tc.says) {
				t.Errorf("%s got %s %s, %q; want %q, %q", tc.reason, got.Class, got.Reason, got.Why, tc.want, tc.says)
			}
			// A deployment's model has another name, and Azure lists no deployments.
			if len(got.Warnings) > 0 {
				t.Errorf("%s warns of %q", tc.reason, got.Warnings)
			}
			if told := p.told(t); strings.Contains(told, key) || tc.key != "" && strings.Contains(told, tc.key) {
				t.Errorf("the key is published: %s", told)
			}
		})
	}
}

// TestRemedy: what to do depends on who refused.
func TestRemedy(t *testing.T) {
	cases := map[string]struct {
		reason string
		cfg    Config
		status int
		body   string
		want   Reason
		says   string
	}{
		"AzureByName":   {reason: "Azure's name says it, whatever the body.", cfg: Config{BaseURL: "https://x.openai.azure.com"}, status: 401, want: KeyRejected, says: "set --auth-header=api-key"},
		"AzureUS":       {reason: "In every cloud of Azure's.", cfg: Config{BaseURL: "https://x.openai.azure.us"}, status: 401, want: KeyRejected, says: "set --auth-header=api-key"},
		"OpenAIByName":  {reason: "OpenAI knows no header api-key.", cfg: Config{BaseURL: "https://eu.api.openai.com/v1", AuthHeader: APIKey}, status: 401, want: KeyRejected, says: "set --auth-header=bearer"},
		"OpenAIBadKey":  {reason: "A key that is wrong is said to be.", cfg: Config{BaseURL: "https://api.openai.com/v1"}, status: 401, want: KeyRejected, says: "put a valid key into the Secret"},
		"NotAzure":      {reason: "A name that only looks like Azure's is not.", cfg: Config{BaseURL: "https://x.openai.azure.com.example.com/v1"}, status: 401, want: KeyRejected, says: "put a valid key into the Secret"},
		"Network":       {reason: "A firewall of Azure's is no project of OpenAI's.", cfg: Config{BaseURL: "https://x.openai.azure.com", AuthHeader: APIKey}, status: 403, body: azureNetwork, want: Forbidden, says: "check the network rules of the resource"},
		"Organization":  {reason: "A key of another organization is a valid one.", cfg: Config{BaseURL: "https://api.openai.com/v1"}, status: 401, body: `{"error":{"type":"invalid_request_error","code":"mismatched_organization"}}`, want: Request, says: "--organization"},
		"FlatMessage":   {reason: "Azure's front door gives the reason without an error.", cfg: Config{BaseURL: "https://x.openai.azure.com"}, status: 401, body: azureBearer, want: KeyRejected, says: "audience is incorrect"},
		"PermissionAAD": {reason: "A token without the role is no wrong key.", cfg: Config{BaseURL: "https://x.openai.azure.com"}, status: 401, body: `{"error":{"code":"PermissionDenied","message":"The principal lacks the required data action"}}`, want: Forbidden, says: "roles"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.cfg.Model = model
			to, err := newTarget(tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			o := answered(tc.status, []byte(tc.body))
			o.Remedy = to.remedy(o)
			if o.Reason != tc.want || !strings.Contains(o.Why(), tc.says) {
				t.Errorf("%s got %s, %q; want %s, %q", tc.reason, o.Reason, o.Why(), tc.want, tc.says)
			}
		})
	}
}

// TestByAzure: Azure is also recognized by its answers.
func TestByAzure(t *testing.T) {
	for name, tc := range map[string]struct {
		header http.Header
		body   string
		want   bool
	}{
		"Header":  {header: http.Header{"Apim-Request-Id": {"1"}}, want: true},
		"Bearer":  {body: azureBearer, want: true},
		"Key":     {body: azureKey, want: true},
		"OpenAI":  {body: `{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","code":"invalid_api_key"}}`},
		"Nothing": {},
	} {
		if got := byAzure(tc.header, []byte(tc.body)); got != tc.want {
			t.Errorf("%s: byAzure is %t, want %t", name, got, tc.want)
		}
	}
}

// TestBaseURLs: the ways in which people write the same URL.
func TestBaseURLs(t *testing.T) {
	want := &url.URL{Scheme: "wss", Host: "api.openai.com", Path: "/v1"}
	for _, raw := range []string{
		"wss://api.openai.com/v1", "https://api.openai.com/v1", "WSS://api.openai.com/v1", "HTTPS://api.openai.com/v1/",
		"wss://api.openai.com//v1", "https://api.openai.com/v1//", "https://api.openai.com/v1\n", "\thttps://api.openai.com/v1/\r\n",
	} {
		got, err := ParseBaseURL(raw)
		if err != nil {
			t.Errorf("ParseBaseURL(%q): %v", raw, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseBaseURL(%q) (-want +got):\n%s", raw, diff)
		}
	}
}
