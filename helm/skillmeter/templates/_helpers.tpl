{{- define "skillmeter.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 52 | trimSuffix "-" -}}{{- /* a CronJob's name has 52 characters at most */ -}}
{{- end }}

{{- define "skillmeter.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "skillmeter.labels" -}}
{{ include "skillmeter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "skillmeter.metadata" -}}
name: {{ include "skillmeter.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "skillmeter.labels" . | nindent 2 }}
{{- end }}

{{/* The claim of the database by name; empty if there is none, or if the StatefulSet makes one for each pod. */}}
{{- define "skillmeter.claim" -}}
{{- $storage := .Values.daemon.storage -}}
{{- if and (eq $storage.kind "persistentVolumeClaim") (or $storage.existingClaim (ne .Values.workload.kind "StatefulSet")) -}}
{{- $storage.existingClaim | default (printf "%s-data" (include "skillmeter.name" .)) -}}
{{- end -}}
{{- end }}

{{/* A database belongs to one daemon: refuse what would put two pods on one claim. */}}
{{- define "skillmeter.checkClaim" -}}
{{- if include "skillmeter.claim" . -}}
{{- $w := .Values.workload -}}
{{- if eq $w.kind "DaemonSet" -}}
{{- fail "daemon.storage.kind: persistentVolumeClaim is for one pod, and a DaemonSet has one on each node; use emptyDir" -}}
{{- end -}}
{{- if and (has $w.kind (list "Deployment" "StatefulSet")) (gt (int64 $w.replicas) 1) -}}
{{- fail (printf "workload.replicas: %d pods cannot share one persistentVolumeClaim; use a StatefulSet without daemon.storage.existingClaim, or emptyDir" (int64 $w.replicas)) -}}
{{- end -}}
{{- $job := ternary $w.spec ($w.spec.jobSpec | default dict) (eq $w.kind "Job") -}}
{{- if and (eq $w.kind "Job") (gt (int64 ($job.parallelism | default 1)) 1) -}}
{{- fail "workload.spec.parallelism: pods cannot share one persistentVolumeClaim; use emptyDir" -}}
{{- end -}}
{{- if and (eq $w.kind "CronJob") (eq ($w.spec.concurrencyPolicy | default "Forbid") "Allow") -}}
{{- fail "workload.spec.concurrencyPolicy: Allow lets two pods have one persistentVolumeClaim; use Forbid, or emptyDir" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "skillmeter.podTemplate" -}}
{{- $w := .Values.workload -}}
{{- $pod := deepCopy $w.pod -}}
{{- if $w.restricted -}}
  {{- range $container := concat ($pod.initContainers | default list) $pod.containers -}}
    {{- if not $container.securityContext -}}
      {{- $_ := set $container "securityContext" (include "skillmeter-lib.restricted" . | fromYaml) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
metadata:
  labels:
    {{- merge (include "skillmeter.selector" . | fromYaml) $w.labels | toYaml | nindent 4 }}
  {{- with $w.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "skillmeter-lib.pod" (dict "pod" $pod "values" .Values.daemon "claim" (include "skillmeter.claim" .)) | nindent 2 }}
{{- end }}
