{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
The values of a pod or container under one name each, as JSON: env and extraEnv, given as maps or lists, become one map,
extraEnv; envFrom, volumes and volumeMounts are put before extraEnvFrom and so on.
*/ -}}
{{- define "voice-lib.said" -}}
{{- $said := omit . "env" "envFrom" "volumes" "volumeMounts" -}}
{{- $env := dict -}}
{{- range $given := list (get . "env" | default dict) (get . "extraEnv" | default dict) -}}
{{- range $name, $value := $given -}}
{{- if kindIs "slice" $given -}}
{{- $_ := set $env $value.name (hasKey $value "valueFrom" | ternary (pick $value "valueFrom") (hasKey $value "value" | ternary (get $value "value") "")) -}}
{{- else -}}
{{- $_ := set $env $name $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if or (hasKey . "env") (hasKey . "extraEnv") -}}{{- $_ := set $said "extraEnv" $env -}}{{- end -}}
{{- $values := . -}}
{{- range $old, $new := dict "envFrom" "extraEnvFrom" "volumes" "extraVolumes" "volumeMounts" "extraVolumeMounts" -}}
{{- if hasKey $values $old -}}
{{- $_ := set $said $new (concat (get $values $old | default list) (get $values $new | default list)) -}}
{{- end -}}
{{- end -}}
{{- toJson $said -}}
{{- end }}

{{- /*
The values of a component, merged over .Values.podDefaults, as JSON: (dict "ctx" $ "values" .Values.agent). Maps are merged,
lists are replaced; empty text and null count as not set, and null removes a key from a map.
*/ -}}
{{- define "voice-lib.fields" -}}
{{- $all := dict -}}
{{- range $layer := list (.ctx.Values.podDefaults | default dict) .values -}}
{{- range $field, $value := include "voice-lib.said" $layer | fromJson -}}
{{- $was := get $all $field -}}
{{- if and (kindIs "map" $was) (eq $field "extraEnv") -}}
{{- range $name, $one := $value -}}{{- $_ := set $was $name $one -}}{{- end -}}
{{- else if and (kindIs "map" $was) (kindIs "map" $value) -}}
{{- $_ := set $all $field (mergeOverwrite $was $value) -}}
{{- range $key, $one := $value -}}{{- if kindIs "invalid" $one -}}{{- $_ := unset $was $key -}}{{- end -}}{{- end -}}
{{- else if not (or (kindIs "invalid" $value) (and (kindIs "string" $value) (eq $value ""))) -}}
{{- $_ := set $all $field $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end }}
