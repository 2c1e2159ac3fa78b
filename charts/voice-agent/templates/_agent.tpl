{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
A Deployment of agents with its account and, unless callguard guards it, its PodDisruptionBudget:
(dict "ctx" $ "component" "agent" "values" .Values.agent "image" $image "path" "agent" "guarded" true "scaled" true
"budget" (dict "field" "minAvailable" "value" 1)).
*/ -}}
{{- define "voice-agent.agent" -}}
{{- $values := include "voice-lib.fields" . | fromJson -}}
{{- $callguard := .ctx.Values.callguard -}}
{{- $gate := and .guarded $callguard.gate.enabled -}}
{{- $unguard := eq .component "agent" | ternary "callguard.enabled=false" "worker.guarded=false" -}}
{{- $realtime := dict "mode" "off" -}}
{{- with $values.probes.realtime }}{{ $realtime = . }}{{ end -}}
{{- $asks := ne $realtime.mode "off" -}}
{{- if le (int $values.terminationGracePeriodSeconds) (int $values.drainTimeoutSeconds) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, and an agent drains for %d s (%s.drainTimeoutSeconds): its calls would be killed; use %d or more" .path (int $values.terminationGracePeriodSeconds) (int $values.drainTimeoutSeconds) .path (add (int $values.drainTimeoutSeconds) 420)) -}}
{{- end -}}
{{- if and .guarded (eq (toString (dig "type" "" ($values.strategy | default dict))) "Recreate") -}}
{{- fail (printf "%s.strategy.type is Recreate, which starts no replacement while calls last; use RollingUpdate, or turn off the guarding with %s" .path $unguard) -}}
{{- end -}}
{{- if and .guarded (not $gate) (has "gate" (splitList "," $callguard.witnesses)) -}}
{{- fail (printf "callguard.witnesses is %q, and call-gate is not enabled, so pods would never be released; set callguard.gate.enabled=true, or use rooms,worker" $callguard.witnesses) -}}
{{- end -}}
{{- if and .guarded $values.extraContainers -}}
{{- fail (printf "%s.extraContainers is set: Kubernetes may evict a pod with calls until all its containers run; move them to %s.initContainers, with restartPolicy: Always, or turn off the guarding with %s" .path .path $unguard) -}}
{{- end -}}
{{- $ports := dict "agent" (int $values.port) -}}
{{- if $gate -}}
{{- $_ := set $ports "callguard.gate.port" (int $callguard.gate.port) -}}
{{- $_ := set $ports "callguard.gate.statusPort" (int $callguard.gate.statusPort) -}}
{{- end -}}
{{- if $asks -}}{{- $_ := set $ports "probes.realtime.port" (int $realtime.port) -}}{{- end -}}
{{- if ne (len $ports) (values $ports | uniq | len) -}}
{{- fail (printf "two listeners of the %s's pod use the same port: %s; give each its own, such as 8081, 7880, 8089 and 8080" .component (toJson $ports)) -}}
{{- end -}}
{{- $labels := dict -}}
{{- $annotations := dict -}}
{{- with include "voice-agent.keysChecksum" .ctx -}}
{{- $_ := set $annotations "checksum/livekit-keys" . -}}
{{- end -}}
{{- if .guarded -}}
{{- $_ := set $labels "callguard.dev/guarded" "true" -}}
{{- $_ := set $annotations "callguard.dev/livekit-secret" (include "voice-agent.livekitSecret" .ctx) -}}
{{- $named := .ctx.Values.livekit.secretKeys | default dict -}}
{{- $keys := list -}}
{{- range list (list "url" "url") (list "api-key" "apiKey") (list "api-secret" "apiSecret") -}}
{{- $what := index . 0 -}}
{{- with get $named (index . 1) -}}{{- $keys = append $keys (printf "%s=%s" $what .) -}}{{- end -}}
{{- end -}}
{{- with $keys -}}
{{- $_ := set $annotations "callguard.dev/livekit-secret-keys" (join "," .) -}}
{{- end -}}
{{- if $gate -}}
{{- $_ := set $annotations "callguard.dev/gate-port" (int $callguard.gate.statusPort | toString) -}}
{{- end -}}
{{- if ne (int $values.port) 8081 -}}
{{- $_ := set $annotations "callguard.dev/worker-port" (int $values.port | toString) -}}
{{- end -}}
{{- with $callguard.witnesses -}}
{{- $_ := set $annotations "callguard.dev/witnesses" . -}}
{{- end -}}
{{- if eq .component "agent" -}}
{{- with $callguard.waiting.agentName -}}{{- $_ := set $annotations "callguard.dev/agent-name" . -}}{{- end -}}
{{- if eq $callguard.waiting.rooms "every" -}}{{- $_ := set $annotations "callguard.dev/waiting-rooms" "every" -}}{{- end -}}
{{- if $callguard.waiting.dispatchAgain -}}{{- $_ := set $annotations "callguard.dev/dispatch-again" "true" -}}{{- end -}}
{{- end -}}
{{- with $callguard.drainDeadline -}}
{{- $_ := set $annotations "callguard.dev/drain-deadline" . -}}
{{- $_ := set $annotations "callguard.dev/on-deadline" $callguard.onDeadline -}}
{{- end -}}
{{- end -}}
{{- $volumes := list
  (dict "name" "tmp" "emptyDir" dict)
  (dict "name" "podinfo" "downwardAPI" (dict "items" (list (dict "path" "annotations" "fieldRef" (dict "fieldPath" "metadata.annotations")))))
  (dict "name" "openai" "secret" (dict "secretName" .ctx.Values.openai.existingSecret))
-}}
{{- $volumes = concat $volumes (include "voice-lib.caVolumes" .ctx | fromJsonArray) -}}
{{- if $gate -}}{{- $volumes = append $volumes (dict "name" "journal" "emptyDir" dict) -}}{{- end -}}
{{- $sidecars := "" -}}
{{- if $gate -}}{{- $sidecars = include "voice-agent.gate" . -}}{{- end -}}
{{- if $asks -}}{{- $sidecars = printf "%s\n%s" $sidecars (include "voice-agent.realtimeProbe" (dict "ctx" .ctx "realtime" $realtime "gate" $gate)) -}}{{- end -}}
{{- include "voice-lib.deployment" (dict "ctx" .ctx "component" .component "values" $values "scaled" .scaled
  "annotations" (and .guarded (ne (toString .values.minAvailable) "") | ternary (dict "callguard.dev/min-available" (toString .values.minAvailable)) dict)
  "podLabels" $labels "podAnnotations" $annotations "evictable" .guarded "packed" (and .guarded $callguard.packed)
  "priorityClassName" (.guarded | ternary (.values.priorityClassName | default $callguard.priorityClassName) "")
  "sidecars" $sidecars "container" (include "voice-agent.agentContainer" (dict "ctx" .ctx "component" .component "image" .image "path" .path "values" $values "gate" $gate)) "volumes" $volumes) }}
{{- if not .guarded }}
{{- with .budget }}
{{ include "voice-lib.budget" (dict "ctx" $.ctx "component" $.component "field" .field "value" .value "unhealthy" "IfHealthyBudget") }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The agent itself, or the worker. The key's Secret is mounted as a folder, because a subPath is not updated when the key is rotated. */ -}}
{{- define "voice-agent.agentContainer" -}}
{{- $livekit := include "voice-agent.livekitEnv" .ctx | fromYaml -}}
{{- /* For programs that send LiveKit's URL to others, who cannot use the gate's. */ -}}
{{- $_ := set $livekit "LIVEKIT_PUBLIC_URL" (get $livekit "LIVEKIT_URL") -}}
{{- $sets := list (include "voice-agent.agentEnv" .ctx | fromYaml) $livekit -}}
{{- if .gate -}}
{{- $sets = append $sets (dict "LIVEKIT_URL" (printf "ws://127.0.0.1:%d" (int .ctx.Values.callguard.gate.port))) -}}
{{- end -}}
{{- with .values.agentName -}}
{{- $sets = append $sets (dict "LIVEKIT_AGENT_NAME" .) -}}
{{- end -}}
{{- include "voice-lib.container" (dict "ctx" .ctx "name" .component "image" .image "path" (.image.path | default (printf "%s.image" .path)) "values" .values
  "env" $sets "envFrom" (include "voice-agent.livekitEnvFrom" .ctx | fromJsonArray)
  "ports" (list (dict "name" "agent" "containerPort" (int .values.port)))
  "mounts" (concat (list
    (dict "name" "tmp" "mountPath" "/tmp")
    (dict "name" "podinfo" "mountPath" "/podinfo" "readOnly" true)
    (dict "name" "openai" "mountPath" "/etc/openai" "readOnly" true)) (include "voice-lib.caMounts" .ctx | fromJsonArray))) }}
{{- end }}

{{- define "voice-agent.podUID" -}}
POD_UID:
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
{{- end }}

{{- /* The sidecar call-gate. Its readiness is no startup probe, because it depends on the agent, which starts after the startup probe succeeds. */ -}}
{{- define "voice-agent.gate" -}}
{{- $gate := .ctx.Values.callguard.gate -}}
{{- include "voice-lib.container" (dict "ctx" .ctx "name" "call-gate" "image" .ctx.Values.callguard.image "path" "callguard.image" "values" $gate
  "sidecar" true "command" (list "/call-gate")
  "args" (list
    (printf "--bind-address=127.0.0.1:%d" (int $gate.port))
    (printf "--status-address=:%d" (int $gate.statusPort))
    (printf "--worker-ports=%d" (int .values.port))
    "--order-file=/podinfo/annotations"
    "--journal=/journal"
    (printf "--launch-limit=%s" ($gate.launchLimit | default "5m")))
  "env" (list (include "voice-lib.outwardGo" .ctx | fromYaml) (include "voice-agent.livekitEnv" .ctx | fromYaml) (include "voice-agent.podUID" .ctx | fromYaml))
  "envFrom" (include "voice-agent.livekitEnvFrom" .ctx | fromJsonArray)
  "ports" (list (dict "name" "gate" "containerPort" (int $gate.statusPort)))
  "probes" (dict
    "startup" (dict "httpGet" (dict "path" "/healthz" "port" "gate") "periodSeconds" 1 "failureThreshold" 60)
    "readiness" (dict "httpGet" (dict "path" "/readyz" "port" "gate") "periodSeconds" 2 "timeoutSeconds" 3))
  "mounts" (concat (list
    (dict "name" "podinfo" "mountPath" "/podinfo" "readOnly" true)
    (dict "name" "journal" "mountPath" "/journal")) (include "voice-lib.caMounts" .ctx | fromJsonArray))) }}
{{- end }}

{{- /* The sidecar realtime-probe: (dict "ctx" $ "realtime" .Values.agent.probes.realtime "gate" true). */ -}}
{{- define "voice-agent.realtimeProbe" -}}
{{- $realtime := .realtime -}}
{{- $openai := .ctx.Values.openai -}}
{{- $azure := $openai.azure | default dict -}}
{{- $args := list
  (printf "--bind-address=:%d" (int $realtime.port))
  (printf "--base-url=%s" (include "voice-agent.openaiURL" .ctx))
  (printf "--model=%s" $openai.model)
  (printf "--key-file=/etc/openai/%s" $openai.existingSecretKey)
-}}
{{- if $azure.enabled -}}
{{- $args = append $args "--auth-header=api-key" -}}
{{- with $azure.deployment -}}{{- $args = append $args (printf "--deployment=%s" .) -}}{{- end -}}
{{- with $azure.apiVersion -}}{{- $args = append $args (printf "--api-version=%s" .) -}}{{- end -}}
{{- end -}}
{{- with $openai.organization -}}{{- $args = append $args (printf "--organization=%s" .) -}}{{- end -}}
{{- with $openai.project -}}{{- $args = append $args (printf "--project=%s" .) -}}{{- end -}}
{{- $args = append $args (printf "--calls-url=%s" (.gate | ternary (printf "http://127.0.0.1:%d/calls" (int .ctx.Values.callguard.gate.statusPort)) "")) -}}
{{- $args = concat $args (list (printf "--interval=%s" $realtime.interval) (printf "--mode=%s" $realtime.mode)) -}}
{{- include "voice-lib.container" (dict "ctx" .ctx "name" "realtime-probe" "image" .ctx.Values.callguard.image "path" "callguard.image" "values" $realtime
  "sidecar" true "command" (list "/realtime-probe") "args" $args
  "env" (list (include "voice-lib.outwardGo" .ctx | fromYaml) (include "voice-agent.podUID" .ctx | fromYaml))
  "ports" (list (dict "name" "realtime" "containerPort" (int $realtime.port)))
  "probes" (dict
    "liveness" (dict "httpGet" (dict "path" "/livez" "port" "realtime") "timeoutSeconds" 3)
    "readiness" (dict "httpGet" (dict "path" "/healthz/realtime" "port" "realtime") "timeoutSeconds" (int $realtime.timeoutSeconds) "failureThreshold" (int $realtime.failureThreshold)))
  "mounts" (concat (list (dict "name" "openai" "mountPath" "/etc/openai" "readOnly" true)) (include "voice-lib.caMounts" .ctx | fromJsonArray))) }}
{{- end }}
