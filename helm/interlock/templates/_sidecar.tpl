{{/*
The sidecar for your own pods. Both templates take the same dict:

  from  this chart's context: .Subcharts.interlock from a chart that depends on it
  set   values of `sidecar` for this pod alone, each as a whole (a Secret's key may be left out); optional

interlock.sidecar is one entry for `initContainers`, and belongs first: as a native sidecar it is ready before the agent
starts and ends after it. interlock.sidecar.volumes are entries for `volumes`.
*/}}
{{- define "interlock.sidecar" -}}
{{- $chart := .from -}}
{{- $sidecar := include "interlock.sidecar.values" . | fromYaml -}}
{{- include "interlock.sidecar.needs" (dict "image" $chart.Values.image "sidecar" $sidecar) -}}
name: interlock
image: {{ include "interlock.image" $chart }}
imagePullPolicy: {{ $chart.Values.image.pullPolicy }}
command: [interlock, sidecar]
restartPolicy: Always
env:
  - name: INTERLOCK_SIDECAR__PORT
    value: {{ int $sidecar.port | quote }}
  - name: INTERLOCK_SIDECAR__ADMIN_HOST
    value: 0.0.0.0 # the kubelet and Prometheus come from outside the pod
  - name: INTERLOCK_SIDECAR__ADMIN_PORT
    value: {{ int $sidecar.adminPort | quote }}
  - name: INTERLOCK_SIDECAR__GRPC_PORT
    value: {{ int $sidecar.grpcPort | quote }}
  - name: INTERLOCK_SIDECAR__ALLOWED_HOSTS
    value: {{ toJson $sidecar.allowedHosts | quote }}
  - name: INTERLOCK_SIDECAR__MAX_BODY_BYTES
    value: {{ int $sidecar.maxBodyBytes | quote }}
  - name: INTERLOCK_SIDECAR__SPOOL_DIR
    value: /var/lib/interlock/spool # below the volume: the sidecar wants a folder that is its own
  - name: INTERLOCK_SIDECAR__DRAIN_GRACE_MS
    value: {{ int $sidecar.drainGraceMs | quote }}
  - name: INTERLOCK_SIDECAR__LOG_LEVEL
    value: {{ $sidecar.logLevel }}
  {{- if $sidecar.otlpEndpoint }}
  - name: INTERLOCK_SIDECAR__TRACES__OTLP_ENDPOINT
    value: {{ $sidecar.otlpEndpoint | quote }}
  - name: INTERLOCK_SIDECAR__TRACES__SAMPLE_RATIO
    value: {{ toJson $sidecar.traceSampleRatio | quote }}
  {{- end }}
  - name: INTERLOCK_SIDECAR__ENGINE__TARGET
    value: {{ $sidecar.target }}
  - name: INTERLOCK_SIDECAR__ENGINE__ALLOW_PLAINTEXT
    value: {{ $sidecar.acceptPlaintext | quote }}
  {{- if $sidecar.tls.caSecret.name }}
  - name: INTERLOCK_SIDECAR__ENGINE__TLS__CA_FILE
    value: /etc/interlock/engine-ca/ca.crt
  {{- end }}
  {{- if $sidecar.tls.clientSecretName }}
  - name: INTERLOCK_SIDECAR__ENGINE__TLS__CERT_FILE
    value: /etc/interlock/tls/tls.crt
  - name: INTERLOCK_SIDECAR__ENGINE__TLS__KEY_FILE
    value: /etc/interlock/tls/tls.key
  {{- end }}
  {{- include "interlock.secretVariable" (dict "variable" "INTERLOCK_SIDECAR__ENGINE__SIDECAR_TOKEN" "secret" $sidecar.tokenSecret) | nindent 2 }}
  {{- if $sidecar.agentKeySecret.name }}
  {{- include "interlock.secretVariable" (dict "variable" "INTERLOCK_SIDECAR__AGENT_KEY" "secret" $sidecar.agentKeySecret) | nindent 2 }}
  {{- end }}
ports:
  - name: interlock-admin
    containerPort: {{ int $sidecar.adminPort }}
# The agent starts when this says yes: when the engine can be asked.
startupProbe:
  httpGet:
    path: /readyz
    port: interlock-admin
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: {{ max 1 (div (int $sidecar.startupMs) 1000) }}
readinessProbe:
  httpGet:
    path: /readyz
    port: interlock-admin
  periodSeconds: 2
  timeoutSeconds: 2
