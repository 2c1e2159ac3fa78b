{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* Who the guard is to the API server. */ -}}
{{- define "callguard.guard" -}}
system:serviceaccount:{{ .Release.Namespace }}:drain-guard
{{- end }}

{{- define "callguard.labels" -}}
app.kubernetes.io/part-of: callguard
{{- end }}

{{- /* Of the doors. The guard and the plugin name both versions when a door is not as they know it. */ -}}
{{- define "callguard.doorLabels" -}}
{{ include "callguard.labels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* Of the guard and of its pods. They are the selectors, too: nothing that changes belongs here. */ -}}
{{- define "callguard.guardLabels" -}}
app.kubernetes.io/name: drain-guard
app.kubernetes.io/part-of: callguard
{{- end }}

{{- /* The same of the metrics-adapter. */ -}}
{{- define "callguard.adapterLabels" -}}
app.kubernetes.io/name: metrics-adapter
app.kubernetes.io/part-of: callguard
{{- end }}

{{- /* The image. A tag that YAML took for a number is refused: 1234567 would arrive as 1.234567e+06. */ -}}
{{- define "callguard.image" -}}
{{- $tag := .Values.image.tag -}}
{{- if not (or (kindIs "string" $tag) (kindIs "invalid" $tag)) -}}
{{- $seen := kindIs "float64" $tag | ternary (printf "%.0f" (float64 $tag)) (toString $tag) -}}
{{- fail (printf "image.tag is the number %s, and a tag is text; write tag: %q, or --set-string image.tag=%s" $seen $seen $seen) -}}
{{- end -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "callguard.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Where the pods of a component may go. Takes its values. */ -}}
{{- define "callguard.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Replicas on different nodes, where there are some. Takes the labels of the pods. */ -}}
{{- define "callguard.spread" -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- . | nindent 6 }}
{{- end }}

{{- /* Namespaces in which the doors stand. */ -}}
{{- define "callguard.enabledNamespaces" -}}
namespaceSelector:
  matchLabels:
    callguard.dev/enabled: "true"
{{- end }}

{{- /* The pods behind them. An update matches when the pod was guarded before or is after. */ -}}
{{- define "callguard.guardedPods" -}}
objectSelector:
  matchLabels:
    callguard.dev/guarded: "true"
{{- end }}

{{- /* The pod security standard "restricted", of a pod and of a container. */ -}}
{{- define "callguard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "callguard.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The default LiveKit project: flags of both programs, and the Secret they read. It may come later, and change. */ -}}
{{- define "callguard.livekitArgs" -}}
- --livekit-url-file=/etc/livekit/url
- --livekit-api-key-file=/etc/livekit/api-key
- --livekit-api-secret-file=/etc/livekit/api-secret
{{- end }}

{{- define "callguard.livekitMount" -}}
- name: livekit
  mountPath: /etc/livekit
  readOnly: true
{{- end }}

{{- define "callguard.livekitVolume" -}}
- name: livekit
  secret:
    secretName: {{ .Values.livekit.secretName }}
    optional: true
{{- end }}

{{- /* Where the adapter's serving certificate comes from. */ -}}
{{- define "callguard.tlsMode" -}}
{{- if eq .Values.tls.mode "existingSecret" -}}
{{- if not .Values.tls.existingSecret -}}
{{- fail "tls.existingSecret is empty; name the Secret in the release's namespace that has tls.crt and tls.key" -}}
{{- end -}}
{{- if not (contains "-----BEGIN CERTIFICATE-----" .Values.tls.caBundle) -}}
{{- fail "tls.caBundle holds no certificate; give the PEM of the authority that signed tls.crt: --set-file tls.caBundle=ca.crt" -}}
{{- end -}}
{{- end -}}
{{- .Values.tls.mode -}}
{{- end }}

{{- /* The Secret with the adapter's certificate; none where it makes its own. */ -}}
{{- define "callguard.tlsSecret" -}}
{{- $mode := include "callguard.tlsMode" . -}}
{{- if eq $mode "certManager" }}metrics-adapter-tls{{ else if eq $mode "existingSecret" }}{{ .Values.tls.existingSecret }}{{ end -}}
{{- end }}

{{- /* What an APIService says of the authority: nothing, where the adapter or cert-manager writes caBundle. Two writers of
one field would be a conflict at the next upgrade. */ -}}
{{- define "callguard.caBundle" -}}
{{- if eq (include "callguard.tlsMode" .) "existingSecret" -}}
caBundle: {{ .Values.tls.caBundle | b64enc }}
{{- end }}
{{- end }}

{{- define "callguard.caAnnotations" -}}
{{- if eq (include "callguard.tlsMode" .) "certManager" -}}
annotations:
  cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/metrics-adapter
{{- end }}
{{- end }}

{{- /* What both programs may reach: names, the API server and LiveKit, and the guarded pods. */ -}}
{{- define "callguard.egress" -}}
# Anywhere, for a node's own name server has no pod's address.
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
- ports:
  {{- range .Values.networkPolicy.egressPorts }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
- ports:
  {{- range .Values.networkPolicy.agentPorts }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
  to:
  - {{ include "callguard.enabledNamespaces" . | nindent 4 | trim }}
    podSelector:
      matchLabels:
        callguard.dev/guarded: "true"
{{- end }}
