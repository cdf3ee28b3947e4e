{{/* Fails with all that the engine lacks, at once. */}}
{{- define "interlock.engine.needs" -}}
{{- $needs := list -}}
{{- if not .Values.image.repository -}}
{{- $needs = append $needs "image.repository: no image is published; name the one you built from deploy/Dockerfile" -}}
{{- end -}}
{{- if not (or .Values.redis.url .Values.redis.urlSecret.name (include "interlock.redis.isBundled" .)) -}}
{{- $needs = append $needs "redis.urlSecret.name: name a Secret with the URL of your Redis" -}}
{{- end -}}
{{- if not (or .Values.secrets.generate .Values.engine.sidecarTokenSecret.name) -}}
{{- $needs = append $needs "engine.sidecarTokenSecret.name: name a Secret with the token that sidecars show" -}}
{{- end -}}
{{- if not (or .Values.secrets.generate .Values.engine.masterKeySecret.name) -}}
{{- $needs = append $needs "engine.masterKeySecret.name: name a Secret with the key that seals tool secrets" -}}
{{- end -}}
{{- if and (not (include "interlock.engine.tlsSecret" .)) (not .Values.engine.acceptPlaintext) -}}
{{- $needs = append $needs "engine.tls.secretName: name a Secret with a certificate, or set engine.acceptPlaintext" -}}
{{- end -}}
{{- with .Values.certificates -}}
{{- if and (eq .mode "certManager") $.Values.agents.namespaces (not (and .certManager.issuerRef.name (eq .certManager.issuerRef.kind "ClusterIssuer"))) -}}
{{- $needs = append $needs "certificates.certManager.issuerRef: agents.namespaces need a ClusterIssuer" -}}
{{- end -}}
{{- if ge (int .renewBeforeDays) (int .validityDays) -}}
{{- $needs = append $needs "certificates.renewBeforeDays: must be less than validityDays" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.engine.manifests .Values.engine.manifestsConfigMap -}}
{{- $needs = append $needs "engine.manifests: contradicts engine.manifestsConfigMap" -}}
{{- end -}}
{{- if gt (int .Values.engine.autoscaling.minReplicas) (int .Values.engine.autoscaling.maxReplicas) -}}
{{- $needs = append $needs "engine.autoscaling.minReplicas: is more than maxReplicas" -}}
{{- end -}}
{{- if and .Values.engine.tls.secretName .Values.engine.acceptPlaintext -}}
{{- $needs = append $needs "engine.acceptPlaintext: contradicts engine.tls.secretName" -}}
{{- end -}}
{{- if and .Values.engine.tls.clientCaKey (not .Values.engine.tls.secretName) -}}
{{- $needs = append $needs "engine.tls.clientCaKey: means nothing without engine.tls.secretName" -}}
{{- end -}}
{{- with .Values.engine.audit -}}
{{- if and (or .stdout .http.url) (not .signingKeySecret.name) -}}
{{- $needs = append $needs "engine.audit.signingKeySecret.name: name a Secret with the key that signs what is exported" -}}
{{- end -}}
{{- if and (hasPrefix "http://" .http.url) (not .http.acceptPlaintext) -}}
{{- $needs = append $needs "engine.audit.http.url: is not encrypted; use https://, or set engine.audit.http.acceptPlaintext" -}}
{{- end -}}
{{- end -}}
{{- if $needs -}}
{{- fail (printf "the engine cannot run yet:\n  %s" (join "\n  " $needs)) -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: what is no secret. */}}
{{- define "interlock.engine.config" -}}
redis:
  timeout_ms: {{ int .Values.redis.timeoutMs }}
  connect_timeout_ms: {{ int .Values.redis.connectTimeoutMs }}
  wait_replicas: {{ int .Values.redis.waitReplicas }}
  wait_timeout_ms: {{ int .Values.redis.waitTimeoutMs }}
  {{- if .Values.redis.caSecret.name }}
  tls_ca_file: /etc/interlock/redis/ca.crt
  {{- end }}
engine:
  listen: 0.0.0.0:{{ int .Values.engine.port }}
  {{- if include "interlock.engine.tlsSecret" . }}
  tls:
    cert_file: /etc/interlock/tls/tls.crt
    key_file: /etc/interlock/tls/tls.key
    {{- with include "interlock.engine.clientCaKey" . }}
    client_ca_file: /etc/interlock/tls/{{ . }}
    {{- end }}
  {{- else }}
  allow_plaintext: true
  {{- end }}
  admin_host: 0.0.0.0 # the kubelet and Prometheus come from outside the pod
  admin_port: {{ int .Values.engine.adminPort }}
  default_policy: {{ .Values.engine.defaultPolicy }}
  default_plan: {{ .Values.engine.defaultPlan | quote }}
  plans: {{ toJson .Values.engine.plans }}
  {{- if or .Values.engine.manifests .Values.engine.manifestsConfigMap }}
  manifests:
    - /etc/interlock/manifests
  {{- end }}
  master_key_file: /etc/interlock/master-key/master.key
  drain_grace_ms: {{ int .Values.engine.drainGraceMs }}
  log_level: {{ .Values.engine.logLevel }}
{{- with .Values.engine.audit }}
{{- if or .stdout .http.url }}
audit:
  stdout: {{ .stdout }}
  {{- with .http }}
  {{- if .url }}
  http:
    url: {{ toJson .url }}
    allow_plaintext: {{ .acceptPlaintext }}
    {{- if .caSecret.name }}
    tls_ca_file: /etc/interlock/audit-ca/ca.crt
    {{- end }}
  {{- end }}
  {{- end }}
  signing_key_file: /etc/interlock/audit-key/audit.key
  backlog_cap: {{ int64 .backlogCap }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The Secrets whose files the engine reads for the audit trail: what is mounted, by the folder it is mounted on. */}}
{{- define "interlock.engine.auditFiles" -}}
{{- $files := dict -}}
{{- with .Values.engine.audit -}}
{{- if or .stdout .http.url -}}
{{- $_ := set $files "audit-key" (dict "secret" .signingKeySecret "path" "audit.key") -}}
{{- end -}}
{{- if and .http.url .http.caSecret.name -}}
{{- $_ := set $files "audit-ca" (dict "secret" .http.caSecret "path" "ca.crt") -}}
{{- end -}}
{{- end -}}
{{- toYaml $files -}}
{{- end -}}

{{/* The variable with Redis' URL. */}}
{{- define "interlock.redis.variable" -}}
{{- if include "interlock.redis.isBundled" . -}}
{{- include "interlock.secretVariable" (dict "variable" "INTERLOCK_REDIS_URL" "secret" (dict "name" (include "interlock.redis.name" .) "key" "url")) -}}
{{- else if .Values.redis.urlSecret.name -}}
{{- include "interlock.secretVariable" (dict "variable" "INTERLOCK_REDIS_URL" "secret" .Values.redis.urlSecret) -}}
{{- else -}}
- name: INTERLOCK_REDIS_URL
  value: {{ .Values.redis.url | quote }}
{{- end -}}
{{- end -}}

{{/* The ConfigMap of tools and policies; empty without one. */}}
{{- define "interlock.engine.manifestsName" -}}
{{- if .Values.engine.manifests -}}
{{- include "interlock.engine.name" . }}-manifests
{{- else -}}
{{- .Values.engine.manifestsConfigMap -}}
{{- end -}}
{{- end -}}
