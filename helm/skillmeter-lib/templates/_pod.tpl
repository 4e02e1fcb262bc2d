{{/*
A whole pod specification with the daemon in it. Takes a dict: `pod`, the specification without it; `values` as for
skillmeter-lib.container; `claim` as for skillmeter-lib.volumes. What the pod says itself stays as it is.
*/}}
{{- define "skillmeter-lib.pod" -}}
{{- $v := .values -}}
{{- $pod := deepCopy .pod -}}
{{- range $list := list "initContainers" "containers" -}}
  {{- $wired := list -}}
  {{- range $container := get $pod $list | default list -}}
    {{- if or (empty $v.containers) (has $container.name $v.containers) -}}
      {{- $container = include "skillmeter-lib.wired" (dict "container" $container "values" $v) | fromYaml -}}
    {{- end -}}
    {{- $wired = append $wired $container -}}
  {{- end -}}
  {{- $_ := set $pod $list $wired -}}
{{- end -}}
{{- $_ := set $pod "initContainers" (prepend $pod.initContainers (include "skillmeter-lib.container" . | fromYaml)) -}}
{{- $_ := set $pod "volumes" (concat ($pod.volumes | default list) (include "skillmeter-lib.volumes" . | fromYamlArray)) -}}
{{- $_ := set $pod "securityContext" (merge ($pod.securityContext | default dict) (dict "fsGroup" (int64 $v.user.group) "fsGroupChangePolicy" "OnRootMismatch")) -}}
{{- $grace := ternary $pod.terminationGracePeriodSeconds 30 (hasKey $pod "terminationGracePeriodSeconds") -}}
{{- $_ := set $pod "terminationGracePeriodSeconds" (add (int64 $grace) (int64 $v.drainSeconds)) -}}
{{- range $name := $v.containers -}}
  {{- if not (has $name (include "skillmeter-lib.names" $pod | fromYamlArray)) -}}
    {{- fail (printf "containers: the pod has no container named %q" $name) -}}
  {{- end -}}
{{- end -}}
{{- toYaml $pod -}}
{{- end }}

{{- define "skillmeter-lib.names" -}}
{{- range concat .initContainers .containers }}
- {{ .name | quote }}
{{- end }}
{{- end }}

{{/* `container`, with environment and mounts to record; a variable that it has itself stays. */}}
{{- define "skillmeter-lib.wired" -}}
{{- $container := .container -}}
{{- $own := dict -}}
{{- range $container.env }}{{ $_ := set $own .name true }}{{ end -}}
{{- $env := list -}}
{{- range include "skillmeter-lib.appEnvironment" . | fromYamlArray -}}
  {{- if not (hasKey $own .name) }}{{ $env = append $env . }}{{ end -}}
{{- end -}}
{{- $_ := set $container "env" (concat $env ($container.env | default list)) -}}
{{- $_ := set $container "volumeMounts" (concat (include "skillmeter-lib.appMounts" . | fromYamlArray) ($container.volumeMounts | default list)) -}}
{{- toYaml $container -}}
{{- end }}
