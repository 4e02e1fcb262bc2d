{{/*
The daemon's container: an entry of initContainers, kept running by restartPolicy Always.
Takes a dict: `values`, those of this chart.
*/}}
{{- define "skillmeter-lib.container" -}}
{{- $v := .values -}}
name: skillmeter
image: {{ include "skillmeter-lib.image" . }}
imagePullPolicy: {{ $v.image.pullPolicy }}
restartPolicy: Always
args: [run]
env:
  {{- include "skillmeter-lib.environment" . | nindent 2 }}
ports:
  - name: skillmeter
    containerPort: {{ $v.http.port }}
    protocol: TCP
{{- with include "skillmeter-lib.probes" . }}
{{ . }}
{{- end }}
{{- with $v.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsUser: {{ int64 $v.user.id }}
  runAsGroup: {{ int64 $v.user.group }}
  {{- include "skillmeter-lib.restricted" . | nindent 2 }}
  readOnlyRootFilesystem: true
volumeMounts:
  - name: skillmeter-run
    mountPath: /run/skillmeter
  - name: skillmeter-spool
    mountPath: /var/spool/skillmeter
  - name: skillmeter-data
    mountPath: /var/lib/skillmeter
  - name: skillmeter-tmp
    mountPath: /tmp
  {{- if $v.tokens.existingSecret }}
  - name: skillmeter-tokens
    mountPath: /etc/skillmeter/tokens
    readOnly: true
  {{- end }}
{{- end }}

{{/* What the restricted Pod Security Standard wants of a container. */}}
{{- define "skillmeter-lib.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Of the daemon in the image. A constant, as .Chart is that of the chart that includes this one. */}}
{{- define "skillmeter-lib.version" -}}0.1.0{{- end }}

{{- define "skillmeter-lib.image" -}}
{{- $image := .values.image -}}
{{- $tag := $image.tag | default (include "skillmeter-lib.version" .) -}}
{{- if $image.digest -}}{{ printf "%s@%s" $image.repository $image.digest | quote }}
{{- else -}}{{ printf "%s:%s" $image.repository $tag | quote }}
{{- end -}}
{{- end }}

{{- define "skillmeter-lib.probes" -}}
{{- if .values.probes.startup -}}
startupProbe: # the daemon listens when its database is up to date
  httpGet: {path: /healthz, port: skillmeter}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: {{ int64 .values.probes.startupSeconds }}
{{ end -}}
{{- if .values.probes.readiness -}}
readinessProbe:
  httpGet: {path: /readyz, port: skillmeter}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 3
{{ end -}}
{{- if .values.probes.liveness -}}
livenessProbe: # begins when the startup probe has succeeded
  httpGet: {path: /healthz, port: skillmeter}
{{- if not .values.probes.startup }}
  initialDelaySeconds: {{ int64 .values.probes.startupSeconds }}
{{- end }}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{ end -}}
{{- end }}
