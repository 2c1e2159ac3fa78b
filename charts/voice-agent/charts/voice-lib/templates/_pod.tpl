{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The pod security standard "restricted", with settings over it: voice-lib.podSecurity (dict "over" .Values.x). */ -}}
{{- define "voice-lib.podSecurity" -}}
{{- toYaml (mergeOverwrite (dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault")) (deepCopy (.over | default dict))) -}}
{{- end }}

{{- /* The same for a container. */ -}}
{{- define "voice-lib.containerSecurity" -}}
{{- toYaml (mergeOverwrite (dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL"))) (deepCopy (.over | default dict))) -}}
{{- end }}

{{- /*
What every pod of the chart has in common, from the values of its component:
(dict "ctx" $ "component" "agent" "values" .Values.agent "priorityClassName" "…").
*/ -}}
{{- define "voice-lib.podSpec" -}}
serviceAccountName: {{ include "voice-lib.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .ctx.Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- with .values.priorityClassName | default .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- include "voice-lib.podSecurity" (dict "over" .values.podSecurityContext) | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- with .values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- include "voice-lib.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}

{{- /* The account a component runs as. */ -}}
{{- define "voice-lib.serviceAccountName" -}}
{{- $account := .values.serviceAccount -}}
{{- if $account.create -}}
{{- $account.name | default (include "voice-lib.name" .) -}}
{{- else -}}
{{- $account.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "voice-lib.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "voice-lib.metadata" (merge (dict "name" (include "voice-lib.serviceAccountName" .)) .) | nindent 2 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- /*
A PodDisruptionBudget over exactly the pods of one component:
(dict "ctx" $ "component" "mcp-crm" "field" "maxUnavailable" "value" 1 "unhealthy" "AlwaysAllow"). The value is a number or a
percentage. Where pods hold calls, "unhealthy" is IfHealthyBudget: not ready does not mean that nobody talks.
*/ -}}
{{- define "voice-lib.budget" -}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
spec:
  {{ .field }}: {{ if hasSuffix "%" (toString .value) }}{{ .value | quote }}{{ else }}{{ int .value }}{{ end }}
  unhealthyPodEvictionPolicy: {{ .unhealthy }}
  selector:
    matchLabels:
      {{- include "voice-lib.selectorLabels" . | nindent 6 }}
{{- end }}
