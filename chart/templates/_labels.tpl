{{/* Labels and annotations. Selectors are immutable in a cluster: they carry the original's three labels, nothing else. */}}

{{/* Argument: {root, component}. What selects the pods of a component. */}}
{{- define "metallb.selectorLabels" -}}
app.kubernetes.io/name: {{ include "metallb.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Argument: {root, component?, extra?}. Labels of an object. */}}
{{- define "metallb.labels" -}}
{{- $fixed := include "metallb.selectorLabels" . | fromYaml -}}
{{- $_ := set $fixed "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $fixed "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $fixed "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- toYaml (merge $fixed (deepCopy (.extra | default dict)) (.root.Values.commonLabels | default dict)) -}}
{{- end -}}

{{/* Argument: {root, component, extra?}. Labels of a pod: no version, so that a chart upgrade alone restarts nothing. */}}
{{- define "metallb.podLabels" -}}
{{- $fixed := include "metallb.selectorLabels" . | fromYaml -}}
{{- toYaml (merge $fixed (deepCopy (.extra | default dict)) (.root.Values.commonLabels | default dict)) -}}
{{- end -}}

{{/* Argument: {root, extra?, hook?}. The annotations block of an object, nothing when there are none. */}}
{{- define "metallb.annotations" -}}
{{- with merge (dict) (.hook | default dict) (deepCopy (.extra | default dict)) (.root.Values.commonAnnotations | default dict) -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}
