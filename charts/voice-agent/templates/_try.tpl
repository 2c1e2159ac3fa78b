{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The account of a test call and its rights: (dict "ctx" $ "component" "try" "name" "…" "annotations" (dict …)). */ -}}
{{- define "voice-agent.tryRights" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
rules:
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [custom.metrics.k8s.io]
  resources: [pods/active_calls]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name | default (include "voice-lib.name" .) }}
subjects:
- kind: ServiceAccount
  name: {{ .name | default (include "voice-lib.name" .) }}
  namespace: {{ .ctx.Release.Namespace }}
{{- end }}

{{- /* The pod that makes the call, with the plugin in callguard's image. It gets LiveKit's key as files. */ -}}
{{- define "voice-agent.tryPod" -}}
{{- $ctx := .ctx -}}
{{- $try := $ctx.Values.try -}}
{{- $named := $ctx.Values.livekit.secretKeys | default dict -}}
{{- $url := include "voice-agent.livekitURL" $ctx -}}
{{- $keys := list -}}
{{- if not $try.existingSecret -}}
{{- range list (list "url" "url") (list "api-key" "apiKey") (list "api-secret" "apiSecret") -}}
{{- $key := get $named (index . 1) -}}
{{- if and $key (not (and $url (eq (index . 0) "url"))) -}}{{- $keys = append $keys (printf "%s=%s" (index . 0) $key) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $flags := list "try" (printf "--namespace=%s" $ctx.Release.Namespace) "--livekit-secret-dir=/etc/livekit" (printf "--expect=%s" $try.expect)
  (printf "--answer-within=%s" $try.answerWithin) -}}
{{- with $url }}{{ $flags = append $flags (printf "--livekit-url=%s" .) }}{{ end -}}
{{- with $keys }}{{ $flags = append $flags (printf "--livekit-secret-keys=%s" (join "," .)) }}{{ end -}}
{{- with $try.agentName }}{{ $flags = append $flags (printf "--agent-name=%s" .) }}{{ end -}}
serviceAccountName: {{ .name | default (include "voice-lib.name" .) }}
automountServiceAccountToken: true
enableServiceLinks: false
restartPolicy: Never
{{- $secrets := list }}
{{- range concat (($ctx.Values.global | default dict).imagePullSecrets | default list) ($ctx.Values.imagePullSecrets | default list) }}
{{- $secrets = append $secrets (dict "name" (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .)) }}
{{- end }}
{{- with $secrets | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "voice-lib.security" (dict "ctx" $ctx "base" (dict "runAsNonRoot" true "runAsUser" 65532 "seccompProfile" (dict "type" "RuntimeDefault"))) | nindent 2 }}
{{- with ($ctx.Values.podDefaults | default dict).nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with ($ctx.Values.podDefaults | default dict).tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
- name: try
  image: {{ include "voice-lib.image" (dict "ctx" $ctx "image" $ctx.Values.callguard.image "path" "callguard.image") }}
  imagePullPolicy: {{ $ctx.Values.callguard.image.pullPolicy }}
  command: [/kubectl-calls]
  args:
    {{- toYaml $flags | nindent 4 }}
  {{- with include "voice-lib.env" (dict "sets" (list (include "voice-lib.outwardGo" $ctx | fromYaml))) }}
  env:
    {{- . | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml $try.resources | nindent 4 }}
  securityContext:
    {{- include "voice-lib.security" (dict "ctx" $ctx "base" (dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")))) | nindent 4 }}
  volumeMounts:
    {{- toYaml (concat (list (dict "name" "livekit" "mountPath" "/etc/livekit" "readOnly" true)) (include "voice-lib.caMounts" $ctx | fromJsonArray)) | nindent 4 }}
volumes:
{{ toYaml (concat (list (dict "name" "livekit" "secret" (dict "secretName" ($try.existingSecret | default (include "voice-agent.livekitSecret" $ctx))))) (include "voice-lib.caVolumes" $ctx | fromJsonArray)) }}
{{- end }}
