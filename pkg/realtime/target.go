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
	// exampleURL is an example of a valid base URL.
	exampleURL = "wss://api.openai.com/v1"
	// openaiDomain is the domain of OpenAI itself, including its regions.
	openaiDomain = ".openai.com"
)

// azureDomains returns the domains of Azure OpenAI's resources, in the public cloud, the US
// government's cloud and China.
func azureDomains() []string {
	return []string{
		".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com",
		".openai.azure.us", ".cognitiveservices.azure.us", ".openai.azure.cn", ".cognitiveservices.azure.cn",
	}
}

// ParseBaseURL accepts wss and https and, only on loopback, ws and http, because the key is
// sent over it. It returns the URL with scheme wss or ws.
func ParseBaseURL(raw string) (*url.URL, error) {
	u, err := weburl.Parse(raw, exampleURL)
	switch {
	case err != nil && strings.Contains(raw, "?"): // for example the target URI that Azure's portal shows
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

// target is where sessions are requested, and as whom.
type target struct {
	url     *url.URL // wss or ws, with its query
	headers http.Header
	auth    AuthHeader
	// deployment reports whether a deployment is requested instead of a model, as on Azure
	// OpenAI: its name says nothing about the model behind it.
	deployment bool
	host       host
	version    string // api-version; may be empty
}

// host is whose API a URL belongs to, judging by its name.
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

// byAzure reports whether an answer is from Azure OpenAI, even behind another name such as
// a gateway's.
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
		// Azure's endpoint is a resource's host, with or without /openai. The rest is added in
		// the same way as LiveKit's plugins do.
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

// with returns the request's headers with a key. OpenAI-Beta is not among them, because the
// API refuses it.
func (t *target) with(key string) http.Header {
	header := t.headers.Clone()
	if t.auth == APIKey {
		header.Set("Api-Key", key)
	} else {
		header.Set("Authorization", "Bearer "+key)
	}
	return header
}

// remedy returns what an operator can do about an outcome, if the target makes that more
// specific than the reason; otherwise it is empty.
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
	default: // the others mean the same for every target
		return ""
	}
}
