{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
A container's environment: (dict "sets" (list $first $second)). Each set maps a name to text, a number, true or false, or to
an object with valueFrom. A name in a later set overrides an earlier one, because a server-side apply refuses duplicate
names. The list is sorted, so that it does not change by itself. Variables that refer to others, as in $(NAME), come after
all others, because Kubernetes resolves only what comes before.
*/ -}}
{{- define "voice-lib.env" -}}
{{- $all := dict -}}
{{- range .sets -}}
{{- range $name, $value := . -}}
{{- $_ := set $all $name $value -}}
{{- end -}}
{{- end -}}
{{- $env := list -}}
{{- $referring := list -}}
{{- range $name := keys $all | sortAlpha -}}
{{- $value := get $all $name -}}
{{- if kindIs "map" $value -}}
{{- $env = append $env (merge (dict "name" $name) $value) -}}
{{- else if and (kindIs "string" $value) (contains "$(" $value) -}}
{{- $referring = append $referring (dict "name" $name "value" $value) -}}
{{- else -}}
{{- /* toString would turn 1234567 into 1.234567e+06. */ -}}
{{- $env = append $env (dict "name" $name "value" (kindIs "string" $value | ternary $value (toJson $value))) -}}
{{- end -}}
{{- end -}}
{{- with concat $env $referring -}}
{{- toYaml . -}}
{{- end -}}
{{- end }}

{{- /* A value that is read from a Secret: (dict "secret" "name" "key" "api-key" "optional" true); the last is optional. */ -}}
{{- define "voice-lib.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ .secret }}
    key: {{ .key }}
    {{- if .optional }}
    optional: true
    {{- end }}
{{- end }}

{{- /* A name as an environment variable: crm-eu becomes CRM_EU. */ -}}
{{- define "voice-lib.envName" -}}
{{- upper . | replace "-" "_" -}}
{{- end }}
