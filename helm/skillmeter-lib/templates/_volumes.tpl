{{/*
Volumes of the pod. With the pod's fsGroup the kubelet makes an emptyDir drwxrwsrwx root:fsGroup; from the set-group-id
bit client and daemon see that they are to share through the group.
`claim` names the claim of the database; empty if volumeClaimTemplates has one named skillmeter-data.
*/}}
{{- define "skillmeter-lib.volumes" -}}
{{- $v := .values -}}
- name: skillmeter-run
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: skillmeter-spool
  emptyDir: {{ include "skillmeter-lib.sizeLimit" $v.spool.sizeLimit }}
{{- if eq $v.storage.kind "emptyDir" }}
- name: skillmeter-data
  emptyDir: {{ include "skillmeter-lib.sizeLimit" $v.storage.sizeLimit }}
{{- else if .claim }}
- name: skillmeter-data
  persistentVolumeClaim:
    claimName: {{ .claim }}
{{- end }}
- name: skillmeter-tmp
  emptyDir: {}
{{- if $v.tokens.existingSecret }}
- name: skillmeter-tokens
  secret:
    secretName: {{ $v.tokens.existingSecret }}
    defaultMode: 0440
    items:
      {{- range $variable, $key := include "skillmeter-lib.tokens" . | fromYaml }}
      - key: {{ $key }}
        path: {{ $variable }}
      {{- end }}
{{- end }}
{{- end }}

{{- define "skillmeter-lib.sizeLimit" -}}
{{- if . -}}{sizeLimit: {{ . }}}{{- else -}}{}{{- end -}}
{{- end }}

{{/* The specification of a claim for the database. */}}
{{- define "skillmeter-lib.claim" -}}
{{- $storage := .values.storage -}}
accessModes: [{{ $storage.accessMode }}]
{{- with $storage.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ $storage.size }}
{{- end }}

{{/* Mounts of a container that records. The socket is used, never made, by it. */}}
{{- define "skillmeter-lib.appMounts" -}}
- name: skillmeter-run
  mountPath: /run/skillmeter
  readOnly: true
- name: skillmeter-spool
  mountPath: /var/spool/skillmeter
{{- end }}
