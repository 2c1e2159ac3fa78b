{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* What a container needs for connections out of the cluster: private certificate authorities (.Values.ca) and a proxy (.Values.proxy). */ -}}

{{- /* The file with the authorities; empty if there are none. */ -}}
{{- define "voice-lib.ca" -}}
{{- with .Values.ca -}}
{{- if or .secret .configMap -}}
/etc/private-ca/ca.crt
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Its volume and mount, as lists of one or none. Only the certificates are mounted, because the Secret may hold a key. */ -}}
{{- define "voice-lib.caVolumes" -}}
{{- if include "voice-lib.ca" . }}
{{- $ca := .Values.ca }}
{{- $items := list (dict "key" ($ca.key | default "ca.crt") "path" "ca.crt") }}
{{- list (merge (dict "name" "private-ca") (empty $ca.secret | ternary (dict "configMap" (dict "name" $ca.configMap "items" $items)) (dict "secret" (dict "secretName" $ca.secret "items" $items)))) | toJson }}
{{- else }}[]{{ end }}
{{- end }}

{{- define "voice-lib.caMounts" -}}
{{- if include "voice-lib.ca" . }}[{"name": "private-ca", "mountPath": "/etc/private-ca", "readOnly": true}]{{ else }}[]{{ end }}
{{- end }}

{{- /* The environment of a Go program, which reads the system's certificates and all of these folders. */ -}}
{{- define "voice-lib.outwardGo" -}}
{{- if include "voice-lib.ca" . }}
SSL_CERT_DIR: /etc/ssl/certs:/etc/private-ca
{{- end }}
{{- include "voice-lib.proxyEnv" . }}
{{- end }}

{{- /* The environment of a program in Node or Python. LiveKit's SDKs join rooms with a library of neither language: it
reads one file, and from one folder what OpenSSL would find there. */ -}}
{{- define "voice-lib.outwardAgent" -}}
{{- with include "voice-lib.ca" . }}
NODE_EXTRA_CA_CERTS: {{ . }}
SSL_CERT_FILE: {{ . }}
SSL_CERT_DIR: /etc/ssl/certs
{{- if $.Values.ca.whole }}
REQUESTS_CA_BUNDLE: {{ . }}
{{- end }}
{{- end }}
{{- if ne (toString (.Values.proxy | default dict).agent) "false" }}
{{- include "voice-lib.proxyEnv" . }}
{{- end }}
{{- end }}

{{- define "voice-lib.proxyEnv" -}}
{{- with .Values.proxy }}
{{- if or .url .existingSecret }}
{{- range $name := list "HTTPS_PROXY" "HTTP_PROXY" }}
{{ $name }}:
{{- with $.Values.proxy }}
{{- if .existingSecret }}
  {{- include "voice-lib.fromSecret" (dict "secret" .existingSecret "key" (.existingSecretKey | default "proxy")) | nindent 2 }}
{{- else }} {{ .url | quote }}
{{- end }}
{{- end }}
{{- end }}
NO_PROXY: {{ prepend (.noProxy | default "" | splitList "," | compact) "localhost,127.0.0.1,::1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST)" | join "," | quote }}
{{- end }}
{{- end }}
{{- end }}
