{{/* Names of everything. They are the original chart's, so that an upgrade from it happens in place. */}}

{{/* The chart's name, or what the user calls it: the label app.kubernetes.io/name. */}}
{{- define "metallb.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The stem of every name: the override, or the release's name, with the chart's unless it is in there. */}}
{{- define "metallb.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "metallb.controller.fullname" -}}
{{- printf "%s-controller" (include "metallb.fullname" .) -}}
{{- end -}}

{{- define "metallb.speaker.fullname" -}}
{{- printf "%s-speaker" (include "metallb.fullname" .) -}}
{{- end -}}

{{- define "metallb.controller.serviceAccountName" -}}
{{- $account := .Values.controller.serviceAccount -}}
{{- $account.name | default (and $account.create (include "metallb.controller.fullname" .)) | default "default" -}}
{{- end -}}

{{- define "metallb.speaker.serviceAccountName" -}}
{{- $account := .Values.speaker.serviceAccount -}}
{{- $account.name | default (and $account.create (include "metallb.speaker.fullname" .)) | default "default" -}}
{{- end -}}

{{/* Argument: {root, suffix}. Name of a Service: at most 63 letters, digits and dashes, first a letter (RFC 1035). */}}
{{- define "metallb.serviceName" -}}
{{- $stem := include "metallb.fullname" .root | replace "." "-" -}}
{{- if regexMatch `^[0-9]` $stem }}{{ $stem = printf "lb-%s" $stem }}{{ end -}}
{{- printf "%s-%s" ($stem | trunc (int (sub 62 (len .suffix))) | trimSuffix "-") .suffix -}}
{{- end -}}

{{/* The ConfigMap that the user edits. */}}
{{- define "metallb.configMapName" -}}
{{- .Values.existingConfigMap | default (include "metallb.fullname" .) -}}
{{- end -}}

{{/* The ConfigMap in which the controller keeps what it accepted; speakers follow this one. */}}
{{- define "metallb.acceptedConfigName" -}}
{{- printf "%s-accepted" (include "metallb.fullname" .) -}}
{{- end -}}

{{/* The Secret with the key that authenticates membership; the controller makes it. */}}
{{- define "metallb.memberlistSecretName" -}}
{{- .Values.speaker.secretName | default (printf "%s-memberlist" (include "metallb.fullname" .) | trunc 63 | trimSuffix "-") -}}
{{- end -}}

{{/* The Secret into which passwords of configInline are moved. */}}
{{- define "metallb.peerSecretName" -}}
{{- printf "%s-peer-passwords" (include "metallb.fullname" .) -}}
{{- end -}}

{{/* The Lease by which one controller leads. */}}
{{- define "metallb.leaseName" -}}
{{- include "metallb.controller.fullname" . -}}
{{- end -}}

{{/* Non-empty when speakers watch each other over the network. */}}
{{- define "metallb.memberlistEnabled" -}}
{{- if and .Values.speaker.enabled .Values.speaker.memberlist.enabled -}}true{{- end -}}
{{- end -}}
