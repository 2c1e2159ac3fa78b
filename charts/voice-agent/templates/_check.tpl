{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
Names of values that articles, other charts and earlier versions of this chart use. "from" is what people write, "to" is
this chart's name; if "to" ends in a dot, the keys below it are kept. The schema lets these names through ("told").
*/ -}}
{{- define "voice-agent.told" -}}
- {from: image, to: agent.image., why: "agent, worker, LiveKit and MCP servers have an image each"}
- {from: replicaCount, to: agent.autoscaling.minReplicas, why: "an autoscaler sets the number of agents; without it (agent.autoscaling.enabled=false), use agent.replicas"}
- {from: replicas, to: agent.autoscaling.minReplicas, why: "an autoscaler sets the number of agents; without it (agent.autoscaling.enabled=false), use agent.replicas"}
- {from: resources, to: agent.resources., why: "each component has its own"}
- {from: env, to: podDefaults.extraEnv, why: "it applies to all pods, and agent.env to the agent only"}
- {from: envFrom, to: podDefaults.extraEnvFrom, why: "it applies to all pods, and agent.envFrom to the agent only"}
- {from: nodeSelector, to: podDefaults.nodeSelector., why: "it applies to all pods, and agent.nodeSelector to the agent only"}
- {from: tolerations, to: podDefaults.tolerations, why: "it applies to all pods, and agent.tolerations to the agent only"}
- {from: affinity, to: podDefaults.affinity., why: "it applies to all pods, and agent.affinity to the agent only"}
- {from: podAnnotations, to: podDefaults.podAnnotations, why: "it applies to all pods, and agent.podAnnotations to the agent only"}
- {from: podLabels, to: podDefaults.podLabels, why: "it applies to all pods, and agent.podLabels to the agent only"}
- {from: podSecurityContext, to: podDefaults.podSecurityContext., why: "it applies to all pods, and agent.podSecurityContext to the agent only"}
- {from: securityContext, to: podDefaults.securityContext., why: "it applies to all pods, and agent.securityContext to the agent only"}
- {from: serviceAccount, to: podDefaults.serviceAccount., why: "it applies to all pods; each component has an account of its own"}
- {from: autoscaling, to: agent.autoscaling., why: "only the agent is scaled, on its calls"}
- {from: hpa, to: agent.autoscaling., why: "only the agent is scaled, on its calls"}
- {from: pdb, to: agent.minAvailable, why: "callguard creates the agents' PodDisruptionBudget; minAvailable 1 alone protects no call"}
- {from: podDisruptionBudget, to: agent.minAvailable, why: "callguard creates the agents' PodDisruptionBudget; minAvailable 1 alone protects no call"}
- {from: service, to: livekit.service., why: "nobody connects to an agent; callers connect to LiveKit"}
- {from: ingress, to: livekit.ingress., why: "nobody connects to an agent; callers connect to LiveKit"}
- {from: agent.minReplicas, to: agent.autoscaling.minReplicas}
- {from: agent.maxReplicas, to: agent.autoscaling.maxReplicas}
- {from: agent.targetActiveCalls, to: agent.autoscaling.targetActiveCalls}
- {from: agent.hpa, to: agent.autoscaling.}
- {from: agent.pdb, to: agent.minAvailable, why: "callguard creates the agents' PodDisruptionBudget; minAvailable 1 alone protects no call"}
- {from: agent.readinessProbe, to: agent.probes.readiness.}
- {from: agent.livenessProbe, to: agent.probes.liveness., why: "a failing liveness probe ends the pod's calls"}
- {from: agent.startupProbe, to: agent.probes.startup.}
- {from: worker.minReplicas, to: worker.replicas, why: "the worker has no autoscaler"}
- {from: worker.maxReplicas, to: worker.replicas, why: "the worker has no autoscaler"}
- {from: worker.hpa, to: worker.autoscaling.external, why: "the worker has no autoscaler of this chart"}
- {from: openai.apiKey, to: openai.existingSecret, why: "the chart does not create the Secret: kubectl create secret generic voice-secrets --from-literal=openai=KEY"}
- {from: openai.secretName, to: openai.existingSecret}
- {from: openai.secretKey, to: openai.existingSecretKey}
- {from: openai.ca.configMap, to: ca.configMap, why: "all programs trust it, not only those that call OpenAI; agents find it in /etc/private-ca/ca.crt"}
- {from: openai.proxy.url, to: proxy.url, why: "all programs use it; with proxy.agent=false, agent and worker do not, as before"}
- {from: openai.proxy.existingSecret, to: proxy.existingSecret, why: "all programs use it; with proxy.agent=false, agent and worker do not, as before"}
- {from: livekit.host, to: livekit.url, why: "with livekit.enabled=false, for a LiveKit that runs elsewhere"}
- {from: livekit.secretKeys.key, to: livekit.secretKeys.apiKey}
- {from: livekit.secretKeys.secret, to: livekit.secretKeys.apiSecret}
{{- end }}

