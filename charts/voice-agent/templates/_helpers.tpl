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

{{- /* What agent and worker are told, as a set for voice-lib.env: models, verticals, MCP servers, their own pod. */ -}}
{{- define "voice-agent.toldEnv" -}}
OPENAI_MODEL: {{ .Values.openai.model | quote }}
OPENAI_VOICE: {{ .Values.openai.voice | quote }}
OPENAI_BASE_URL: {{ .Values.openai.baseUrl | quote }}
OPENAI_API_KEY_FILE: {{ printf "/etc/openai/%s" .Values.openai.existingSecretKey | quote }}
{{- if .Values.openai.keyAsEnv }}
OPENAI_API_KEY:
  {{- include "voice-lib.fromSecret" (dict "secret" .Values.openai.existingSecret "key" .Values.openai.existingSecretKey) | nindent 2 }}
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
