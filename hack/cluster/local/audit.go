// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"fmt"
)

const auditPolicy = "audit-policy"

// AuditLog is the file in which kube-apiserver records the requests of Config.AuditUsers: an audit.k8s.io/v1 Event per
// line.
func (c *Cluster) AuditLog() string { return c.layout().audit() }

// writeAuditPolicy makes kube-apiserver record who requests what, without the content. JSON is YAML.
func writeAuditPolicy(s state, l layout) error {
	if len(s.Config.AuditUsers) == 0 {
		return nil
	}
	raw, err := json.MarshalIndent(map[string]any{
		"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
		"omitStages": []string{"RequestReceived", "ResponseStarted"},
		"rules": []map[string]any{
			{"level": "Metadata", "users": s.Config.AuditUsers},
			{"level": "None"},
		},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the audit policy: %w", err)
	}
	return writeFile(l.config(auditPolicy), raw)
}
