{{/* The configuration document as it is rendered: what the user wrote, but for passwords, which go into a Secret. */}}

{{/* Argument: root. The peers' list of configInline, always a list. */}}
{{- define "metallb.config.peers" -}}
{{- $peers := list -}}
{{- range (get (.Values.configInline | default dict) "peers") | default list -}}
{{- if kindIs "map" . }}{{ $peers = append $peers . }}{{ end -}}
{{- end -}}
{{- toYaml $peers -}}
{{- end -}}

{{/* Argument: root. JSON {document, passwords, secrets}: the document without passwords, the passwords by their key in
     our Secret, and the names of all Secrets that peers refer to. */}}
{{- define "metallb.config.split" -}}
{{- $root := . -}}
{{- $document := deepCopy (.Values.configInline | default dict) -}}
{{- $own := include "metallb.peerSecretName" . -}}
{{- $passwords := dict -}}
{{- $secrets := list -}}
{{- range $peer := (get $document "peers") | default list -}}
{{- if kindIs "map" $peer -}}
{{- $password := get $peer "password" -}}
{{- if $password -}}
{{- /* The key tells the peer, not the password, and does not depend on the order of the list. */ -}}
{{- $stem := get $peer "name" | default (get $peer "peer-address") | toString | replace ":" "-" -}}
{{- $stem = regexReplaceAll `[^-._a-zA-Z0-9]` $stem "_" | trunc 200 | default "peer" -}}
{{- $key := $stem -}}
{{- range until 1000 -}}
{{- if hasKey $passwords $key -}}{{- $key = printf "%s-%d" $stem (add . 2) -}}{{- end -}}
{{- end -}}
{{- $_ := set $passwords $key (toString $password) -}}
{{- $_ := unset $peer "password" -}}
{{- $_ := set $peer "password-secret" (dict "name" $own "key" $key) -}}
{{- end -}}
{{- $reference := get $peer "password-secret" -}}
{{- if kindIs "map" $reference -}}
{{- with get $reference "name" -}}{{- $secrets = append $secrets . -}}{{- end -}}
{{- else if $reference -}}
{{- $secrets = append $secrets (toString $reference) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $secrets = concat $secrets ($root.Values.peerPasswordSecrets | default list) | uniq | sortAlpha -}}
{{- toJson (dict "document" $document "passwords" $passwords "secrets" $secrets) -}}
{{- end -}}

{{/* Argument: root. Non-empty when the announcer must be able to accept BGP connections. */}}
{{- define "metallb.config.listens" -}}
{{- $listens := .Values.speaker.bgpListen -}}
{{- range include "metallb.config.peers" . | fromYamlArray -}}
{{- if eq (toString (get . "listen")) "true" -}}{{- $listens = true -}}{{- end -}}
{{- end -}}
{{- if $listens -}}true{{- end -}}
{{- end -}}

{{/* Argument: a duration as a user writes it, text or a number of seconds. */}}
{{- define "metallb.duration" -}}
{{- if kindIs "string" . -}}{{- . -}}{{- else -}}{{- printf "%ds" (int64 .) -}}{{- end -}}
{{- end -}}