{{- /* Refuses values of other names, all at once, and then values that cannot work together. */ -}}
{{- define "voice-agent.check" -}}
{{- $wrong := list -}}
{{- $rows := include "voice-agent.told" . | fromYamlArray -}}
{{- $components := list "podDefaults" "agent" "worker" "livekit" "mcpDefaults" -}}
{{- range $name, $_ := .Values.mcpServers }}{{ $components = append $components (printf "mcpServers.%s" $name) }}{{ end -}}
{{- range $components -}}
{{- $rows = append $rows (dict "from" (printf "%s.serviceAccount.automountServiceAccountToken" .) "to" (printf "%s.serviceAccount.automount" .)) -}}
{{- end -}}
{{- range $rows -}}
{{- $value := $.Values -}}
{{- range splitList "." .from -}}
{{- $value = kindIs "map" $value | ternary (get (kindIs "map" $value | ternary $value dict) .) "" -}}
{{- end -}}
{{- if not (and (empty $value) (or (kindIs "invalid" $value) (kindIs "string" $value) (kindIs "map" $value) (kindIs "slice" $value))) -}}
{{- $from := list .from -}}
{{- $to := list (trimSuffix "." .to) -}}
{{- if and (kindIs "map" $value) (hasSuffix "." .to) -}}
{{- $from = list -}}
{{- $to = list -}}
{{- $row := . -}}
{{- range $key := keys $value | sortAlpha -}}
{{- $from = append $from (printf "%s.%s" $row.from $key) -}}
{{- $to = append $to (printf "%s%s" $row.to $key) -}}
{{- end -}}
{{- end -}}
{{- $wrong = append $wrong (printf "%s of this chart; use %s%s" (printf "%s %s" (join ", " $from) (eq (len $from) 1 | ternary "is not a value" "are not values")) (join ", " $to) (empty .why | ternary "" (printf ": %s" .why))) -}}
{{- end -}}
{{- end -}}
{{- with $wrong -}}
{{- fail (printf "%s\ndocs/from-the-article.md maps such values to those of this chart" (join "\n" .)) -}}
{{- end -}}

