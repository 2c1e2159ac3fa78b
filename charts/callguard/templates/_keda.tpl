{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The listener for KEDA: YAML with its port and the volume of its client authority; empty if KEDA is not served. */ -}}
{{- define "callguard.keda" -}}
{{- $keda := .Values.metricsAdapter.keda | default dict -}}
{{- if $keda.enabled -}}
{{- $ca := $keda.clientCA | default dict -}}
{{- if eq (include "callguard.adapterMode" .) "none" -}}
{{- fail "metricsAdapter.keda.enabled is true, and metricsAdapter.mode is none, so nothing would answer KEDA; use metricsAdapter.mode=own or compose" -}}
{{- end -}}
{{- if eq (include "callguard.tlsMode" .) "selfRotate" -}}
{{- fail "metricsAdapter.keda.enabled is true, and tls.mode is selfRotate, whose certificates only kube-apiserver can verify; use tls.mode=certManager or existingSecret" -}}
{{- end -}}
{{- if and $ca.secret $ca.configMap -}}
{{- fail (printf "metricsAdapter.keda.clientCA.secret is %q and configMap is %q; only one can be used; set the other to \"\"" $ca.secret $ca.configMap) -}}
{{- end -}}
{{- if not (or $ca.secret $ca.configMap) -}}
{{- fail "metricsAdapter.keda.clientCA names no certificate authority, and clients without a certificate get no answer; name a Secret or ConfigMap of the release's namespace, such as --set metricsAdapter.keda.clientCA.secret=keda-client-ca" -}}
{{- end -}}
{{- $file := dict "items" (list (dict "key" ($ca.key | default "ca.crt") "path" "ca.crt")) -}}
port: {{ int ($keda.port | default 8091) }}
volume:
  name: keda
  {{- if $ca.secret }}
  secret: {{ merge (dict "secretName" $ca.secret) $file | toYaml | nindent 4 }}
  {{- else }}
  configMap: {{ merge (dict "name" $ca.configMap) $file | toYaml | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end }}
