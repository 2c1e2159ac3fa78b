{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The Secret with LiveKit's url, api-key and api-secret: an existing one, or the chart's own. */ -}}
{{- define "voice-agent.livekitSecret" -}}
{{- .Values.livekit.existingSecret | default (include "voice-lib.name" (dict "ctx" . "component" "livekit-keys")) -}}
{{- end }}

{{- /* Checksum of the keys in the chart's own Secret: restarts pods that read the keys only at their start. */ -}}
{{- define "voice-agent.keysChecksum" -}}
{{- with .Values.livekit -}}
{{- if not .existingSecret -}}
{{- printf "%s:%s" .apiKey .apiSecret | sha256sum -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* LiveKit's URL if the values have it: an external one, or the URL of this chart's server. */ -}}
{{- define "voice-agent.livekitURL" -}}
{{- if .Values.livekit.enabled -}}
ws://{{ include "voice-lib.name" (dict "ctx" . "component" "livekit") }}.{{ .Release.Namespace }}.svc:7880
{{- else -}}
{{- .Values.livekit.url -}}
{{- end -}}
{{- end }}

{{- /*
LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, as a set for voice-lib.env. If no values name the keys of an existing
Secret, both usual namings work: voice-agent.livekitEnvFrom adds LiveKit's own names, and the others, if they exist,
override them. Kubernetes skips an optional key that is missing.
*/ -}}
{{- define "voice-agent.livekitEnv" -}}
{{- $secret := include "voice-agent.livekitSecret" . -}}
{{- $named := .Values.livekit.secretKeys | default dict -}}
{{- $url := include "voice-agent.livekitURL" . -}}
{{- range list (list "LIVEKIT_URL" "url" "url") (list "LIVEKIT_API_KEY" "apiKey" "api-key") (list "LIVEKIT_API_SECRET" "apiSecret" "api-secret") }}
{{- $key := get $named (index . 1) }}
{{ index . 0 }}:
{{- if and (eq (index . 1) "url") $url }} {{ $url | quote }}
{{- else }}
  {{- include "voice-lib.fromSecret" (dict "secret" $secret "key" ($key | default (index . 2)) "optional" (and $.Values.livekit.existingSecret (not $key))) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The whole Secret, as envFrom, if a needed key is not named; a list of one or none. */ -}}
{{- define "voice-agent.livekitEnvFrom" -}}
{{- $named := .Values.livekit.secretKeys | default dict -}}
{{- if and .Values.livekit.existingSecret (not (and $named.apiKey $named.apiSecret (or $named.url (include "voice-agent.livekitURL" .)))) -}}
[{"secretRef": {"name": {{ .Values.livekit.existingSecret | quote }}}}]
{{- else -}}
[]
{{- end -}}
{{- end }}

{{- /* Non-empty if LiveKit's server gets its key from named keys of a Secret instead of a file. */ -}}
{{- define "voice-agent.livekitKeysNamed" -}}
{{- with .Values.livekit -}}
{{- $named := .secretKeys | default dict -}}
{{- if and .existingSecret $named.apiKey $named.apiSecret -}}yes{{- end -}}
{{- end -}}
{{- end }}

{{- /* Non-empty if LiveKit's servers find each other, by values or by LiveKit's own settings. */ -}}
{{- define "voice-agent.redis" -}}
{{- $own := dig "redis" dict (.Values.livekit.config | default dict) -}}
{{- if or .Values.livekit.redis.address (.Values.livekit.redis.sentinel | default dict).addresses $own.address $own.sentinel_addresses $own.cluster_addresses -}}yes{{- end -}}
{{- end }}

{{- /* Non-empty if KEDA scales the agent, by a ScaledObject instead of the autoscaler. */ -}}
{{- define "voice-agent.keda" -}}
{{- $scaling := .Values.agent.autoscaling -}}
{{- if and $scaling.enabled (not $scaling.external) ($scaling.keda | default dict).enabled -}}yes{{- end -}}
{{- end }}

{{- /* Non-empty if an autoscaler owns the number of LiveKit's servers. */ -}}
{{- define "voice-agent.livekitScaled" -}}
{{- if and .Values.livekit.enabled (.Values.livekit.autoscaling | default dict).enabled -}}yes{{- end -}}
{{- end }}

