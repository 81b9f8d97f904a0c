{{/* Parts of what Helm prints after an installation. */}}

{{/* Argument: {n, what}. "1 peer", "2 peers". */}}
{{- define "metallb.notes.count" -}}
{{ .n }} {{ .what }}{{ if ne (int .n) 1 }}s{{ end }}
{{- end -}}

{{/* Argument: root. What must still be done or cannot work: one paragraph each, nothing when there are none. */}}
{{- define "metallb.notes.missing" -}}
{{- $local := list -}}
{{- range $component := list "controller" "speaker" -}}
{{- $image := include "metallb.image" (dict "root" $ "component" $component) -}}
{{- if and (index $.Values $component).enabled (hasPrefix "localhost/" $image) -}}{{- $local = append $local $image -}}{{- end -}}
{{- end -}}
{{- if $local }}

Pods cannot start before their images are on every node, since no registry has them:
{{- range $local }}
  {{ . }}
{{- end }}
Load them there, or push them to a registry of yours and set global.imageRegistry to it.
{{- end }}
{{- if not .Values.controller.enabled }}

The controller is off (controller.enabled): no Service gets an address.
{{- end }}
{{- if not .Values.speaker.enabled }}

The speakers are off (speaker.enabled): nobody announces the addresses that Services get.
{{- end }}
{{- end -}}

{{/* What it says about values that no longer mean what they say: one paragraph each, nothing when there are none. */}}
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
