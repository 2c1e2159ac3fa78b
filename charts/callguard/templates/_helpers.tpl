{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* The user name of drain-guard at the API server. */ -}}
{{- define "callguard.guard" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "callguard.account" (dict "ctx" . "component" "drainGuard") }}
{{- end }}

{{- /*
Labels and annotations of an object: (dict "ctx" $ "of" "drain-guard" "labels" (dict …) "annotations" (dict …)). All but the
first two are optional. "version" true is for admission policies; "hook" and "weight" are for Helm hooks. The chart's own
labels win over the user's. Not for pod templates, because a new version of the chart would restart every pod.
*/ -}}
{{- define "callguard.metadata" -}}
{{- $ctx := .ctx -}}
{{- $labels := dict "app.kubernetes.io/part-of" "callguard" "app.kubernetes.io/instance" $ctx.Release.Name "app.kubernetes.io/managed-by" $ctx.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $ctx.Chart.Name $ctx.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- with .of }}{{ $_ := set $labels "app.kubernetes.io/name" . }}{{ end -}}
{{- /* drain-guard and the plugin report both versions when a policy differs from theirs. */ -}}
{{- if .version }}{{ $_ := set $labels "app.kubernetes.io/version" $ctx.Chart.AppVersion }}{{ end -}}
{{- $annotations := dict -}}
{{- with .hook -}}
{{- $annotations = dict "helm.sh/hook" . "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
{{- end -}}
{{- with .weight }}{{ $_ := set $annotations "helm.sh/hook-weight" . }}{{ end -}}
labels:
  {{- merge $labels (.labels | default dict) ($ctx.Values.commonLabels | default dict) | toYaml | nindent 2 }}
{{- with merge $annotations (.annotations | default dict) ($ctx.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Labels of drain-guard and its pods. Selectors use them, so they must never change. */ -}}
{{- define "callguard.guardLabels" -}}
app.kubernetes.io/name: drain-guard
app.kubernetes.io/part-of: callguard
{{- end }}

{{- /* The same for the metrics-adapter. */ -}}
{{- define "callguard.adapterLabels" -}}
app.kubernetes.io/name: metrics-adapter
app.kubernetes.io/part-of: callguard
{{- end }}

{{- /* The address families of a Service, as its fields; empty if no value sets them. */ -}}
{{- define "callguard.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies }}
ipFamilies:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- /* Scrape interval and relabelings of a port. */ -}}
{{- define "callguard.scrape" -}}
{{- with .Values.serviceMonitor.interval }}
interval: {{ . }}
{{- end }}
{{- range $field := list "relabelings" "metricRelabelings" }}
{{- with get $.Values.serviceMonitor $field }}
{{ $field }}:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The namespaces that the policies apply to. */ -}}
{{- define "callguard.enabledNamespaces" -}}
namespaceSelector:
  matchLabels:
    callguard.dev/enabled: "true"
{{- end }}

{{- /* The pods that they protect. An update matches if the pod was guarded before it or is guarded after it. */ -}}
{{- define "callguard.guardedPods" -}}
objectSelector:
  matchLabels:
    callguard.dev/guarded: "true"
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

{{- /* The Secret with the adapter's certificate; empty if the adapter creates its own. */ -}}
{{- define "callguard.tlsSecret" -}}
{{- $mode := include "callguard.tlsMode" . -}}
{{- if eq $mode "certManager" }}metrics-adapter-tls{{ else if eq $mode "existingSecret" }}{{ .Values.tls.existingSecret }}{{ end -}}
{{- end }}

{{- /* The caBundle of an APIService: empty where the adapter or cert-manager writes it. Two writers of one field would
conflict at the next upgrade. */ -}}
{{- define "callguard.caBundle" -}}
{{- if eq (include "callguard.tlsMode" .) "existingSecret" -}}
caBundle: {{ .Values.tls.caBundle | b64enc }}
{{- end }}
{{- end }}

{{- define "callguard.caAnnotations" -}}
{{- if eq (include "callguard.tlsMode" .) "certManager" -}}
cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/metrics-adapter
{{- end }}
{{- end }}

{{- /* What both programs may reach: DNS, the API server, LiveKit and the guarded pods. */ -}}
{{- define "callguard.egress" -}}
# Any address, because a name server on a node is not a pod.
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
- ports:
  {{- range .Values.networkPolicy.egressPorts }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
  {{- with include "callguard.proxyPort" . }}
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
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Who serves custom metrics: own, compose or none. */ -}}
{{- define "callguard.adapterMode" -}}
{{- $values := .Values.metricsAdapter -}}
{{- $mode := $values.mode | default "own" -}}
{{- if and (eq $mode "own") (hasKey $values "enabled") (not $values.enabled) -}}
{{- fail "metricsAdapter.enabled was removed; use metricsAdapter.mode=none" -}}
{{- end -}}
{{- if eq $mode "compose" -}}
{{- $compose := $values.compose | default dict -}}
{{- $service := $compose.service | default dict -}}
{{- if not (and $service.namespace $service.name) -}}
{{- fail "metricsAdapter.mode is compose, and metricsAdapter.compose.service names no adapter; give its namespace and name, such as --set metricsAdapter.compose.service.namespace=monitoring --set metricsAdapter.compose.service.name=prometheus-adapter" -}}
{{- end -}}
{{- if and (eq $service.namespace .Release.Namespace) (eq $service.name "metrics-adapter") -}}
{{- fail "metricsAdapter.compose.service is callguard's own Service; name the Service of the other adapter, or use metricsAdapter.mode=own" -}}
{{- end -}}
{{- if and $compose.insecure $compose.caBundle -}}
{{- fail "metricsAdapter.compose has both caBundle and insecure; use one" -}}
{{- end -}}
{{- if not (or $compose.insecure (contains "-----BEGIN CERTIFICATE-----" ($compose.caBundle | default ""))) -}}
{{- fail "metricsAdapter.compose.caBundle holds no certificate; give the PEM of the authority that signed the certificate of the other adapter, --set-file metricsAdapter.compose.caBundle=ca.crt, or, if it signs its own and you trust the network between, --set metricsAdapter.compose.insecure=true" -}}
{{- end -}}
{{- end -}}
{{- $mode -}}
{{- end }}

