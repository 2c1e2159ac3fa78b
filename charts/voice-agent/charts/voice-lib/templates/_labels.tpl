{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
The labels that select the pods of one component: (dict "ctx" $ "component" "agent"). Selectors cannot change, so nothing
that depends on a version or a value belongs here.
*/ -}}
{{- define "voice-lib.selectorLabels" -}}
app.kubernetes.io/name: {{ .ctx.Chart.Name }}
app.kubernetes.io/instance: {{ .ctx.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /*
The labels of an object: (dict "ctx" $ "component" "agent"). They override values.commonLabels. Not for pod templates,
because a new version of the chart would restart every pod.
*/ -}}
{{- define "voice-lib.labels" -}}
{{- $own := include "voice-lib.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .ctx.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .ctx.Chart.Name .ctx.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge $own (.ctx.Values.commonLabels | default dict)) -}}
{{- end }}

{{- /* The labels of a pod: (dict "ctx" $ "component" "agent" "extra" (dict …)). The selector labels win. */ -}}
{{- define "voice-lib.podLabels" -}}
{{- toYaml (merge (include "voice-lib.selectorLabels" . | fromYaml) (.extra | default dict)) -}}
{{- end }}

{{- /*
Name, namespace, labels and annotations: (dict "ctx" $ "component" "agent" "name" "…" "labels" (dict …) "annotations" (dict
…)). All but the first two are optional. An object's own annotations override values.commonAnnotations.
*/ -}}
{{- define "voice-lib.metadata" -}}
name: {{ .name | default (include "voice-lib.name" .) }}
namespace: {{ .ctx.Release.Namespace }}
labels:
  {{- merge (include "voice-lib.labels" . | fromYaml) (.labels | default dict) | toYaml | nindent 2 }}
{{- with merge dict (.annotations | default dict) (.ctx.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
