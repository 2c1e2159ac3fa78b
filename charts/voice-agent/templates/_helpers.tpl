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

{{- /* LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, as a set for voice-lib.env. */ -}}
{{- define "voice-agent.livekitEnv" -}}
{{- $secret := include "voice-agent.livekitSecret" . -}}
LIVEKIT_URL:
{{- with include "voice-agent.livekitURL" . }} {{ . | quote }}
{{- else }}
  {{- include "voice-lib.fromSecret" (dict "secret" $secret "key" "url") | nindent 2 }}
{{- end }}
LIVEKIT_API_KEY:
  {{- include "voice-lib.fromSecret" (dict "secret" $secret "key" "api-key") | nindent 2 }}
LIVEKIT_API_SECRET:
  {{- include "voice-lib.fromSecret" (dict "secret" $secret "key" "api-secret") | nindent 2 }}
{{- end }}

{{- /* openai.baseUrl as the SDKs take it: https or http, no slash at the end or twice, no space around it. */ -}}
{{- define "voice-agent.openaiURL" -}}
{{- $parts := regexSplit "://" (trim .Values.openai.baseUrl) 2 -}}
{{- printf "%s://%s" (index $parts 0 | lower | replace "ws" "http") (regexReplaceAll "/+" (index $parts 1) "/" | trimSuffix "/") -}}
{{- end }}

{{- /* The file with certificates to trust for it; empty where there is none. */ -}}
{{- define "voice-agent.openaiCA" -}}
{{- with .Values.openai.ca -}}
{{- if .configMap -}}
/etc/openai-ca/{{ .key | default "ca.crt" }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* What of the openai values cannot work together. */ -}}
{{- define "voice-agent.checkOpenAI" -}}
{{- $azure := .Values.openai.azure | default dict -}}
{{- /* Neither is shown: the schema, which would show it, lets it through to here. */ -}}
{{- if regexMatch "[?#@]" .Values.openai.baseUrl -}}
{{- fail "openai.baseUrl holds a password, a query or a fragment; use one such as https://api.openai.com/v1, and openai.azure.apiVersion and openai.azure.deployment for what Azure has behind a ?" -}}
{{- end -}}
{{- with .Values.openai.proxy -}}
{{- if contains "@" (.url | default "") -}}
{{- fail "openai.proxy.url holds a password; put the URL into a Secret, and name that in openai.proxy.existingSecret" -}}
{{- end -}}
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

{{- /* What agent and worker are told, as a set for voice-lib.env: models, verticals, MCP servers, their own pod. */ -}}
{{- define "voice-agent.toldEnv" -}}
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
{{- with include "voice-agent.openaiCA" $ }}
NODE_EXTRA_CA_CERTS: {{ . | quote }}
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

{{- /* The MCP servers that are turned on, each laid over mcpDefaults. A probe takes the place of the whole default. */ -}}
{{- define "voice-agent.mcpServers" -}}
{{- $servers := dict -}}
{{- range $name, $given := .Values.mcpServers -}}
{{- $server := mergeOverwrite (deepCopy $.Values.mcpDefaults) (deepCopy $given) -}}
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
