{{/* What NOTES says about values that no longer mean what they say: one paragraph each, nothing when there are none. */}}
{{- define "metallb.notes.accepted" -}}
{{- range $component := list "controller" "speaker" }}
{{- $argument := dict "root" $ "component" $component }}
{{- $image := (index $.Values $component).image }}
{{- if include "metallb.image.isOriginal" $argument }}
- {{ $component }}.image.repository {{ $image.repository | quote }} is MetalLB's own image; it would not work under this chart, so
  {{ include "metallb.image" $argument }} runs instead. Remove repository and tag from your values.
{{- else if include "metallb.image.isOriginalTag" $argument }}
- {{ $component }}.image.tag {{ $image.tag | quote }} is a version of MetalLB's own image, so {{ include "metallb.image" $argument }} runs
  instead. Remove the tag from your values.
{{- end }}
{{- end }}
{{- if (.Values.speaker.frr | default dict).enabled }}
- speaker.frr.enabled has no effect: this speaker itself does what FRR was there for (IPv6 routes, BFD, timers).
  There is no FRR container, and no metrics port 7473.
{{- end }}
{{- if and .Values.configInline .Values.existingConfigMap }}
- Both existingConfigMap and configInline are set: configInline was rendered as ConfigMap {{ .Values.existingConfigMap | quote }}.
{{- end }}
{{- if and .Values.prometheus.podMonitor.enabled (or (empty .Values.prometheus.serviceAccount) (empty .Values.prometheus.namespace)) }}
- prometheus.serviceAccount or prometheus.namespace is empty: no Role was made. If Prometheus may not list pods in
  namespace {{ .Release.Namespace }}, it will not find the targets.
{{- end }}
{{- end -}}
