{{/* Parts of the objects for Prometheus. */}}

{{/* Argument: {root, monitor}. One endpoint of a PodMonitor or ServiceMonitor: what to scrape, how often. */}}
{{- define "metallb.monitor.endpoint" -}}
port: monitoring
path: /metrics
scheme: http
{{- if not (kindIs "invalid" .monitor.interval) }}
interval: {{ include "metallb.duration" .monitor.interval }}
{{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .monitor.relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Argument: {root, component}. Both kinds of monitor select by the labels of pods and Services. */}}
{{- define "metallb.monitor.selection" -}}
selector:
  matchLabels:
    {{- include "metallb.selectorLabels" . | nindent 4 }}
namespaceSelector:
  matchNames:
    - {{ .root.Release.Namespace | quote }}
{{- end -}}

{{/* Argument: {root, alert, expr, for?, rule, summary, description}. One alert, from its values. */}}
{{- define "metallb.alert" -}}
- alert: {{ .alert }}
  expr: {{ .expr | quote }}
  {{- with .for }}
  for: {{ . }}
  {{- end }}
  {{- with .rule.labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  annotations:
    summary: {{ .summary | quote }}
    description: {{ .description | quote }}
{{- end -}}
