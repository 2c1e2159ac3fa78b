{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
The name of an object: voice-lib.name (dict "ctx" $ "component" "agent").

It is <release>-<chart>-<component>, without a short form for a release that has the chart's name: releases "voice" and
"voice-voice-agent" would collide. A name that is too long, is no DNS label, or could be another release's (a component that
contains the chart's name) is cut and ends in a hash.
*/ -}}
{{- define "voice-lib.name" -}}
{{- $chart := .ctx.Values.nameOverride | default .ctx.Chart.Name -}}
{{- $base := .ctx.Values.fullnameOverride | default (printf "%s-%s" .ctx.Release.Name $chart) -}}
{{- $full := printf "%s-%s" $base .component -}}
{{- $name := regexReplaceAll "[^-a-z0-9]" (lower $full) "-" -}}
{{- if not (regexMatch "^[a-z]" $name) -}}
{{- $name = printf "r%s" $name -}}
{{- end -}}
{{- if or (ne $name $full) (gt (len $name) 63) (contains $chart .component) -}}
{{- $hash := printf "%s/%s" $base .component | sha256sum | trunc 8 -}}
{{- $kept := trimSuffix (printf "-%s" .component) $name | trunc (int (sub 53 (len .component))) | trimSuffix "-" -}}
{{- $name = printf "%s-%s-%s" $kept .component $hash -}}
{{- end -}}
{{- $name -}}
{{- end }}
