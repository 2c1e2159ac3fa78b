{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
The only place that looks at the cluster, and only to refuse an install with an error that says what to do: nothing is
rendered from it. Where nothing can be looked up (helm template, a dry run on the client, Argo CD), nothing is refused.
*/ -}}

{{- /* A cluster can have one callguard. Policy callguard-lookout, which an uninstall keeps, names the release that had it. */ -}}
{{- define "callguard.alone" -}}
{{- $lookout := lookup "admissionregistration.k8s.io/v1" "ValidatingAdmissionPolicy" "" "callguard-lookout" -}}
{{- $annotations := dig "metadata" "annotations" dict $lookout | default dict -}}
{{- $name := get $annotations "meta.helm.sh/release-name" -}}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" -}}
{{- if and $name (or (ne $name .Release.Name) (ne $namespace .Release.Namespace)) -}}
{{- if lookup "scheduling.k8s.io/v1" "PriorityClass" "" "callguard-calls" -}}
{{- fail (printf "callguard is already installed, as release %s in namespace %s, and a cluster can have only one: its admission policies apply to all namespaces. Upgrade that one, or uninstall it before you install this one" $name $namespace) -}}
{{- end -}}
{{- fail (printf "release %s in namespace %s was uninstalled and left policy callguard-lookout on purpose. Transfer it to this release, then install again: kubectl annotate validatingadmissionpolicy,validatingadmissionpolicybinding callguard-lookout --overwrite meta.helm.sh/release-name=%s meta.helm.sh/release-namespace=%s" $name $namespace .Release.Name .Release.Namespace) -}}
{{- end -}}
{{- end }}

{{- /*
A cluster has one APIService per version, and all autoscalers read from the Service that was written last. Helm does not let
one release take it from another, but does not say what to do.
*/ -}}
{{- define "callguard.apiIsFree" -}}
{{- $mode := include "callguard.adapterMode" . -}}
{{- $ours := printf "%s/metrics-adapter" .Release.Namespace -}}
{{- $theirs := include "callguard.otherAdapter" . -}}
{{- range $version := list "v1beta1" "v1beta2" -}}
{{- $name := printf "%s.custom.metrics.k8s.io" $version -}}
{{- $found := lookup "apiregistration.k8s.io/v1" "APIService" "" $name -}}
{{- $service := dig "spec" "service" dict $found | default dict -}}
{{- $owner := printf "%s/%s" ($service.namespace | default "") ($service.name | default "") -}}
{{- if and (ne $mode "compose") (eq $owner $ours) (hasKey (dig "metadata" "annotations" dict $found | default dict) "callguard.dev/before") -}}
{{- fail (printf "APIService %s was taken from another adapter with metricsAdapter.mode=compose. Before you leave that mode, give it back: kubectl exec -n %s deploy/metrics-adapter -- /metrics-adapter hand-back --service=%s --compose-service=NAMESPACE/NAME, with the Service of metricsAdapter.compose.service" $name $.Release.Namespace $ours) -}}
{{- end -}}
{{- if and (eq $mode "own") (not (has $owner (list $ours "/"))) -}}
{{- fail (printf "APIService %s belongs to Service %s, and a cluster can have only one adapter for custom metrics. Let callguard forward to that one: --set metricsAdapter.mode=compose; or uninstall that one (if only its APIService is left: kubectl delete apiservice %s); or install callguard without its adapter, --set metricsAdapter.mode=none: calls are still held, and the autoscaler reads them through the other adapter. The chart's README has all three under \"Another adapter\"" $name $owner $name) -}}
{{- end -}}
{{- if and (eq $mode "compose") (not (has $owner (list $ours $theirs "/"))) -}}
{{- fail (printf "APIService %s belongs to Service %s, and metricsAdapter.compose.service names %s. Name the adapter that is there: --set metricsAdapter.compose.service.namespace=%s --set metricsAdapter.compose.service.name=%s" $name $owner $theirs ($service.namespace | default "NAMESPACE") ($service.name | default "NAME")) -}}
{{- end -}}
{{- end -}}
{{- end }}
