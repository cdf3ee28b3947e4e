{{/* Fails with all that the engine lacks, at once. */}}
{{- define "interlock.engine.needs" -}}
{{- $needs := list -}}
{{- if not .Values.image.repository -}}
{{- $needs = append $needs "image.repository: no image is published; name the one you built from deploy/Dockerfile" -}}
{{- end -}}
{{- if not .Values.redis.urlSecret.name -}}
{{- $needs = append $needs "redis.urlSecret.name: name a Secret with the URL of your Redis" -}}
{{- end -}}
{{- if not .Values.engine.sidecarTokenSecret.name -}}
{{- $needs = append $needs "engine.sidecarTokenSecret.name: name a Secret with the token that sidecars show" -}}
{{- end -}}
{{- if not .Values.engine.masterKeySecret.name -}}
{{- $needs = append $needs "engine.masterKeySecret.name: name a Secret with the key that seals tool secrets" -}}
{{- end -}}
{{- if and (not .Values.engine.tls.secretName) (not .Values.engine.acceptPlaintext) -}}
{{- $needs = append $needs "engine.tls.secretName: name a Secret with a certificate, or set engine.acceptPlaintext" -}}
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
  {{- if .Values.redis.caSecret.name }}
  tls_ca_file: /etc/interlock/redis/ca.crt
  {{- end }}
engine:
  listen: 0.0.0.0:{{ int .Values.engine.port }}
  {{- with .Values.engine.tls }}
  {{- if .secretName }}
  tls:
    cert_file: /etc/interlock/tls/tls.crt
    key_file: /etc/interlock/tls/tls.key
    {{- if .clientCaKey }}
    client_ca_file: /etc/interlock/tls/{{ .clientCaKey }}
    {{- end }}
  {{- else }}
  allow_plaintext: true
  {{- end }}
  {{- end }}
  admin_host: 0.0.0.0 # the kubelet and Prometheus come from outside the pod
  admin_port: {{ int .Values.engine.adminPort }}
  default_policy: {{ .Values.engine.defaultPolicy }}
  default_plan: {{ .Values.engine.defaultPlan | quote }}
  plans: {{ toJson .Values.engine.plans }}
  {{- if .Values.engine.manifestsConfigMap }}
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
