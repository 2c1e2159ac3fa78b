{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
A Deployment of agents, with its account and, where callguard does not guard it, its PodDisruptionBudget:
(dict "ctx" $ "component" "agent" "values" .Values.agent "image" $image "path" "agent" "guarded" true "scaled" true
"budget" (dict "field" "minAvailable" "value" 1)).
*/ -}}
{{- define "voice-agent.agent" -}}
{{- $values := .values -}}
{{- $callguard := .ctx.Values.callguard -}}
{{- $gate := and .guarded $callguard.gate.enabled -}}
{{- $realtime := dict "mode" "off" -}}
{{- with $values.probes.realtime }}{{ $realtime = . }}{{ end -}}
{{- $asks := ne $realtime.mode "off" -}}
{{- if le (int $values.terminationGracePeriodSeconds) (int $values.drainTimeoutSeconds) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, and an agent drains for %d s (%s.drainTimeoutSeconds): its calls would be killed; use %d or more" .path (int $values.terminationGracePeriodSeconds) (int $values.drainTimeoutSeconds) .path (add (int $values.drainTimeoutSeconds) 60)) -}}
{{- end -}}
{{- if and .guarded (eq (toString (dig "type" "" ($values.strategy | default dict))) "Recreate") -}}
{{- fail (printf "%s.strategy.type is Recreate, with which no replacement can start while calls last; use RollingUpdate, or take the guard off" .path) -}}
{{- end -}}
{{- if and .guarded (not $gate) (has "gate" (splitList "," $callguard.witnesses)) -}}
{{- fail (printf "callguard.witnesses is %q, and there is no gate: its pods would never be let go; set callguard.gate.enabled=true, or use rooms,worker" $callguard.witnesses) -}}
{{- end -}}
{{- include "voice-agent.checkOpenAI" .ctx -}}
{{- $ports := dict "agent" (int $values.port) -}}
{{- if $gate -}}
{{- $_ := set $ports "callguard.gate.port" (int $callguard.gate.port) -}}
{{- $_ := set $ports "callguard.gate.statusPort" (int $callguard.gate.statusPort) -}}
{{- end -}}
{{- if $asks -}}{{- $_ := set $ports "probes.realtime.port" (int $realtime.port) -}}{{- end -}}
{{- if ne (len $ports) (values $ports | uniq | len) -}}
{{- fail (printf "two listeners of the %s's pod share a port: %s; give each its own, such as 8081, 7880, 8089 and 8080" .component (toJson $ports)) -}}
{{- end }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "voice-lib.metadata" . | nindent 2 }}
  {{- if and .guarded (ne (toString $values.minAvailable) "") }}
  annotations:
    callguard.dev/min-available: {{ $values.minAvailable | toString | quote }}
  {{- end }}
spec:
  {{- if not .scaled }}
  replicas: {{ int $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  {{- with $values.strategy }}
  strategy:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "voice-lib.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- $labels := deepCopy ($values.podLabels | default dict) }}
        {{- if .guarded }}
        {{- $_ := set $labels "callguard.dev/guarded" "true" }}
        {{- end }}
        {{- include "voice-lib.podLabels" (dict "ctx" .ctx "component" .component "extra" $labels) | nindent 8 }}
      {{- $annotations := deepCopy ($values.podAnnotations | default dict) }}
      {{- with include "voice-agent.keysChecksum" .ctx }}
      {{- $_ := set $annotations "checksum/livekit-keys" . }}
      {{- end }}
      {{- if .guarded }}
      {{- $_ := set $annotations "callguard.dev/livekit-secret" (include "voice-agent.livekitSecret" .ctx) }}
      {{- if $gate }}
      {{- $_ := set $annotations "callguard.dev/gate-port" (int $callguard.gate.statusPort | toString) }}
      {{- end }}
      {{- if ne (int $values.port) 8081 }}
      {{- $_ := set $annotations "callguard.dev/worker-port" (int $values.port | toString) }}
      {{- end }}
      {{- with $callguard.witnesses }}
      {{- $_ := set $annotations "callguard.dev/witnesses" . }}
      {{- end }}
      {{- with $callguard.drainDeadline }}
      {{- $_ := set $annotations "callguard.dev/drain-deadline" . }}
      {{- $_ := set $annotations "callguard.dev/on-deadline" $callguard.onDeadline }}
      {{- end }}
      {{- end }}
      {{- with $annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "voice-lib.podSpec" (dict "ctx" .ctx "component" .component "values" $values "priorityClassName" (.guarded | ternary $callguard.priorityClassName "")) | nindent 6 }}
      terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
      {{- if or $gate $asks }}
      initContainers:
      {{- end }}
      {{- if $gate }}
      - name: call-gate
        image: {{ include "voice-lib.image" (dict "image" $callguard.image "path" "callguard.image") }}
        imagePullPolicy: {{ $callguard.image.pullPolicy }}
        restartPolicy: Always
        command: [/call-gate]
        args:
        - --bind-address=127.0.0.1:{{ int $callguard.gate.port }}
        - --status-address=:{{ int $callguard.gate.statusPort }}
        - --worker-ports={{ int $values.port }}
        - --order-file=/podinfo/annotations
        - --journal=/journal
        - --launch-limit={{ $callguard.gate.launchLimit | default "5m" }}
        env:
          {{- include "voice-lib.env" (dict "sets" (list (include "voice-agent.livekitEnv" .ctx | fromYaml) (dict "POD_UID" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.uid")))))) | nindent 10 }}
        ports:
        - {name: gate, containerPort: {{ int $callguard.gate.statusPort }}}
        startupProbe:
          httpGet: {path: /healthz, port: gate}
          periodSeconds: 1
          failureThreshold: 60
        # Never a startup probe: the agent, whose worker it is about, starts after this container has.
        readinessProbe:
          httpGet: {path: /readyz, port: gate}
          periodSeconds: 2
          timeoutSeconds: 3
        {{- with $callguard.gate.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        securityContext:
          {{- include "voice-lib.containerSecurity" (dict "over" (dict "runAsUser" 65532)) | nindent 10 }}
        volumeMounts:
        - {name: podinfo, mountPath: /podinfo, readOnly: true}
        - {name: journal, mountPath: /journal}
      {{- end }}
      {{- if $asks }}
      - name: realtime-probe
        image: {{ include "voice-lib.image" (dict "image" $callguard.image "path" "callguard.image") }}
        imagePullPolicy: {{ $callguard.image.pullPolicy }}
        restartPolicy: Always
        command: [/realtime-probe]
        args:
        - --bind-address=:{{ int $realtime.port }}
        {{- with .ctx.Values.openai }}
        - --base-url={{ include "voice-agent.openaiURL" $.ctx }}
        - --model={{ .model }}
        - --key-file=/etc/openai/{{ .existingSecretKey }}
        {{- $azure := .azure | default dict }}
        {{- if $azure.enabled }}
        - --auth-header=api-key
        {{- with $azure.deployment }}
        - --deployment={{ . }}
        {{- end }}
        {{- with $azure.apiVersion }}
        - --api-version={{ . }}
        {{- end }}
        {{- end }}
        {{- with .organization }}
        - --organization={{ . }}
        {{- end }}
        {{- with .project }}
        - --project={{ . }}
        {{- end }}
        {{- with include "voice-agent.openaiCA" $.ctx }}
        - --ca-file={{ . }}
        {{- end }}
        {{- end }}
        {{- if $gate }}
        - --calls-url=http://127.0.0.1:{{ int $callguard.gate.statusPort }}/calls
        {{- else }}
        - --calls-url=
        {{- end }}
        - --interval={{ $realtime.interval }}
        - --mode={{ $realtime.mode }}
        env:
          {{- $env := dict "POD_UID" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.uid"))) }}
          {{- with .ctx.Values.openai.proxy }}
          {{- if .existingSecret }}
          {{- $_ := set $env "HTTPS_PROXY" (include "voice-lib.fromSecret" (dict "secret" .existingSecret "key" (.existingSecretKey | default "proxy")) | fromYaml) }}
          {{- else if .url }}
          {{- $_ := set $env "HTTPS_PROXY" .url }}
          {{- end }}
          {{- end }}
          {{- include "voice-lib.env" (dict "sets" (list $env)) | nindent 10 }}
        ports:
        - {name: realtime, containerPort: {{ int $realtime.port }}}
        livenessProbe:
          httpGet: {path: /livez, port: realtime}
          timeoutSeconds: 3
        readinessProbe:
          httpGet: {path: /healthz/realtime, port: realtime}
          timeoutSeconds: {{ int $realtime.timeoutSeconds }}
          failureThreshold: {{ int $realtime.failureThreshold }}
        {{- with $realtime.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        securityContext:
          {{- include "voice-lib.containerSecurity" (dict "over" (dict "runAsUser" 65532)) | nindent 10 }}
        volumeMounts:
        - {name: openai, mountPath: /etc/openai, readOnly: true}
        {{- if include "voice-agent.openaiCA" .ctx }}
        - {name: openai-ca, mountPath: /etc/openai-ca, readOnly: true}
        {{- end }}
      {{- end }}
      containers:
      - name: {{ .component }}
        image: {{ include "voice-lib.image" (dict "image" .image "path" (.image.path | default (printf "%s.image" .path))) }}
        imagePullPolicy: {{ .image.pullPolicy }}
        {{- with $values.command }}
        command:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $values.args }}
        args:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        env:
          {{- $livekit := include "voice-agent.livekitEnv" .ctx | fromYaml }}
          {{- /* For whoever sends LiveKit's URL to others, where the gate's is of no use. */}}
          {{- $_ := set $livekit "LIVEKIT_PUBLIC_URL" (get $livekit "LIVEKIT_URL") }}
          {{- $sets := list (include "voice-agent.toldEnv" .ctx | fromYaml) $livekit }}
          {{- if $gate }}
          {{- $sets = append $sets (dict "LIVEKIT_URL" (printf "ws://127.0.0.1:%d" (int $callguard.gate.port))) }}
          {{- end }}
          {{- with $values.agentName }}
          {{- $sets = append $sets (dict "LIVEKIT_AGENT_NAME" .) }}
          {{- end }}
          {{- include "voice-lib.env" (dict "sets" (append $sets ($values.env | default dict))) | nindent 10 }}
        {{- with $values.envFrom }}
        envFrom:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        ports:
        - {name: agent, containerPort: {{ int $values.port }}}
        {{- range $kind := list "startup" "readiness" "liveness" }}
        {{- with get $values.probes $kind }}
        {{ $kind }}Probe:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- end }}
        {{- with $values.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        securityContext:
          {{- include "voice-lib.containerSecurity" (dict "over" $values.securityContext) | nindent 10 }}
        volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: podinfo, mountPath: /podinfo, readOnly: true}
        - {name: openai, mountPath: /etc/openai, readOnly: true}
        {{- if include "voice-agent.openaiCA" .ctx }}
        - {name: openai-ca, mountPath: /etc/openai-ca, readOnly: true}
        {{- end }}
        {{- with $values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
      - {name: tmp, emptyDir: {}}
      - name: podinfo
        downwardAPI:
          items:
          - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
      # Mounted whole: a key that is rotated arrives in running pods, which it does not by subPath.
      - {name: openai, secret: {secretName: {{ .ctx.Values.openai.existingSecret }}}}
      {{- if include "voice-agent.openaiCA" .ctx }}
      - {name: openai-ca, configMap: {name: {{ .ctx.Values.openai.ca.configMap }}}}
      {{- end }}
      {{- if $gate }}
      - {name: journal, emptyDir: {}}
      {{- end }}
      {{- with $values.volumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{ include "voice-lib.serviceAccount" . }}
{{- if not .guarded }}
{{- with .budget }}
{{ include "voice-lib.budget" (dict "ctx" $.ctx "component" $.component "field" .field "value" .value "unhealthy" "IfHealthyBudget") }}
    # Pods of a revision that callguard guards have its budget; with two, their evictions would fail.
    matchExpressions:
    - {key: callguard.dev/guarded, operator: NotIn, values: ["true"]}
{{- end }}
{{- end }}
{{- end }}
