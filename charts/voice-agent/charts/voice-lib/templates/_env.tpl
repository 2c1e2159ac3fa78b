{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
A container's environment: (dict "sets" (list $first $second)). Each set maps a name to text, a number, true or false, or
to an object with valueFrom. A name in a later set replaces the same name in an earlier one, for a server-side apply
refuses names that come twice. The list is sorted, so that it does not change by itself; whoever refers to others, as in
$(NAME), comes after all who do not, for Kubernetes knows only what stands before.
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
{{- /* toString would make 1.234567e+06 of a number. */ -}}
{{- $env = append $env (dict "name" $name "value" (kindIs "string" $value | ternary $value (toJson $value))) -}}
{{- end -}}
{{- end -}}
{{- with concat $env $referring -}}
{{- toYaml . -}}
{{- end -}}
{{- end }}

{{- /* A value that is read from a Secret: (dict "secret" "name" "key" "api-key" "optional" true), of which the last may be left out. */ -}}
{{- define "voice-lib.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ .secret }}
    key: {{ .key }}
    {{- if .optional }}
    optional: true
    {{- end }}
{{- end }}

{{- /* A name made fit for the environment: crm-eu becomes CRM_EU. */ -}}
{{- define "voice-lib.envName" -}}
{{- upper . | replace "-" "_" -}}
{{- end }}
