{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* Who the guard is to the API server. */ -}}
{{- define "callguard.guard" -}}
system:serviceaccount:{{ .Release.Namespace }}:drain-guard
{{- end }}

{{- /* The break-glass group. It stands in CEL as a literal between quotes. */ -}}
{{- define "callguard.breakGlassGroup" -}}
{{- if not (regexMatch "^[A-Za-z0-9][-A-Za-z0-9:._@/]*$" .Values.breakGlassGroup) -}}
{{- fail (printf "breakGlassGroup is %q; use letters, digits and any of -:._@/, such as callguard:break-glass" .Values.breakGlassGroup) -}}
{{- end -}}
{{- .Values.breakGlassGroup -}}
{{- end }}

{{- define "callguard.labels" -}}
app.kubernetes.io/part-of: callguard
{{- end }}

{{- define "callguard.guardLabels" -}}
app.kubernetes.io/name: drain-guard
app.kubernetes.io/part-of: callguard
{{- end }}

{{- define "callguard.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end }}

{{- /* Namespaces in which the doors stand. */ -}}
{{- define "callguard.enabledNamespaces" -}}
namespaceSelector:
  matchLabels:
    callguard.dev/enabled: "true"
{{- end }}

{{- /* The pods behind them. An update matches when the pod was guarded before or is after. */ -}}
{{- define "callguard.guardedPods" -}}
objectSelector:
  matchLabels:
    callguard.dev/guarded: "true"
{{- end }}

{{- /* The pod security standard "restricted", of a pod and of a container. */ -}}
{{- define "callguard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "callguard.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
