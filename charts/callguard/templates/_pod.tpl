{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
All pods are described here: values.podDefaults, overridden by the values of a component. Values of an earlier version of
the chart (helm upgrade --reuse-values) have no podDefaults, so nothing here may require them.
*/ -}}

{{- /* Lays values over others, in place: (dict "onto" … "over" …). Maps are merged, other values are replaced, null removes a key. */ -}}
{{- define "callguard.lay" -}}
{{- range $key, $value := .over -}}
{{- $under := get $.onto $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $under) -}}
{{- include "callguard.lay" (dict "onto" $under "over" $value) -}}
{{- else if kindIs "invalid" $value -}}
{{- $_ := unset $.onto $key -}}
{{- else -}}
{{- $_ := set $.onto $key $value -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The values of a component's pods: (dict "ctx" $ "component" "drainGuard"). */ -}}
{{- define "callguard.podValues" -}}
{{- $pod := deepCopy (.ctx.Values.podDefaults | default dict) -}}
{{- include "callguard.lay" (dict "onto" $pod "over" (deepCopy (get .ctx.Values .component | default dict))) -}}
{{- toYaml $pod -}}
{{- end }}

{{- /*
The same for a pod that runs to completion: (dict "ctx" $ "component" "drainGuard"). It has no sidecars or init containers,
and no ports on the host network.
*/ -}}
{{- define "callguard.hookPod" -}}
{{- $pod := include "callguard.podValues" . | fromYaml -}}
{{- omit $pod "hostNetwork" "extraEnvFrom" "extraVolumes" "extraVolumeMounts" | toYaml -}}
{{- end }}

{{- /* The priority classes that need a ResourceQuota, as YAML: on GKE, the system's classes outside kube-system. */ -}}
{{- define "callguard.quotaClasses" -}}
{{- $create := dig "create" "auto" (.Values.resourceQuota | default dict) | toString -}}
{{- $classes := list -}}
{{- if and (ne .Release.Namespace "kube-system") (or (eq $create "true") (and (eq $create "auto") (contains "-gke." .Capabilities.KubeVersion.Version))) -}}
{{- range list "drainGuard" "metricsAdapter" -}}
{{- $class := (include "callguard.podValues" (dict "ctx" $ "component" .) | fromYaml).priorityClassName | default "" -}}
{{- if hasPrefix "system-" $class }}{{ $classes = append $classes $class }}{{ end -}}
{{- end -}}
{{- end -}}
{{- uniq $classes | toYaml -}}
{{- end }}

{{- /* The account that a component runs as: (dict "ctx" $ "component" "drainGuard"). The policies exempt drain-guard's only. */ -}}
{{- define "callguard.account" -}}
{{- with dig "serviceAccount" "name" "" (.ctx.Values.podDefaults | default dict) -}}
{{- fail (printf "podDefaults.serviceAccount.name is %s, and each component has an account of its own, because the admission policies exempt drain-guard's; use drainGuard.serviceAccount.name or metricsAdapter.serviceAccount.name" .) -}}
{{- end -}}
{{- $guard := dig "serviceAccount" "name" "" .ctx.Values.drainGuard | default "drain-guard" -}}
{{- $adapter := dig "serviceAccount" "name" "" .ctx.Values.metricsAdapter | default "metrics-adapter" -}}
{{- if eq $guard $adapter -}}
{{- fail (printf "drain-guard and metrics-adapter both run as %s, and the admission policies exempt drain-guard's account; use another, such as metricsAdapter.serviceAccount.name=metrics-adapter" $guard) -}}
{{- end -}}
{{- ternary $guard $adapter (eq .component "drainGuard") -}}
{{- end }}

{{- define "callguard.serviceAccount" -}}
{{- $account := (include "callguard.podValues" . | fromYaml).serviceAccount | default dict -}}
{{- if ne (toString $account.create) "false" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "callguard.account" . }}
  namespace: {{ .ctx.Release.Namespace }}
  {{- include "callguard.metadata" (dict "ctx" .ctx "of" .of "annotations" $account.annotations) | nindent 2 }}
{{- if eq (toString $account.automount) "false" }}
automountServiceAccountToken: false
{{- end }}
{{- end }}
{{- end }}

{{- /* Labels and annotations of a pod: (dict "ctx" $ "pod" … "labels" (include "callguard.guardLabels" .)). The chart's win. */ -}}
{{- define "callguard.podMetadata" -}}
labels:
  {{- merge (fromYaml .labels) (.pod.podLabels | default dict) (.ctx.Values.commonLabels | default dict) | toYaml | nindent 2 }}
{{- with .pod.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* How pods of a Deployment are replaced. On the host network, the old and the new pod cannot run on the same node. */ -}}
{{- define "callguard.rollout" -}}
{{- $strategy := .strategy -}}
{{- if and .hostNetwork (not $strategy) -}}
{{- $strategy = dict "type" "RollingUpdate" "rollingUpdate" (dict "maxSurge" 0 "maxUnavailable" 1) -}}
{{- end -}}
{{- with $strategy }}
strategy:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if not (kindIs "invalid" .revisionHistoryLimit) }}
revisionHistoryLimit: {{ .revisionHistoryLimit }}
{{- end }}
{{- end }}

