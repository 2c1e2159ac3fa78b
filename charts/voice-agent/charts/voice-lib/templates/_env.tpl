{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
A container's environment: (dict "sets" (list $first $second)). Each set maps a name to text, or to an object with
valueFrom. A name in a later set replaces the same name in an earlier one, for a server-side apply refuses names that
come twice; and the list is sorted, so that it does not change by itself.
*/ -}}
{{- define "voice-lib.env" -}}
{{- $all := dict -}}
{{- range .sets -}}
{{- range $name, $value := . -}}
{{- $_ := set $all $name $value -}}
{{- end -}}
{{- end -}}
{{- $env := list -}}
{{- range $name := keys $all | sortAlpha -}}
{{- $value := get $all $name -}}
{{- if kindIs "map" $value -}}
{{- $env = append $env (merge (dict "name" $name) $value) -}}
{{- else -}}
{{- $env = append $env (dict "name" $name "value" (toString $value)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $env -}}
{{- end }}

{{- /* A value that is read from a Secret: (dict "secret" "name" "key" "api-key"). */ -}}
{{- define "voice-lib.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ .secret }}
    key: {{ .key }}
{{- end }}

{{- /* A name made fit for the environment: crm-eu becomes CRM_EU. */ -}}
{{- define "voice-lib.envName" -}}
{{- upper . | replace "-" "_" -}}
{{- end }}
