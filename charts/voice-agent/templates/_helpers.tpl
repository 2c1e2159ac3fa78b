{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The Secret with LiveKit's url, api-key and api-secret: given, or made of given values. */ -}}
{{- define "voice-agent.livekitSecret" -}}
{{- .Values.livekit.existingSecret | default (include "voice-lib.name" (dict "ctx" . "component" "livekit-keys")) -}}
{{- end }}

{{- /* Of keys that the chart makes a Secret of: who reads them once, at its start, starts anew when they change. */ -}}
{{- define "voice-agent.keysChecksum" -}}
{{- with .Values.livekit -}}
{{- if not .existingSecret -}}
{{- printf "%s:%s" .apiKey .apiSecret | sha256sum -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* LiveKit's URL as far as the values say it: an external one, or that of the server of this chart. */ -}}
{{- define "voice-agent.livekitURL" -}}
{{- if .Values.livekit.enabled -}}
ws://{{ include "voice-lib.name" (dict "ctx" . "component" "livekit") }}.{{ .Release.Namespace }}.svc:7880
{{- else -}}
{{- .Values.livekit.url -}}
{{- end -}}
{{- end }}

{{- /*
LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, as a set for voice-lib.env. Of an existing Secret whose keys nobody names,
both usual namings work: voice-agent.livekitEnvFrom has brought in LiveKit's own names, and where the others are there, they
take the place of these. Kubernetes leaves out an optional key that is missing.
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

{{- /* The whole Secret, as envFrom, where a key that is needed has no name; a list of one or none. */ -}}
{{- define "voice-agent.livekitEnvFrom" -}}
{{- $named := .Values.livekit.secretKeys | default dict -}}
{{- if and .Values.livekit.existingSecret (not (and $named.apiKey $named.apiSecret (or $named.url (include "voice-agent.livekitURL" .)))) -}}
[{"secretRef": {"name": {{ .Values.livekit.existingSecret | quote }}}}]
{{- else -}}
[]
{{- end -}}
{{- end }}

{{- /* Whether LiveKit's server is given its key from named keys of a Secret, and not from a file: text or none. */ -}}
{{- define "voice-agent.livekitKeysNamed" -}}
{{- with .Values.livekit -}}
{{- $named := .secretKeys | default dict -}}
{{- if and .existingSecret $named.apiKey $named.apiSecret -}}yes{{- end -}}
{{- end -}}
{{- end }}

{{- /* Whether LiveKit's servers find each other, by values or by LiveKit's own settings: text or none. */ -}}
{{- define "voice-agent.redis" -}}
{{- $own := dig "redis" dict (.Values.livekit.config | default dict) -}}
{{- if or .Values.livekit.redis.address (.Values.livekit.redis.sentinel | default dict).addresses $own.address $own.sentinel_addresses $own.cluster_addresses -}}yes{{- end -}}
{{- end }}

{{- /* Whether KEDA scales the agent, by a ScaledObject in place of the autoscaler: text or none. */ -}}
{{- define "voice-agent.keda" -}}
{{- $scaling := .Values.agent.autoscaling -}}
{{- if and $scaling.enabled (not $scaling.external) ($scaling.keda | default dict).enabled -}}yes{{- end -}}
{{- end }}

{{- /* Whether an autoscaler owns the number of LiveKit's servers: text or none. */ -}}
{{- define "voice-agent.livekitScaled" -}}
{{- if and .Values.livekit.enabled (.Values.livekit.autoscaling | default dict).enabled -}}yes{{- end -}}
{{- end }}

{{- /*
The ports of LiveKit's server, as JSON: a list of name, port, protocol, and "to", who may reach it: everybody (media), or those
whom values name (http, metrics).
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

{{- /* The Secret with the certificate of LiveKit's TURN; none where there is no TURN over TLS, or another ends it. */ -}}
{{- define "voice-agent.turnSecret" -}}
{{- with .Values.livekit.turn -}}
{{- if and .enabled (int .tlsPort) (not .externalTls) -}}{{- .existingSecret -}}{{- end -}}
{{- end -}}
{{- end }}

{{- /* Where a component has metrics, as JSON, a list of name and port: (dict "ctx" $ "component" "agent"). */ -}}
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

{{- /* What Prometheus may reach of it, as JSON, a list of NetworkPolicy rules: none where nobody says who Prometheus is. */ -}}
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

{{- /* What of the openai values cannot work together. */ -}}
{{- define "voice-agent.checkOpenAI" -}}
{{- $azure := .Values.openai.azure | default dict -}}
{{- /* Neither is shown: the schema, which would show it, lets it through to here. */ -}}
{{- if regexMatch "[?#@]" .Values.openai.baseUrl -}}
{{- fail "openai.baseUrl holds a password, a query or a fragment; use one such as https://api.openai.com/v1, and openai.azure.apiVersion and openai.azure.deployment for what Azure has behind a ?" -}}
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
What agent and worker are told, as a set for voice-lib.env: models, verticals, MCP servers, their own pod, the way out. uv, with
which LiveKit's starter for Python starts, needs a cache that it can write. HOME and XDG_CACHE_HOME stay the image's: below
them are the models that its build downloaded.
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
{{- /* The SDKs add /openai themselves, and take an OPENAI_BASE_URL for the whole of it: so there is none. */}}
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

{{- /* The MCP servers that are turned on, each laid over mcpDefaults, over podDefaults. A probe takes the place of the whole default. */ -}}
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

{{- /* The image of the worker: that of the agent, with what it says itself over it, and which of the two an error names. */ -}}
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
