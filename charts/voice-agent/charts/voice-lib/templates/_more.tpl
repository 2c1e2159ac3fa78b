{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* What charts have for all that their authors did not think of. */ -}}

{{- /* The address families of a Service, as its fields; nothing where no value says some: the cluster's own then. */ -}}
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
