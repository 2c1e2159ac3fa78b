{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
A security context: the pod security standard "restricted", overridden by settings: (dict "ctx" $ "base" (dict …) "over"
.Values.x). With .Values.openshift, the namespace assigns the user and group.
*/ -}}
{{- define "voice-lib.security" -}}
{{- $context := mergeOverwrite .base (deepCopy (.over | default dict)) -}}
{{- if .ctx.Values.openshift -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" "supplementalGroups" -}}
{{- end -}}
{{- range $field, $value := $context -}}
{{- if kindIs "invalid" $value -}}{{- $_ := unset $context $field -}}{{- end -}}
{{- end -}}
{{- toYaml $context -}}
{{- end }}

{{- /*
A container, as a list of one: (dict "ctx" $ "name" "call-gate" "image" $image "path" "callguard.image" "values" $values
"sidecar" true "command" (list …) "args" (list …) "env" (list $set $set) "envFrom" (list …) "ports" (list …) "probes" (dict
…) "mounts" (list …)). Those after "values" are optional. The values' own resources, securityContext and extra… are added;
their command, args and probes apply only where none is given here.
*/ -}}
{{- define "voice-lib.container" -}}
{{- $values := include "voice-lib.said" .values | fromJson -}}
- name: {{ .name }}
  image: {{ include "voice-lib.image" . }}
  imagePullPolicy: {{ .image.pullPolicy }}
  {{- if .sidecar }}
  restartPolicy: Always
  {{- end }}
  {{- with .command | default $values.command }}
  command:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with concat (.args | default $values.args | default list) ($values.extraArgs | default list) }}
  args:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "voice-lib.env" (dict "sets" (append (.env | default list) $values.extraEnv)) }}
  env:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with concat (.envFrom | default list) ($values.extraEnvFrom | default list) }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- toYaml .ports | nindent 4 }}
  {{- $probes := .probes | default $values.probes }}
  {{- range $kind := list "startup" "readiness" "liveness" }}
  {{- with get $probes $kind }}
  {{ $kind }}Probe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "voice-lib.security" (dict "ctx" .ctx "over" $values.securityContext "base"
      (dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")))) | nindent 4 }}
  {{- with concat .mounts ($values.extraVolumeMounts | default list) }}
  volumeMounts:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /*
A Deployment with its account: (dict "ctx" $ "component" "agent" "values" $fields "annotations" (dict …) "scaled" true
"podLabels" (dict …) "podAnnotations" (dict …) "priorityClassName" "…" "hostNetwork" true "sidecars" $text "container" $text
"volumes" (list …) "evictable" true "packed" true). $fields is the output of voice-lib.fields; $text is the output of
voice-lib.container, once for each container. All after "values" are optional except "container". With "scaled", the chart
sets no replicas.

A new pod may have to wait for what the old pod holds (its node's ports, or memory) for the old pod's whole grace period. So
the progress deadline is that period and Kubernetes' default of 10 minutes.
*/ -}}
{{- define "voice-lib.deployment" -}}
{{- $values := .values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
spec:
  {{- if not .scaled }}
  replicas: {{ int $values.replicas }}
  {{- end }}
  revisionHistoryLimit: {{ kindIs "invalid" $values.revisionHistoryLimit | ternary 5 $values.revisionHistoryLimit | int }}
  progressDeadlineSeconds: {{ add 600 (int $values.terminationGracePeriodSeconds) }}
  {{- with $values.strategy }}
  strategy:
    {{- toYaml (eq (toString .type) "Recreate" | ternary (dict "type" "Recreate") .) | nindent 4 }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "voice-lib.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "voice-lib.podLabels" (dict "ctx" .ctx "component" .component "extra" (merge (.podLabels | default dict) ($values.podLabels | default dict))) | nindent 8 }}
      {{- with merge (.podAnnotations | default dict) ($values.podAnnotations | default dict) (include "voice-lib.evictable" . | fromJson) }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "voice-lib.podSpec" . | nindent 6 }}
{{ include "voice-lib.serviceAccount" . }}
{{- end }}

{{- /*
Annotations of the pods for Cluster Autoscaler, as JSON; values override them in podAnnotations. It does not remove a node
with an emptyDir that is not named. callguard holds "evictable" pods: the eviction API refuses to evict those with calls,
and without the annotation their PodDisruptionBudget would keep the node forever.
*/ -}}
{{- define "voice-lib.evictable" -}}
{{- $told := dict -}}
{{- $local := list -}}
{{- range concat (.volumes | default list) (.values.extraVolumes | default list) -}}
{{- if hasKey . "emptyDir" -}}{{- $local = append $local .name -}}{{- end -}}
{{- end -}}
{{- with $local -}}{{- $_ := set $told "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" (join "," .) -}}{{- end -}}
{{- if .evictable -}}{{- $_ := set $told "cluster-autoscaler.kubernetes.io/safe-to-evict" "true" -}}{{- end -}}
{{- toJson $told -}}
{{- end }}

{{- define "voice-lib.podSpec" -}}
{{- $values := .values -}}
serviceAccountName: {{ include "voice-lib.serviceAccountName" . }}
automountServiceAccountToken: {{ ($values.serviceAccount | default dict).automount | default false }}
enableServiceLinks: false
{{- $secrets := list }}
{{- range concat ((.ctx.Values.global | default dict).imagePullSecrets | default list) (.ctx.Values.imagePullSecrets | default list) }}
{{- $secrets = append $secrets (dict "name" (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .)) }}
{{- end }}
{{- with $secrets | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName | default $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if .hostNetwork }}
hostNetwork: true
{{- end }}
{{- with $values.dnsPolicy | default (.hostNetwork | default false | ternary "ClusterFirstWithHostNet" "") }}
dnsPolicy: {{ . }}
{{- end }}
{{- with $values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "voice-lib.security" (dict "ctx" .ctx "over" $values.podSecurityContext "base"
    (dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault"))) | nindent 2 }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $near := dict }}
{{- if .packed }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "voice-lib.selectorLabels" . | fromYaml)) }}
{{- $near = dict "podAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) }}
{{- end }}
{{- with mergeOverwrite $near ($values.affinity | default dict) }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or $values.topologySpreadConstraints (not .packed) }}
topologySpreadConstraints:
{{- with $values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- include "voice-lib.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}
terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
{{- if or $values.initContainers .sidecars }}
initContainers:
{{- with $values.initContainers }}
{{ toYaml . }}
{{- end }}
{{- with .sidecars }}
{{ trim . }}
{{- end }}
{{- end }}
containers:
{{ .container }}
{{- with $values.extraContainers }}
{{ toYaml . }}
{{- end }}
volumes:
{{ toYaml (concat (.volumes | default list) ($values.extraVolumes | default list)) }}
{{- end }}

{{- /* The account that a component runs as. */ -}}
{{- define "voice-lib.serviceAccountName" -}}
{{- $account := .values.serviceAccount | default dict -}}
{{- if eq (toString $account.create) "false" -}}
{{- $account.name | default "default" -}}
{{- else -}}
{{- $account.name | default (include "voice-lib.name" .) -}}
{{- end -}}
{{- end }}

{{- define "voice-lib.serviceAccount" -}}
{{- $account := .values.serviceAccount | default dict -}}
{{- if ne (toString $account.create) "false" }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "voice-lib.metadata" (merge (dict "name" (include "voice-lib.serviceAccountName" .) "annotations" $account.annotations) (omit . "annotations")) | nindent 2 }}
automountServiceAccountToken: {{ $account.automount | default false }}
{{- end }}
{{- end }}

{{- /*
A PodDisruptionBudget for exactly the pods of one component: (dict "ctx" $ "component" "mcp-crm" "field" "maxUnavailable"
"value" 1 "unhealthy" "AlwaysAllow"). The value is a number or a percentage. For pods that hold calls, "unhealthy" is
IfHealthyBudget: a pod that is not ready may have calls.
*/ -}}
{{- define "voice-lib.budget" -}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
spec:
  {{ .field }}: {{ if hasSuffix "%" (toString .value) }}{{ .value | quote }}{{ else }}{{ int .value }}{{ end }}
  unhealthyPodEvictionPolicy: {{ .unhealthy }}
  selector:
    matchLabels:
      {{- include "voice-lib.selectorLabels" . | nindent 6 }}
    # What callguard guards has callguard's budget; with two, evictions would fail.
    matchExpressions:
    - {key: callguard.dev/guarded, operator: NotIn, values: ["true"]}
{{- end }}