{{- /* The Service of the other adapter, as namespace/name; empty if there is none. */ -}}
{{- define "callguard.otherAdapter" -}}
{{- if eq (include "callguard.adapterMode" .) "compose" -}}
{{- with .Values.metricsAdapter.compose.service -}}{{ .namespace }}/{{ .name }}{{- end -}}
{{- end -}}
{{- end }}

{{- /* Flags of the metrics-adapter about the other adapter. */ -}}
{{- define "callguard.composeArgs" -}}
{{- if eq (include "callguard.adapterMode" .) "compose" -}}
{{- $compose := .Values.metricsAdapter.compose -}}
- --compose-service={{ include "callguard.otherAdapter" . }}:{{ $compose.service.port | default 443 }}
{{- if $compose.insecure }}
- --compose-insecure
{{- else }}
- --compose-ca-file=/etc/metrics-adapter/compose/ca.crt
{{- end }}
{{- $tls := include "callguard.tlsMode" . }}
{{- if eq $tls "certManager" }}
- --compose-serving-ca-file=/etc/metrics-adapter/tls/ca.crt
{{- else if eq $tls "existingSecret" }}
- --compose-serving-ca-file=/etc/metrics-adapter/compose/serving-ca.crt
{{- end }}
{{- end -}}
{{- end }}

{{- /* Certificate authorities for compose, by file name. */ -}}
{{- define "callguard.composeFiles" -}}
{{- if eq (include "callguard.adapterMode" .) "compose" -}}
{{- with .Values.metricsAdapter.compose.caBundle }}
ca.crt: {{ . | quote }}
{{- end }}
{{- if eq (include "callguard.tlsMode" .) "existingSecret" }}
serving-ca.crt: {{ .Values.tls.caBundle | quote }}
{{- end }}
{{- end -}}
{{- end }}

{{- /* What kubectl calls reads, except Secrets: numbers of calls, nodes and callguard's own objects. */ -}}
{{- define "callguard.reads" -}}
- apiGroups: [custom.metrics.k8s.io]
  resources: ["*"]
  verbs: [get, list]
- apiGroups: [""]
  resources: [pods, namespaces, nodes]
  verbs: [get, list]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [apps]
  resources: [deployments, replicasets, statefulsets, daemonsets]
  verbs: [get, list]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingadmissionpolicies, validatingadmissionpolicybindings, mutatingadmissionpolicies, mutatingadmissionpolicybindings]
  verbs: [get]
- apiGroups: [apiregistration.k8s.io]
  resources: [apiservices]
  resourceNames: [v1beta1.custom.metrics.k8s.io, v1beta2.custom.metrics.k8s.io]
  verbs: [get]
# Leader election.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [drain-guard]
  verbs: [get]
{{- end }}
