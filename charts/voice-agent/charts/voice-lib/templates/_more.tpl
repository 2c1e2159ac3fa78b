{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* Additional fields and objects that the chart's authors did not foresee. */ -}}

{{- /* The address families of a Service, as its fields; empty, so the cluster's default, if no value sets them. */ -}}
{{- define "voice-lib.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies }}
ipFamilies:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- /* The objects of values.extraObjects, written as objects or as text, with the templates in them filled in. */ -}}
{{- define "voice-lib.extraObjects" -}}
{{- range .Values.extraObjects }}
---
{{ tpl (kindIs "string" . | ternary . (toYaml .)) $ }}
{{- end }}
{{- end }}
