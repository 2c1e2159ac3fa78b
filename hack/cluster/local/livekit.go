// SPDX-License-Identifier: Apache-2.0

package local

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// LiveKit is one LiveKit server: its address and the key of its project.
type LiveKit struct {
	Name      string `json:"name"`
	URL       string `json:"url"`
	APIKey    string `json:"apiKey"`
	APISecret string `json:"apiSecret"`
}

// String omits the secret, so that a log line cannot contain it by accident.
func (l LiveKit) String() string { return l.Name + " " + l.URL }

// EnvFile holds the address, key and secret as environment variables; only its owner can read it.
func (c *Cluster) EnvFile(liveKit string) string { return c.layout().env(liveKit) }

// newLiveKits creates a random key and secret for each server.
func newLiveKits(cfg Config, ports map[string]int) []LiveKit {
	var out []LiveKit
	for i := range cfg.LiveKits {
		name := LiveKitName(i + 1)
		out = append(out, LiveKit{
			Name: name, URL: httpURL(ports[name]),
			APIKey: "API" + randomHex(6), APISecret: randomHex(24),
		})
	}
	return out
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// writeLiveKitConfig writes the server's settings (JSON is YAML), and its key as environment variables for people.
func writeLiveKitConfig(s state, l layout, lk LiveKit) error {
	media := s.Ports[lk.Name+portSuffixMedia]
	settings := map[string]any{
		"port":           s.Ports[lk.Name],
		"bind_addresses": []string{"127.0.0.1"},
		"rtc": map[string]any{
			"tcp_port": media, "udp_port": media,
			"node_ip": "127.0.0.1", "use_external_ip": false, "enable_loopback_candidate": true,
		},
		"keys":    map[string]string{lk.APIKey: lk.APISecret},
		"room":    map[string]any{"auto_create": true, "empty_timeout": 300, "departure_timeout": 20},
		"logging": map[string]any{"level": "info"},
	}
	if len(s.Config.WebhookURLs) > 0 {
		settings["webhook"] = map[string]any{"api_key": lk.APIKey, "urls": s.Config.WebhookURLs}
	}
	raw, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the settings of %s: %w", lk.Name, err)
	}
	if err := writeFile(l.config(lk.Name), raw); err != nil {
		return err
	}
	return writeFile(l.env(lk.Name),
		fmt.Appendf(nil, "LIVEKIT_URL=%s\nLIVEKIT_API_KEY=%s\nLIVEKIT_API_SECRET=%s\n", lk.URL, lk.APIKey, lk.APISecret))
}
