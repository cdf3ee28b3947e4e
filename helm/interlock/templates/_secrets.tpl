{{/*
What the chart makes by itself: made once, found again by `lookup` at every upgrade, and left behind by an uninstallation,
since the tools' secrets in Redis cannot be read without the master key.
*/}}

{{/* A Secret of the release's namespace as the cluster has it: base64 by key; {} where there is none. A template of its own
so that tests can put a cluster in its place. Takes chart, and name. */}}
{{- define "interlock.lookup.secret" -}}
{{- get (lookup "v1" "Secret" .chart.Release.Namespace .name) "data" | default dict | toJson -}}
{{- end -}}

{{/* The Secret with what was generated for the engine. */}}
{{- define "interlock.generated.name" -}}
{{- include "interlock.fullname" . }}-generated
{{- end -}}

{{/* What a sidecar needs, in the namespace of its agent. */}}
{{- define "interlock.sidecar.secretName" -}}
{{- include "interlock.fullname" . }}-sidecar
{{- end -}}

{{- define "interlock.redis.name" -}}
{{- include "interlock.fullname" . }}-redis
{{- end -}}

{{/* "true" where the release brings its own Redis. */}}
{{- define "interlock.redis.isBundled" -}}
{{- with .Values.redis -}}
{{- if and .bundled.enabled (not .url) (not .urlSecret.name) }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* What of the generated Secret is used: by key, as base64. Every template of one rendering sees the same. */}}
{{- define "interlock.generated.data" -}}
{{- if not (hasKey .Values "_generated") -}}
{{- $have := include "interlock.lookup.secret" (dict "chart" . "name" (include "interlock.generated.name" .)) | fromJson -}}
{{- $fresh := dict
  "token" (randAlphaNum 48)
  "master.key" (printf "k1:%s" (randBytes 32))
  "key" (printf "once_live_%s" (randAlphaNum 43)) -}}
{{- $data := dict -}}
{{- range $key, $value := $fresh -}}
{{- $_ := set $data $key (get $have $key | default ($value | b64enc)) -}}
{{- end -}}
{{- $_ := set .Values "_generated" $data -}}
{{- end -}}
{{- toJson .Values._generated -}}
{{- end -}}

{{/* The Secrets that the engine reads, named or generated, by what they are for. */}}
{{- define "interlock.engine.secrets" -}}
{{- $engine := .Values.engine -}}
{{- $generated := ternary (include "interlock.generated.name" .) "" .Values.secrets.generate -}}
{{- range $use := list "sidecarTokenSecret" "masterKeySecret" "bootstrapKeySecret" }}
{{- $named := get $engine $use }}
{{ $use }}: {{ toJson (ternary $named (dict "name" $generated "key" (index (dict "sidecarTokenSecret" "token" "masterKeySecret" "master.key" "bootstrapKeySecret" "key") $use)) (not (empty $named.name))) }}
{{- end }}
{{- end -}}

{{/* The Secret of the engine's certificate, named or made; empty where there is no TLS. */}}
{{- define "interlock.engine.tlsSecret" -}}
{{- if .Values.engine.tls.secretName -}}
{{- .Values.engine.tls.secretName -}}
{{- else if include "interlock.certificates.made" . -}}
{{- include "interlock.engine.name" . }}-tls
{{- end -}}
{{- end -}}

{{/* "true" where the release makes the engine's certificate. */}}
{{- define "interlock.certificates.made" -}}
{{- if and (ne .Values.certificates.mode "none") (not .Values.engine.tls.secretName) (not .Values.engine.acceptPlaintext) }}true{{ end -}}
{{- end -}}

{{/* The key, in the engine's certificate's Secret, of the CA of sidecars' certificates; empty without mTLS. */}}
{{- define "interlock.engine.clientCaKey" -}}
{{- if .Values.engine.tls.secretName -}}
{{- .Values.engine.tls.clientCaKey -}}
{{- else if and .Values.certificates.mtls (include "interlock.certificates.made" .) -}}
ca.crt
{{- end -}}
{{- end -}}
