// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/callguard/callguard/pkg/weburl"
)

// AuthHeader is the header that carries the key.
type AuthHeader string

// The headers.
const (
	// Bearer is "Authorization: Bearer KEY": OpenAI, and Azure OpenAI for tokens of Entra ID.
	Bearer AuthHeader = "bearer"
	// APIKey is "api-key: KEY": Azure OpenAI for the keys of a resource.
	APIKey AuthHeader = "api-key"
)

const (
	// exampleURL is a base URL that works.
	exampleURL = "wss://api.openai.com/v1"
	// openaiDomain is where OpenAI itself answers, regions included.
	openaiDomain = ".openai.com"
)

// azureDomains are where Azure OpenAI answers: those of its resources of each kind,
// in the public cloud, in that of the US government and in China.
func azureDomains() []string {
	return []string{
		".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com",
		".openai.azure.us", ".cognitiveservices.azure.us", ".openai.azure.cn", ".cognitiveservices.azure.cn",
	}
}

// ParseBaseURL takes wss and https, and, on loopback only, ws and http: the key
// goes over it. It returns the URL with scheme wss or ws.
func ParseBaseURL(raw string) (*url.URL, error) {
	u, err := weburl.Parse(raw, exampleURL)
	switch {
	case err != nil && strings.Contains(raw, "?"): // such as the target URI that Azure's portal shows
		return nil, fmt.Errorf("%w, and give api-version and deployment in --api-version and --deployment", err)
	case err != nil:
		return nil, err
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("%q cannot be used: the key would travel in clear text; use one such as %s", u, exampleURL)
	}
	u.Scheme = "ws" + strings.TrimPrefix(u.Scheme, "http")
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// target is where sessions are asked for, and as whom.
type target struct {
	url     *url.URL // wss or ws, with its query
	headers http.Header
	auth    AuthHeader
	// deployment reports whether a deployment is asked for, as on Azure OpenAI, and
	// not a model: its name says nothing of the model behind it.
	deployment bool
	host       host
	version    string // api-version; may be empty
}

// host is whose API a URL names, as far as its name tells.
type host int

const (
	someone host = iota // a gateway, or a test
	openai
	azure
)

func hostOf(u *url.URL) host {
	name := strings.ToLower(u.Hostname())
	switch {
	case strings.HasSuffix(name, openaiDomain):
		return openai
	case slices.ContainsFunc(azureDomains(), func(domain string) bool { return strings.HasSuffix(name, domain) }):
		return azure
	default:
		return someone
	}
}

// byAzure reports whether an answer is Azure OpenAI's, also where another name, such as
// a gateway's, leads there.
func byAzure(header http.Header, body []byte) bool {
	if header.Get("Apim-Request-Id") != "" {
		return true
	}
	return slices.ContainsFunc([]string{"cognitiveservices.azure.com", "invalid subscription key"}, func(words string) bool {
		return bytes.Contains(body, []byte(words))
	})
}

func newTarget(cfg Config) (target, error) {
	u, err := ParseBaseURL(cfg.BaseURL)
	if err != nil {
		return target{}, fmt.Errorf("base URL: %w", err)
	}
	t := target{url: u, headers: http.Header{}, auth: cfg.AuthHeader, host: hostOf(u), version: cfg.APIVersion}
	switch t.auth {
	case "":
		t.auth = Bearer
	case Bearer, APIKey:
	default:
		return target{}, fmt.Errorf("auth header %q is none; use %s or %s", t.auth, Bearer, APIKey)
	}
	t.deployment = t.host == azure || t.auth == APIKey || cfg.Deployment != "" || cfg.APIVersion != ""
	if t.deployment {
		// Azure's endpoint is a resource's host, with or without /openai; LiveKit's
		// plugins add the rest as it is added here.
		if u.Path == "" {
			u.Path = "/openai"
		}
		if t.version == "" && strings.HasSuffix(u.Path, "/openai") {
			u.Path += "/v1"
		}
	}
	if !strings.HasSuffix(u.Path, "/realtime") {
		u.Path += "/realtime"
	}
	name := cfg.Model
	if cfg.Deployment != "" {
		name = cfg.Deployment
	}
	query := url.Values{}
	if t.version == "" {
		query.Set("model", name)
	} else {
		query.Set("api-version", t.version)
		query.Set("deployment", name)
	}
	u.RawQuery = query.Encode()
	if cfg.Organization != "" {
		t.headers.Set("OpenAI-Organization", cfg.Organization)
	}
	if cfg.Project != "" {
		t.headers.Set("OpenAI-Project", cfg.Project)
	}
	return t, nil
}

// with is the request's headers with a key. There is no OpenAI-Beta among them:
// the API refuses it.
func (t *target) with(key string) http.Header {
	header := t.headers.Clone()
	if t.auth == APIKey {
		header.Set("Api-Key", key)
	} else {
		header.Set("Authorization", "Bearer "+key)
	}
	return header
}

// remedy is what an operator can do about an outcome, where whom was asked tells more
// than the reason alone; empty where it does not.
func (t *target) remedy(o Outcome) string {
	const chart = "in charts/voice-agent"
	switch {
	case o.Reason == KeyRejected && t.auth == Bearer && (t.host == azure || o.azure):
		return "Azure OpenAI takes a key in the header api-key; set --auth-header=api-key (openai.azure.enabled=true " + chart + ")"
	case o.Reason == KeyRejected && t.auth == APIKey && t.host == openai:
		return "OpenAI takes a key as a bearer token; set --auth-header=bearer (openai.azure.enabled=false " + chart + ")"
	case (o.Reason == KeyRejected || o.Reason == ModelGone) && t.version != "" && strings.HasSuffix(t.url.Path, "/v1/realtime"):
		return "/openai/v1 takes no api-version; leave --api-version out, or use a --base-url that ends in /openai"
	case !t.deployment:
		return ""
	}
	switch o.Reason {
	case KeyRejected:
		return "put a valid key of this very resource into the Secret; its file is read again at each probe"
	case Forbidden:
		return "check the network rules of the resource, and the roles of whom the key or token belongs to"
	case ModelGone:
		return "name a deployment of a realtime model in --deployment, and check --base-url and --api-version"
	default: // the others mean the same wherever they come from
		return ""
	}
}
