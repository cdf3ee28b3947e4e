{{/*
Certificates that Helm makes (certificates.mode: selfSigned). The CA is made once. The others are made anew by the first
upgrade after their time to renew, which stands beside them. All are found again by `lookup`.
*/}}

{{- define "interlock.injector.name" -}}
{{- include "interlock.fullname" . }}-injector
{{- end -}}

{{/* The name that Kubernetes asks the injector by. */}}
{{- define "interlock.injector.dnsName" -}}
{{- include "interlock.injector.name" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "interlock.sidecar.tlsSecret" -}}
{{- include "interlock.fullname" . }}-sidecar-tls
{{- end -}}

{{/* The names that the engine's certificate is for. */}}
{{- define "interlock.engine.dnsNames" -}}
{{- $name := include "interlock.engine.name" . -}}
{{- $service := printf "%s.%s" $name .Release.Namespace -}}
{{- list (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) $service $name | toYaml -}}
{{- end -}}

{{/* The namespaces where sidecars may be, the release's own among them: `helm test` asks from there. */}}
{{- define "interlock.sidecar.namespaces" -}}
{{- append .Values.agents.namespaces .Release.Namespace | uniq | toYaml -}}
{{- end -}}

{{/* The data of the Secrets ca, engine, sidecar and injector: base64 by key. Every template of one rendering sees the same. */}}
{{- define "interlock.certificates.data" -}}
{{- if not (hasKey .Values "_certificates") -}}
{{- $chart := . -}}
{{- $made := dict -}}
{{- $authority := dict -}}
{{- $have := include "interlock.lookup.secret" (dict "chart" . "name" (printf "%s-ca" (include "interlock.fullname" .))) | fromJson -}}
{{- if hasKey $have "tls.key" -}}
{{- $authority = buildCustomCert (get $have "tls.crt") (get $have "tls.key") -}}
{{- else -}}
{{- $authority = genCAWithKey (include "interlock.fullname" .) 3650 (genPrivateKey "ecdsa") -}}
{{- end -}}
{{- $ca := $authority.Cert | b64enc -}}
{{- $_ := set $made "ca" (dict "tls.crt" $ca "tls.key" ($authority.Key | b64enc)) -}}
{{- $engine := include "interlock.engine.name" . -}}
{{- $secrets := dict "engine" (printf "%s-tls" $engine) "sidecar" (include "interlock.sidecar.tlsSecret" .) "injector" (printf "%s-tls" (include "interlock.injector.name" .)) -}}
{{- $namesOf := dict "engine" (include "interlock.engine.dnsNames" . | fromYamlArray) "sidecar" (list "sidecar") "injector" (list (include "interlock.injector.dnsName" .)) -}}
{{- range $for, $name := $secrets -}}
{{- $have := include "interlock.lookup.secret" (dict "chart" $chart "name" $name) | fromJson -}}
{{- $due := get $have "renew-after" | default "MA==" | b64dec | int64 -}}
{{- if and (eq (get $have "ca.crt") $ca) (lt (now | unixEpoch | int64) $due) -}}
{{- $_ := set $made $for (pick $have "tls.crt" "tls.key" "ca.crt" "renew-after") -}}
{{- else -}}
{{- with $chart.Values.certificates -}}
{{- $names := get $namesOf $for -}}
{{- $new := genSignedCertWithKey (first $names) nil $names (int .validityDays) $authority (genPrivateKey "ecdsa") -}}
{{- $renew := add (now | unixEpoch | int64) (mul 86400 (sub (int64 .validityDays) (int64 .renewBeforeDays))) -}}
{{- $data := dict "tls.crt" ($new.Cert | b64enc) "tls.key" ($new.Key | b64enc) "ca.crt" $ca "renew-after" (toString $renew | b64enc) -}}
{{- $_ := set $made $for $data -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values "_certificates" $made -}}
{{- end -}}
{{- toJson .Values._certificates -}}
{{- end -}}
