{{/* Argument: root. Non-empty where PodSecurityPolicies are wanted and the cluster has them. */}}
{{- define "metallb.pspEnabled" -}}
{{- if and .Values.psp.create (.Capabilities.APIVersions.Has "policy/v1beta1/PodSecurityPolicy") -}}true{{- end -}}
{{- end -}}
