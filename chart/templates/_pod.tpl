{{/* Parts of a pod that controller and speaker share. Fields that Kubernetes would default are written out, so that a
     comparison of the rendered with the live object stays empty. */}}

{{/* Argument: {root, extra}. The pod's annotations block, nothing when there are none. */}}
{{- define "metallb.pod.annotations" -}}
{{- $annotations := deepCopy (.extra | default dict) -}}
{{- if .root.Values.prometheus.scrapeAnnotations -}}
{{- $annotations = merge $annotations (dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .root.Values.prometheus.metricsPort)) -}}
{{- end -}}
{{- with $annotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* Argument: {root, values}. Where the pod may run, and what else the pod asks of the cluster. */}}
{{- define "metallb.pod.placement" -}}
{{- $pullSecrets := include "metallb.imagePullSecrets" .root -}}
{{- with $pullSecrets -}}
imagePullSecrets:
  {{- . | nindent 2 }}
{{ end -}}
nodeSelector:
  {{- toYaml (merge (dict "kubernetes.io/os" "linux") (deepCopy (.values.nodeSelector | default dict))) | nindent 2 }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Argument: how pods are replaced. The same; the steps of a rolling update are refused beside every other type. */}}
{{- define "metallb.pod.strategy" -}}
{{- toYaml (ternary . (omit . "rollingUpdate") (eq (.type | default "RollingUpdate") "RollingUpdate")) -}}
{{- end -}}

{{/* Argument: {root, component, constraints}. The constraints; one without a selector, which would count no pod, counts
     those of the component. */}}
{{- define "metallb.pod.spread" -}}
{{- $labels := include "metallb.selectorLabels" . -}}
{{- $constraints := list -}}
{{- range .constraints -}}
{{- $constraint := omit . "labelSelector" -}}
{{- $selector := .labelSelector -}}
{{- if kindIs "invalid" $selector }}{{ $selector = dict "matchLabels" (fromYaml $labels) }}{{ end -}}
{{- $constraints = append $constraints (set $constraint "labelSelector" $selector) -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}

{{/* Argument: {probe, path}. One probe of the metrics port. */}}
{{- define "metallb.pod.probe" -}}
httpGet:
  path: {{ .path }}
  port: monitoring
  scheme: HTTP
{{- with .probe.initialDelaySeconds }}
initialDelaySeconds: {{ . }}
{{- end }}
periodSeconds: {{ .probe.periodSeconds }}
timeoutSeconds: {{ .probe.timeoutSeconds }}
successThreshold: {{ .probe.successThreshold }}
failureThreshold: {{ .probe.failureThreshold }}
{{- end -}}

{{/* Argument: a component's values. Its probes, as far as they are on. */}}
{{- define "metallb.pod.probes" -}}
{{- range $name, $path := dict "startupProbe" "/livez" "livenessProbe" "/livez" "readinessProbe" "/readyz" }}
{{- with get $ $name }}
{{- if .enabled }}
{{ $name }}:
  {{- include "metallb.pod.probe" (dict "probe" . "path" $path) | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Argument: {name, path}. An environment variable from a field of the pod. */}}
{{- define "metallb.pod.fieldEnv" -}}
- name: {{ .name }}
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: {{ .path }}
{{- end -}}