{{- /*
The ports of LiveKit's server, as JSON: a list of name, port, protocol and "to", who may reach it: everybody (media), or
those that the values name (http, metrics).
*/ -}}
{{- define "voice-agent.livekitPorts" -}}
{{- $livekit := .Values.livekit -}}
{{- $turn := dict -}}
{{- with $livekit.turn -}}{{- if .enabled -}}{{- $turn = . -}}{{- end -}}{{- end -}}
{{- $ports := list -}}
{{- range list (list "http" 7880 "TCP" "some") (list "rtc-tcp" $livekit.rtc.tcpPort "TCP" "media") (list "rtc-udp" $livekit.rtc.udpPort "UDP" "media")
  (list "turn-udp" $turn.udpPort "UDP" "media") (list "turn-tls" $turn.tlsPort "TCP" "all") (list "metrics" $livekit.prometheusPort "TCP" "some") -}}
{{- if int (index . 1) -}}{{- $ports = append $ports (dict "name" (index . 0) "port" (int (index . 1)) "protocol" (index . 2) "to" (index . 3)) -}}{{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end }}

{{- /* The Secret with the certificate of LiveKit's TURN; empty without TURN over TLS, or if something else terminates TLS. */ -}}
{{- define "voice-agent.turnSecret" -}}
{{- with .Values.livekit.turn -}}
{{- if and .enabled (int .tlsPort) (not .externalTls) -}}{{- .existingSecret -}}{{- end -}}
{{- end -}}
{{- end }}

{{- /* The metrics ports of a component, as JSON, a list of name and port: (dict "ctx" $ "component" "agent"). */ -}}
{{- define "voice-agent.scraped" -}}
{{- $ports := list -}}
{{- $values := get .ctx.Values .component -}}
{{- $gate := .ctx.Values.callguard.gate -}}
{{- if eq .component "livekit" -}}
{{- if and $values.enabled (int $values.prometheusPort) -}}{{- $ports = append $ports (dict "name" "metrics" "port" (int $values.prometheusPort)) -}}{{- end -}}
{{- else if or (eq .component "agent") $values.enabled -}}
{{- if and .ctx.Values.callguard.enabled $gate.enabled (or (eq .component "agent") $values.guarded) -}}{{- $ports = append $ports (dict "name" "gate" "port" (int $gate.statusPort)) -}}{{- end -}}
{{- with $values.probes.realtime -}}{{- if ne .mode "off" -}}{{- $ports = append $ports (dict "name" "realtime" "port" (int .port)) -}}{{- end -}}{{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end }}

{{- /* The NetworkPolicy rules that let Prometheus reach them, as JSON; none if no value selects Prometheus. */ -}}
{{- define "voice-agent.scrapers" -}}
{{- $ports := list -}}
{{- range include "voice-agent.scraped" . | fromJsonArray -}}{{- $ports = append $ports (pick . "port") -}}{{- end -}}
{{- $peers := .ctx.Values.networkPolicy.metricsFrom -}}
{{- and $ports $peers | empty | ternary list (list (dict "ports" $ports "from" $peers)) | toJson -}}
{{- end }}

{{- /* openai.baseUrl as the SDKs take it: https or http, no slash at the end or twice, no space around it. */ -}}
{{- define "voice-agent.openaiURL" -}}
{{- $parts := regexSplit "://" (trim .Values.openai.baseUrl) 2 -}}
{{- printf "%s://%s" (index $parts 0 | lower | replace "ws" "http") (regexReplaceAll "/+" (index $parts 1) "/" | trimSuffix "/") -}}
{{- end }}