livenessProbe:
  httpGet:
    path: /healthz
    port: interlock-admin
  periodSeconds: 10
  timeoutSeconds: 3
{{- with $sidecar.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "interlock.securityContext" $chart | nindent 2 }}
volumeMounts:
  - name: interlock-spool
    mountPath: /var/lib/interlock
  {{- with include "interlock.sidecar.tlsMounts" $sidecar }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "interlock.sidecar.volumes" -}}
{{- $sidecar := include "interlock.sidecar.values" . | fromYaml -}}
- name: interlock-spool
  emptyDir:
    sizeLimit: {{ int $sidecar.spoolSizeMiB }}Mi
{{- with include "interlock.sidecar.tlsVolumes" $sidecar }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "interlock.sidecar.tlsMounts" -}}
{{- if .tls.caSecret.name -}}
- name: interlock-engine-ca
  mountPath: /etc/interlock/engine-ca
  readOnly: true
{{- end }}
{{- if .tls.clientSecretName }}
- name: interlock-tls
  mountPath: /etc/interlock/tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "interlock.sidecar.tlsVolumes" -}}
{{- /* Readable by all who mount them, which is the sidecar alone: the pod's fsGroup is not ours to set. */}}
{{- with .tls.caSecret }}
{{- if .name }}
- name: interlock-engine-ca
  secret:
    secretName: {{ .name }}
    defaultMode: 292 # 0444
    items:
      - key: {{ .key }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .tls.clientSecretName }}
- name: interlock-tls
  secret:
    secretName: {{ . }}
    defaultMode: 292 # 0444
{{- end }}
{{- end -}}

{{/* The values of `sidecar`, with those of this pod over them, and the target found. */}}
{{- define "interlock.sidecar.values" -}}
{{- $chart := .from -}}
{{- $sidecar := deepCopy $chart.Values.sidecar -}}
{{- /* Not mergeOverwrite: it takes false, 0 and "" for nothing said. */ -}}
{{- range $key, $value := .set -}}
{{- if not (hasKey $sidecar $key) -}}
{{- fail (printf "interlock.sidecar: set.%s: no such value of sidecar" $key) -}}
{{- end -}}
{{- if and (kindIs "map" $value) (hasKey $value "name") -}}
{{- $value = merge dict $value (get $sidecar $key) -}}
{{- end -}}
{{- $_ := set $sidecar $key $value -}}
{{- end -}}
{{- if and (not $sidecar.target) $chart.Values.engine.enabled -}}
{{- $scheme := ternary "grpcs" "grpc" (not (empty (include "interlock.engine.tlsSecret" $chart))) -}}
{{- $host := printf "%s.%s.svc" (include "interlock.engine.name" $chart) $chart.Release.Namespace -}}
{{- $_ := set $sidecar "target" (printf "%s://%s:%d" $scheme $host (int $chart.Values.engine.port)) -}}
{{- end -}}
{{- if and $chart.Values.engine.enabled $chart.Values.secrets.generate (not $sidecar.tokenSecret.name) (not $chart.Values.engine.sidecarTokenSecret.name) -}}
{{- $_ := set $sidecar "tokenSecret" (dict "name" (include "interlock.sidecar.secretName" $chart) "key" "token") -}}
{{- end -}}
{{- if and $chart.Values.engine.enabled (include "interlock.certificates.made" $chart) -}}
{{- $made := include "interlock.sidecar.tlsSecret" $chart -}}
{{- if not $sidecar.tls.caSecret.name -}}
{{- $_ := set $sidecar.tls "caSecret" (dict "name" $made "key" "ca.crt") -}}
{{- end -}}
{{- if and $chart.Values.certificates.mtls (not $sidecar.tls.clientSecretName) -}}
{{- $_ := set $sidecar.tls "clientSecretName" $made -}}
{{- end -}}
{{- end -}}
{{- toYaml $sidecar -}}
{{- end -}}

{{/* Fails with all that a sidecar lacks, at once. */}}
{{- define "interlock.sidecar.needs" -}}
{{- $needs := list -}}
{{- if not .image.repository -}}
{{- $needs = append $needs "image.repository: no image is published; name the one you built from deploy/Dockerfile" -}}
{{- end -}}
{{- if not .sidecar.tokenSecret.name -}}
{{- $needs = append $needs "sidecar.tokenSecret.name: name a Secret with the engine's sidecar token" -}}
{{- end -}}
{{- if not .sidecar.target -}}
{{- $needs = append $needs "sidecar.target: name an engine, grpcs://host:port; none is part of this release" -}}
{{- else if and (hasPrefix "grpc://" .sidecar.target) (not .sidecar.acceptPlaintext) -}}
{{- $needs = append $needs "sidecar.target: is not encrypted; use grpcs://, or set sidecar.acceptPlaintext" -}}
{{- end -}}
{{- if $needs -}}
{{- fail (printf "the sidecar cannot run yet:\n  %s" (join "\n  " $needs)) -}}
{{- end -}}
{{- end -}}
