{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
registry/repository:tag@digest, of which the tag or the digest may be missing: (dict "ctx" $ "image" .Values.agent.image
"path" "agent.image"). An image without a registry, in its registry or before the first slash of its repository, gets
.Values.global.imageRegistry. A tag that YAML took for a number is refused: 1234567 would become 1.234567e+06.
*/ -}}
{{- define "voice-lib.image" -}}
{{- $image := .image -}}
{{- if not (or (kindIs "string" $image.tag) (kindIs "invalid" $image.tag)) -}}
{{- $seen := kindIs "float64" $image.tag | ternary (printf "%.0f" (float64 $image.tag)) (toString $image.tag) -}}
{{- fail (printf "%s.tag is the number %s, and a tag is text; write tag: %q, or --set-string %s.tag=%s" .path $seen $seen .path $seen) -}}
{{- end -}}
{{- if not $image.repository -}}
{{- fail (printf "%s.repository is empty; set it to the image's name, such as registry.example.com/agent" .path) -}}
{{- end -}}
{{- if not (or $image.tag $image.digest) -}}
{{- fail (printf "%s has neither tag nor digest; use --set-string %s.tag=1.2.3, or a digest such as sha256:…" .path .path) -}}
{{- end -}}
{{- $registry := $image.registry -}}
{{- if not (or $registry (regexMatch "^([^/]*[.:][^/]*|localhost)/" $image.repository)) -}}
{{- $registry = (.ctx.Values.global | default dict).imageRegistry -}}
{{- end -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- with $image.tag }}:{{ . }}{{ end -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}