{{- /* Refuses openai values that cannot work together. */ -}}
{{- define "voice-agent.checkOpenAI" -}}
{{- $azure := .Values.openai.azure | default dict -}}
{{- /* The value may be a secret, so the message does not show it. For that reason the schema, which would, does not check it. */ -}}
{{- if regexMatch "[?#@]" .Values.openai.baseUrl -}}
{{- fail "openai.baseUrl holds a password, a query or a fragment; use one such as https://api.openai.com/v1, and openai.azure.apiVersion and openai.azure.deployment instead of the query of an Azure URL" -}}
{{- end -}}
{{- $host := regexFind "//[^/:]*" (include "voice-agent.openaiURL" .) | lower -}}
{{- if and $azure.enabled (hasSuffix ".openai.com" $host) -}}
{{- fail (printf "openai.azure.enabled is true, and openai.baseUrl, %s, is OpenAI's own; use the endpoint of your resource, such as https://RESOURCE.openai.azure.com" .Values.openai.baseUrl) -}}
{{- end -}}
{{- range $name := list "deployment" "apiVersion" -}}
{{- if and (not $azure.enabled) (get $azure $name) -}}
{{- fail (printf "openai.azure.%s is %q, and openai.azure.enabled is false, so nothing reads it; set openai.azure.enabled=true" $name (get $azure $name)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /*
What agent and worker are told, as a set for voice-lib.env: models, verticals, MCP servers, their own pod, proxy and
authorities. uv, which starts LiveKit's starter for Python, needs a cache that it can write. HOME and XDG_CACHE_HOME stay
the image's, because the models that its build downloaded are there.
*/ -}}
{{- define "voice-agent.agentEnv" -}}
UV_CACHE_DIR: /tmp/.cache/uv
{{- include "voice-lib.outwardAgent" . }}
OPENAI_MODEL: {{ .Values.openai.model | quote }}
OPENAI_VOICE: {{ .Values.openai.voice | quote }}
OPENAI_API_KEY_FILE: {{ printf "/etc/openai/%s" .Values.openai.existingSecretKey | quote }}
{{- $keys := list "OPENAI_API_KEY" }}
{{- with .Values.openai }}
{{- $azure := .azure | default dict }}
{{- if $azure.enabled }}
{{- $keys = append $keys "AZURE_OPENAI_API_KEY" }}
{{- /* No OPENAI_BASE_URL: the SDKs add /openai themselves, but would take that variable as the complete URL. */}}
AZURE_OPENAI_ENDPOINT: {{ regexReplaceAll "(/openai(/v1)?)?(/realtime)?$" (include "voice-agent.openaiURL" $) "" | quote }}
AZURE_OPENAI_DEPLOYMENT: {{ $azure.deployment | default .model | quote }}
{{- with $azure.apiVersion }}
OPENAI_API_VERSION: {{ . | quote }}
{{- end }}
{{- else }}
OPENAI_BASE_URL: {{ include "voice-agent.openaiURL" $ | quote }}
{{- end }}
{{- with .organization }}
OPENAI_ORG_ID: {{ . | quote }}
{{- end }}
{{- with .project }}
OPENAI_PROJECT_ID: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.openai.keyAsEnv }}
{{- range $keys }}
{{ . }}:
  {{- include "voice-lib.fromSecret" (dict "secret" $.Values.openai.existingSecret "key" $.Values.openai.existingSecretKey) | nindent 2 }}
{{- end }}
{{- end }}
POD_UID:
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
ANNOTATIONS: /podinfo/annotations
{{- range $name, $value := .Values.verticals }}
VERTICAL_{{ include "voice-lib.envName" $name }}: {{ toString $value | quote }}
{{- end }}
{{- range $name, $server := (include "voice-agent.mcpServers" . | fromYaml) }}
MCP_{{ include "voice-lib.envName" $name }}_URL: {{ printf "http://%s.%s.svc:%d%s" (include "voice-lib.name" (dict "ctx" $ "component" (printf "mcp-%s" $name))) $.Release.Namespace (int $server.port) $server.path | quote }}
{{- end }}
{{- end }}

{{- /* The enabled MCP servers, each merged over mcpDefaults and podDefaults. A probe replaces the whole default. */ -}}
{{- define "voice-agent.mcpServers" -}}
{{- $servers := dict -}}
{{- range $name, $given := .Values.mcpServers -}}
{{- $defaults := include "voice-lib.fields" (dict "ctx" $ "values" $.Values.mcpDefaults) | fromJson -}}
{{- $server := include "voice-lib.fields" (dict "ctx" (dict "Values" (dict "podDefaults" $defaults)) "values" $given) | fromJson -}}
{{- range $kind, $probe := $given.probes -}}
{{- $_ := set $server.probes $kind $probe -}}
{{- end -}}
{{- if $server.enabled -}}
{{- $_ := set $servers $name $server -}}
{{- end -}}
{{- end -}}
{{- toYaml $servers -}}
{{- end }}

{{- /* The worker's image: the agent's, overridden by its own values, and the path of the value that an error names. */ -}}
{{- define "voice-agent.workerImage" -}}
{{- $agent := .Values.agent.image -}}
{{- $worker := .Values.worker.image | default dict -}}
{{- $own := or $worker.tag $worker.digest | empty | not -}}
path: {{ $own | ternary "worker" "agent" }}.image
registry: {{ $worker.registry | default $agent.registry | quote }}
repository: {{ $worker.repository | default $agent.repository | quote }}
tag: {{ $own | ternary $worker.tag $agent.tag | toJson }}
digest: {{ $own | ternary $worker.digest $agent.digest | quote }}
pullPolicy: {{ $worker.pullPolicy | default $agent.pullPolicy }}
{{- end }}
