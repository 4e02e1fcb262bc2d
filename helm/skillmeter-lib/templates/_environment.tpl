{{/* What daemon and application have to agree on; the application's part of the environment. */}}
{{- define "skillmeter-lib.appEnvironment" -}}
- name: ANALYTICS_BACKEND
  value: {{ .values.backend | quote }}
- name: ANALYTICS_RUNTIME_DIR
  value: /run/skillmeter
- name: ANALYTICS_SPOOL_DIR
  value: /var/spool/skillmeter
- name: ANALYTICS_SPOOL_MAX_BYTES
  value: {{ .values.spoolMaxBytes | quote }}
- name: ANALYTICS_DURABILITY
  value: {{ .values.durability }}
{{- end }}

{{/* The daemon's environment. Tokens are given as the paths of files. */}}
{{- define "skillmeter-lib.environment" -}}
{{- $extra := dict -}}
{{- range .values.extraEnv }}{{ $_ := set $extra .name true }}{{ end -}}
{{- $env := list -}}
{{- range concat (include "skillmeter-lib.appEnvironment" . | fromYamlArray) (include "skillmeter-lib.settings" . | fromYamlArray) -}}
{{- if not (hasKey $extra .name) }}{{ $env = append $env . }}{{ end -}}
{{- end -}}
{{- toYaml (concat $env .values.extraEnv) -}}
{{- end }}

{{- define "skillmeter-lib.settings" -}}
{{- $v := .values -}}
- name: ANALYTICS_DB_PATH
  value: /var/lib/skillmeter/analytics.db
- name: ANALYTICS_DB_RETENTION_DAYS
  value: {{ int64 $v.retentionDays | quote }}
- name: ANALYTICS_METRIC_LABELS
  value: {{ $v.metricLabels | quote }}
- name: ANALYTICS_MAX_SERIES
  value: {{ int64 $v.maxSeries | quote }}
- name: ANALYTICS_LOG_LEVEL
  value: {{ $v.logLevel }}
- name: PROMETHEUS_HOST
  value: {{ $v.http.host | quote }}
- name: PROMETHEUS_PORT
  value: {{ int64 $v.http.port | quote }}
{{- if $v.otlp.endpoint }}
- name: OTLP_ENDPOINT
  value: {{ $v.otlp.endpoint | quote }}
{{- with $v.otlp.instanceId }}
- name: OTLP_INSTANCE_ID
  value: {{ . | quote }}
{{- end }}
- name: OTLP_PUSH_INTERVAL
  value: {{ $v.otlp.pushInterval | quote }}
- name: OTLP_LOGS
  value: {{ $v.otlp.logs | quote }}
- name: OTLP_SERVICE_NAME
  value: {{ $v.otlp.serviceName | quote }}
{{- end }}
{{- range $variable, $key := include "skillmeter-lib.tokens" . | fromYaml }}
- name: {{ $variable }}_FILE
  value: /etc/skillmeter/tokens/{{ $variable }}
{{- end }}
{{- end }}

{{/* Variables of tokens, each with its key in the Secret. */}}
{{- define "skillmeter-lib.tokens" -}}
{{- with .values.tokens.httpToken }}
ANALYTICS_HTTP_TOKEN: {{ . | quote }}
{{- end }}
{{- with .values.tokens.otlpToken }}
OTLP_TOKEN: {{ . | quote }}
{{- end }}
{{- with .values.tokens.wandbApiKey }}
WANDB_API_KEY: {{ . | quote }}
{{- end }}
{{- end }}
