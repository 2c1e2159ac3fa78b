{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* How programs reach LiveKit: certificate authorities, proxy and key. */ -}}

{{- define "callguard.connectionEnv" -}}
{{- $env := list -}}
{{- $ca := .Values.ca | default dict -}}
{{- if or $ca.secret $ca.configMap -}}
{{- $env = append $env (dict "name" "SSL_CERT_DIR" "value" "/etc/ssl/certs:/etc/callguard/ca") -}}
{{- end -}}
{{- $proxy := .Values.proxy | default dict -}}
{{- if contains "@" ($proxy.url | default "") -}}
{{- fail "proxy.url holds a password; put the URL into a Secret, and name that in proxy.existingSecret" -}}
{{- end -}}
{{- if and $proxy.url $proxy.existingSecret -}}
{{- fail (printf "proxy.url is %s and proxy.existingSecret is %s; use one of them" $proxy.url $proxy.existingSecret) -}}
{{- end -}}
{{- if or $proxy.url $proxy.existingSecret -}}
{{- $is := dict "value" $proxy.url -}}
{{- with $proxy.existingSecret -}}
{{- $is = dict "valueFrom" (dict "secretKeyRef" (dict "name" . "key" ($proxy.existingSecretKey | default "proxy"))) -}}
{{- end -}}
{{- range list "HTTPS_PROXY" "HTTP_PROXY" -}}
{{- $env = append $env (merge (dict "name" .) $is) -}}
{{- end -}}
{{- $never := list "localhost" "127.0.0.0/8" "::1" ".svc" ".cluster.local" "$(KUBERNETES_SERVICE_HOST)" -}}
{{- with $proxy.noProxy }}{{ $never = append $never . }}{{ end -}}
{{- $env = append $env (dict "name" "NO_PROXY" "value" (join "," $never)) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end }}

{{- /* The proxy's port, if it is in the values and no other rule opens it. */ -}}
{{- define "callguard.proxyPort" -}}
{{- $url := urlParse (dig "url" "" (.Values.proxy | default dict)) -}}
{{- if $url.host -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) | int -}}
{{- $open := list -}}
{{- range .Values.networkPolicy.egressPorts }}{{ $open = append $open (int .) }}{{ end -}}
{{- if not (has $port $open) }}{{ $port }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "callguard.caMount" -}}
{{- $ca := .Values.ca | default dict -}}
{{- if or $ca.secret $ca.configMap -}}
- name: ca
  mountPath: /etc/callguard/ca
  readOnly: true
{{- else -}}
[]
{{- end -}}
{{- end }}

{{- define "callguard.caVolume" -}}
{{- $ca := .ctx.Values.ca | default dict -}}
{{- if and $ca.secret $ca.configMap -}}
{{- fail (printf "ca.secret is %s and ca.configMap is %s; use one of them" $ca.secret $ca.configMap) -}}
{{- end -}}
{{- $file := dict "items" (list (dict "key" ($ca.key | default "ca.crt") "path" "ca.crt")) -}}
{{- if .optional }}{{ $_ := set $file "optional" true }}{{ end -}}
{{- if $ca.secret -}}
{{- list (dict "name" "ca" "secret" (merge (dict "secretName" $ca.secret) $file)) | toYaml -}}
{{- else if $ca.configMap -}}
{{- list (dict "name" "ca" "configMap" (merge (dict "name" $ca.configMap) $file)) | toYaml -}}
{{- else -}}
[]
{{- end -}}
{{- end }}

{{- /* The default LiveKit project: flags of both programs, and the Secret they read. The Secret may be created later, and may change. */ -}}
{{- define "callguard.livekitArgs" -}}
{{- if .Values.livekit.secretName }}
- --livekit-secret-dir=/etc/livekit
{{- $given := .Values.livekit.secretKeys | default dict -}}
{{- $keys := list -}}
{{- range $name, $value := dict "url" $given.url "api-key" $given.apiKey "api-secret" $given.apiSecret -}}
{{- with $value }}{{ $keys = append $keys (printf "%s=%s" $name .) }}{{ end -}}
{{- end -}}
{{- with $keys }}
- --livekit-secret-keys={{ join "," . }}
{{- end }}
{{- end }}
{{- with .Values.livekit.allowCIDRs }}
- --livekit-allow-cidr={{ join "," . }}
{{- end }}
{{- with int .Values.livekit.requestsPerMinute }}
- --livekit-requests-per-minute={{ . }}
{{- end }}
{{- end }}

{{- define "callguard.livekitMount" -}}
{{- ternary (list (dict "name" "livekit" "mountPath" "/etc/livekit" "readOnly" true)) list (not (empty .Values.livekit.secretName)) | toYaml -}}
{{- end }}

{{- define "callguard.livekitVolume" -}}
{{- ternary (list (dict "name" "livekit" "secret" (dict "secretName" .Values.livekit.secretName "optional" true))) list (not (empty .Values.livekit.secretName)) | toYaml -}}
{{- end }}

{{- /* The adapter's ports: YAML with secure, webhook and, if KEDA is served, keda. On the host network, the kubelet uses 10250. */ -}}
{{- define "callguard.ports" -}}
{{- $adapter := .Values.metricsAdapter -}}
{{- $secure := int ($adapter.securePort | default (ternary 10270 10250 (not (empty $adapter.hostNetwork)))) -}}
{{- $webhook := int ($adapter.webhookPort | default 8090) -}}
{{- $ports := dict "securePort" $secure "webhookPort" $webhook -}}
{{- $keda := include "callguard.keda" . | fromYaml -}}
{{- with $keda.port }}{{ $_ := set $ports "keda.port" (int .) }}{{ end -}}
{{- if $adapter.hostNetwork -}}
{{- range $name, $port := $ports -}}
{{- if has $port (list 10248 10250 10255) -}}
{{- fail (printf "metricsAdapter.%s is %d, and on the host network the kubelet uses that port; use another, such as 10270, and let the control plane reach it on the nodes" $name $port) -}}
{{- end -}}
{{- if lt $port 1024 -}}
{{- fail (printf "metricsAdapter.%s is %d, a port that only root may use on the host network; use 1024 or more, such as 10270" $name $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $secure $webhook -}}
{{- fail (printf "metricsAdapter.securePort and metricsAdapter.webhookPort are both %d; use another, such as metricsAdapter.webhookPort=8090" $secure) -}}
{{- end -}}
{{- if has (int $keda.port) (list $secure $webhook) -}}
{{- fail (printf "metricsAdapter.keda.port is %d, which is already in use; use another, such as 8091" (int $keda.port)) -}}
{{- end -}}
secure: {{ $secure }}
webhook: {{ $webhook }}
{{- with $keda.port }}
keda: {{ int . }}
{{- end }}
{{- end }}