{{- /*
A pod without its containers and volumes: (dict "ctx" $ "pod" … "account" "drain-guard" "spread" LABELS). The last is for
replicas, which are spread over nodes if possible.
*/ -}}
{{- define "callguard.podSpec" -}}
{{- $pod := .pod -}}
serviceAccountName: {{ .account }}
{{- if eq (toString (dig "serviceAccount" "automount" "" $pod)) "false" }}
automountServiceAccountToken: false
{{- end }}
enableServiceLinks: false
{{- with include "callguard.pullSecrets" .ctx | fromYamlArray }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- if $pod.hostNetwork }}
hostNetwork: true
{{- end }}
{{- with $pod.dnsPolicy | default (ternary "ClusterFirstWithHostNet" "" (not (empty $pod.hostNetwork))) }}
dnsPolicy: {{ . }}
{{- end }}
{{- range $field := list "priorityClassName" "runtimeClassName" "nodeSelector" "affinity" "tolerations" "dnsConfig" "hostAliases" }}
{{- with get $pod $field }}
{{- dict $field . | toYaml | nindent 0 }}
{{- end }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
{{- with $pod.topologySpreadConstraints }}
{{- toYaml . | nindent 0 }}
{{- else }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- .spread | nindent 6 }}
{{- end }}
{{- end }}
securityContext:
  {{- include "callguard.over" (dict "onto" (dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault")) "over" $pod.podSecurityContext) | nindent 2 }}
{{- end }}

{{- /* The pod security standard "restricted" for a container. It sets no user, because the image has a numeric one. */ -}}
{{- define "callguard.containerSecurity" -}}
{{- include "callguard.over" (dict "onto" (dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL"))) "over" .securityContext) -}}
{{- end }}

{{- define "callguard.over" -}}
{{- include "callguard.lay" (dict "onto" .onto "over" (.over | default dict)) -}}
{{- toYaml .onto -}}
{{- end }}

{{- /* The pod security level that the namespace needs. */ -}}
{{- define "callguard.podSecurityLevel" -}}
{{- ternary "privileged" "restricted" (and (ne (include "callguard.adapterMode" .) "none") (not (empty .Values.metricsAdapter.hostNetwork))) -}}
{{- end }}

{{- /*
registry/repository:tag@digest. A registry of the image's own, also one at the start of its repository, wins over
global.imageRegistry. A tag that YAML took for a number is refused: 1234567 would become 1.234567e+06.
*/ -}}
{{- define "callguard.image" -}}
{{- $image := .Values.image -}}
{{- if not (or (kindIs "string" $image.tag) (kindIs "invalid" $image.tag)) -}}
{{- $seen := include "callguard.text" $image.tag -}}
{{- fail (printf "image.tag is the number %s, and a tag is text; write tag: %q, or --set-string image.tag=%s" $seen $seen $seen) -}}
{{- end -}}
{{- $named := regexMatch "^(localhost|[^/]*[.:][^/]*)/" $image.repository -}}
{{- with $image.registry | default (ternary "" (dig "imageRegistry" "" (.Values.global | default dict)) $named) }}{{ trimSuffix "/" . }}/{{ end -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- /* A value as text. YAML takes large numbers for fractions. */ -}}
{{- define "callguard.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{- /* Secrets to pull images with, given as names or as objects. */ -}}
{{- define "callguard.pullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (dig "imagePullSecrets" list (.Values.global | default dict) | default list) (.Values.imagePullSecrets | default list) -}}
{{- $secrets = append $secrets (kindIs "map" . | ternary . (dict "name" .)) -}}
{{- end -}}
{{- toYaml (uniq $secrets) -}}
{{- end }}

{{- /*
A container without its name, command, ports and probes: (dict "ctx" $ "pod" … "env" (list …) "mounts" (list …) "optional"
true). The user's variables override the chart's, and come last, so that they may refer to them.
*/ -}}
{{- define "callguard.container" -}}
image: {{ include "callguard.image" .ctx }}
imagePullPolicy: {{ .ctx.Values.image.pullPolicy }}
{{- $env := list -}}
{{- $users := list -}}
{{- $extra := .pod.extraEnv | default list -}}
{{- if kindIs "map" $extra -}}
{{- range $name := keys $extra | sortAlpha -}}
{{- $value := get $extra $name -}}
{{- $users = append $users (kindIs "map" $value | ternary (dict "name" $name "valueFrom" (kindIs "map" $value | ternary $value dict).valueFrom) (dict "name" $name "value" (include "callguard.text" $value))) -}}
{{- end -}}
{{- else -}}
{{- range $extra -}}
{{- $users = append $users (hasKey . "value" | ternary (dict "name" .name "value" (include "callguard.text" .value)) .) -}}
{{- end -}}
{{- end -}}
{{- $taken := list -}}
{{- range $users -}}
{{- $taken = append $taken .name -}}
{{- end -}}
{{- range concat (.env | default list) (include "callguard.connectionEnv" .ctx | fromYamlArray) -}}
{{- if not (has .name $taken) }}{{ $env = append $env . }}{{ end -}}
{{- end -}}
{{- with concat $env $users }}
env:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .pod.extraEnvFrom }}
envFrom:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .pod.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "callguard.containerSecurity" .pod | nindent 2 }}
{{- with concat (.mounts | default list) (include "callguard.caMount" .ctx | fromYamlArray) (.pod.extraVolumeMounts | default list) }}
volumeMounts:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- /* Its volumes: (dict "ctx" $ "pod" … "volumes" (list …)). With "optional" it starts without the authorities. */ -}}
{{- define "callguard.volumes" -}}
{{- with concat (.volumes | default list) (include "callguard.caVolume" . | fromYamlArray) (.pod.extraVolumes | default list) }}
volumes:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- /*
GOMEMLIMIT, 80 % of limits.memory, so that the garbage collector works harder before the kernel kills the program: (dict
"pod" … "component" "drainGuard"). Empty if there is no limit, or if it has a rare form such as 1e9.
*/ -}}
{{- define "callguard.memoryLimit" -}}
{{- $limit := dig "limits" "memory" "" (.pod.resources | default dict) -}}
{{- $text := include "callguard.text" $limit -}}
{{- if $text -}}
{{- if not (regexMatch "^([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$" $text) -}}
{{- fail (printf "%s.resources.limits.memory is %q, which is not a quantity; use one such as 256Mi" .component $text) -}}
{{- end -}}
{{- if regexMatch "^[0-9]+([.][0-9]+)?([KMGT]i|[kMGT])?$" $text -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $text "" -}}
{{- $bytes := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $share := mulf (float64 (trimSuffix $unit $text)) (get $bytes $unit) 0.8 -}}
- name: GOMEMLIMIT
  value: {{ if ge $share 1048576.0 }}{{ divf $share 1048576 | floor | int64 }}MiB{{ else }}{{ $share | floor | int64 }}B{{ end }}
{{- end -}}
{{- end -}}
{{- end }}