{{- $agent := .Values.agent -}}
{{- if and (or $agent.autoscaling.enabled $agent.autoscaling.external) (ne (int $agent.replicas) 2) -}}
{{- $wrong = append $wrong (printf "agent.replicas is %d, and an autoscaler owns the number of agents; set agent.autoscaling.minReplicas=%d and leave agent.replicas at 2, or set agent.autoscaling.enabled=false" (int $agent.replicas) (int $agent.replicas)) -}}
{{- end -}}
{{- $scaling := $agent.autoscaling -}}
{{- if and $scaling.enabled (not $scaling.external) -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $wrong = append $wrong (printf "agent.autoscaling.minReplicas is %d, above maxReplicas, %d; use %d or less" (int $scaling.minReplicas) (int $scaling.maxReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- $keda := $scaling.keda | default dict -}}
{{- $waiting := $.Values.callguard.waiting | default dict -}}
{{- if and (not $keda.enabled) (eq (int $scaling.minReplicas) 0) -}}
{{- $wrong = append $wrong "agent.autoscaling.minReplicas is 0, and a HorizontalPodAutoscaler cannot scale up from 0; use 1 or more, or KEDA: agent.autoscaling.keda.enabled=true" -}}
{{- end -}}
{{- if and $keda.enabled (eq (int $scaling.minReplicas) 0) (not $waiting.agentName) (ne ($waiting.rooms | default "named") "every") -}}
{{- $wrong = append $wrong "agent.autoscaling.minReplicas is 0, and without an agent callguard cannot see which calls wait for one; set callguard.waiting.agentName to the name that callers request, or callguard.waiting.rooms=every if every room needs an agent" -}}
{{- end -}}
{{- if and $keda.enabled (not $.Values.callguard.enabled) -}}
{{- $wrong = append $wrong "agent.autoscaling.keda.enabled is true, and callguard.enabled is false, so no calls are counted; set callguard.enabled=true, or agent.autoscaling.external=true for a ScaledObject of your own" -}}
{{- end -}}
{{- if and $keda.enabled $scaling.extraMetrics -}}
{{- $wrong = append $wrong "agent.autoscaling.extraMetrics is for a HorizontalPodAutoscaler of this chart, and KEDA makes its own; use agent.autoscaling.keda.extraTriggers" -}}
{{- end -}}
{{- if and $keda.enabled (eq $scaling.metric "Pods") -}}
{{- $wrong = append $wrong "agent.autoscaling.metric is Pods, and KEDA reads the calls of the whole Deployment; leave it at Object" -}}
{{- end -}}
{{- end -}}
{{- if not (or $agent.image.tag $agent.image.digest) -}}
{{- $wrong = append $wrong "agent.image has neither tag nor digest; use --set-string agent.image.tag=1.2.3, or a digest such as sha256:…" -}}
{{- end -}}
{{- with .Values.livekit -}}
{{- $keys := .secretKeys | default dict -}}
{{- if and .enabled .url -}}
{{- $wrong = append $wrong (printf "livekit.url is %s, and the chart runs a LiveKit of its own; set livekit.enabled=false to use that one" .url) -}}
{{- else if not (or .enabled .url .existingSecret) -}}
{{- $wrong = append $wrong "livekit.enabled is false, and no URL of LiveKit is set; set livekit.url, such as wss://project.livekit.cloud" -}}
{{- end -}}
{{- if not (or .existingSecret (and .apiKey .apiSecret)) -}}
{{- $wrong = append $wrong "LiveKit's keys are missing; set livekit.existingSecret to the name of a Secret that has LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, or livekit.apiKey and livekit.apiSecret, which `openssl rand -hex 32` makes" -}}
{{- else if and (not .existingSecret) (lt (len .apiSecret) 32) -}}
{{- $wrong = append $wrong (printf "livekit.apiSecret has %d characters, fewer than the 32 that LiveKit asks for; make one with `openssl rand -hex 32`" (len .apiSecret)) -}}
{{- end -}}
{{- if and (not .existingSecret) (or $keys.url $keys.apiKey $keys.apiSecret) -}}
{{- $wrong = append $wrong "livekit.secretKeys names keys, but livekit.existingSecret names no Secret; set livekit.existingSecret" -}}
{{- end -}}
{{- $scaling := .autoscaling | default dict -}}
{{- $servers := $scaling.enabled | default false | ternary (int $scaling.maxReplicas) (int .replicas) -}}
{{- if and .enabled (gt $servers 1) (not (include "voice-agent.redis" $)) -}}
{{- $wrong = append $wrong (printf "livekit.%s is %d, and servers find each other's rooms through Redis; set livekit.redis.address, such as redis.redis.svc:6379, or livekit.redis.sentinel" ($scaling.enabled | default false | ternary "autoscaling.maxReplicas" "replicas") $servers) -}}
{{- end -}}
{{- if include "voice-agent.livekitScaled" $ -}}
{{- if ne (int .replicas) 1 -}}
{{- $wrong = append $wrong (printf "livekit.replicas is %d, and an autoscaler owns the number of servers; set livekit.autoscaling.minReplicas=%d and leave livekit.replicas at 1, or set livekit.autoscaling.enabled=false" (int .replicas) (int .replicas)) -}}
{{- end -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $wrong = append $wrong (printf "livekit.autoscaling.minReplicas is %d, above maxReplicas, %d" (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if not (dig "requests" "cpu" "" (.resources | default dict)) -}}
{{- $wrong = append $wrong "livekit.autoscaling asks for a share of the CPU that a server requests; set livekit.resources.requests.cpu" -}}
{{- end -}}
{{- end -}}
{{- with .redis.sentinel -}}
{{- if and .addresses (not .masterName) -}}
{{- $wrong = append $wrong "livekit.redis.sentinel.masterName is empty; set it to what the Sentinels call your Redis, often mymaster" -}}
{{- end -}}
{{- if and .addresses $.Values.livekit.redis.address -}}
{{- $wrong = append $wrong (printf "livekit.redis.address is %s, and livekit.redis.sentinel knows where Redis is; use one of them" $.Values.livekit.redis.address) -}}
{{- end -}}
{{- end -}}
{{- if and .enabled (not .hostNetwork) (eq .rtc.service.type "NodePort") -}}
{{- range list (list "rtc.tcpPort" .rtc.tcpPort 30881) (list "rtc.udpPort" .rtc.udpPort 30882) (list "turn.udpPort" (dig "enabled" false (.turn | default dict) | ternary (.turn | default dict).udpPort 0) 30883) -}}
{{- $port := int (index . 1) -}}
{{- if and $port (or (lt $port 30000) (gt $port 32767)) -}}
{{- $wrong = append $wrong (printf "livekit.%s is %d: LiveKit announces to callers the port it listens on, and a Service of type NodePort can only use ports 30000 to 32767; use %d" (index . 0) $port (index . 2)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .enabled -}}
{{- $taken := dict -}}
{{- range include "voice-agent.livekitPorts" $ | fromJsonArray -}}
{{- $at := printf "%d/%s" (int .port) .protocol -}}
{{- if hasKey $taken $at -}}
{{- $wrong = append $wrong (printf "LiveKit would listen at port %s for both %s and %s; give each of livekit.rtc, livekit.turn and livekit.prometheusPort its own" $at (get $taken $at) .name) -}}
{{- end -}}
{{- $_ := set $taken $at .name -}}
{{- end -}}
{{- with .turn -}}
{{- if .enabled -}}
{{- if not (or (int .tlsPort) (int .udpPort)) -}}
{{- $wrong = append $wrong "livekit.turn is enabled, and has no port; use livekit.turn.tlsPort=5349, livekit.turn.udpPort=3478, or both" -}}
{{- end -}}
{{- if and (int .tlsPort) (not .domain) -}}
{{- $wrong = append $wrong "livekit.turn.domain is empty, and callers are told turns:DOMAIN:443; set it to the name that leads to the Service of TURN, or livekit.turn.tlsPort=0" -}}
{{- end -}}
{{- if and (int .tlsPort) (not .externalTls) (not .existingSecret) -}}
{{- $wrong = append $wrong "livekit.turn.existingSecret is empty, and TURN over TLS needs a certificate; name a Secret with tls.crt and tls.key, or set livekit.turn.externalTls=true where a balancer ends TLS" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (dig "enabled" false (.ingress | default dict)) (not .ingress.hosts) -}}
{{- $wrong = append $wrong "livekit.ingress is enabled, and has no host; set livekit.ingress.hosts={livekit.example.com}" -}}
{{- end -}}
{{- if and (dig "enabled" false (.httpRoute | default dict)) (not .httpRoute.parentRefs) -}}
{{- $wrong = append $wrong "livekit.httpRoute is enabled, and has no Gateway; set livekit.httpRoute.parentRefs[0].name to the name of a Gateway" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.networkPolicy.extraIngress -}}
{{- if not (or (has $name (list "agent" "worker" "livekit")) (and (hasPrefix "mcp-" $name) (hasKey ($.Values.mcpServers | default dict) (trimPrefix "mcp-" $name)))) -}}
{{- $wrong = append $wrong (printf "networkPolicy.extraIngress.%s names no component; use agent, worker, livekit, or mcp-NAME of one of mcpServers" $name) -}}
{{- end -}}
{{- end -}}
{{- with .Values.ca -}}
{{- if and .secret .configMap -}}
{{- $wrong = append $wrong (printf "ca.secret is %q and ca.configMap is %q; only one can be used; set the other to \"\"" .secret .configMap) -}}
{{- end -}}
{{- end -}}
{{- if contains "@" ((.Values.proxy | default dict).url | default "") -}}
{{- $wrong = append $wrong "proxy.url holds a password; put the URL into a Secret, and name that in proxy.existingSecret" -}}
{{- end -}}
{{- $account := (.Values.podDefaults | default dict).serviceAccount | default dict -}}
{{- if and $account.create $account.name -}}
{{- $wrong = append $wrong (printf "podDefaults.serviceAccount.name is %q, and each component would create it; set podDefaults.serviceAccount.create=false, or the name of one, such as agent.serviceAccount.name" $account.name) -}}
{{- end -}}
{{- with $wrong -}}
{{- fail (join "\n" .) -}}
{{- end -}}
{{- include "voice-agent.checkOpenAI" . -}}
{{- end }}
