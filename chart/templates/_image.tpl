{{/* Which image runs, and how it is pulled. Argument everywhere: {root, component}, component controller or speaker. */}}

{{/* Argument: component. The repository of our image; `make package` puts the registry of a release in here. */}}
{{- define "metallb.image.default" -}}
localhost/metallb/{{ . }}
{{- end -}}

{{/* Non-empty when the values name the original's image. It has other flags and containers, so it means "the default":
     many people copied all of the original's default values into a file of theirs. A bare metallb/controller is the
     original's on Docker Hub; with a registry of the user's it is what that registry has. */}}
{{- define "metallb.image.isOriginal" -}}
{{- $repository := (index .root.Values .component).image.repository | default "" -}}
{{- $named := regexMatch `^(.*/)?(quay\.io|docker\.io)/metallb/(controller|speaker)$` $repository -}}
{{- $bare := regexMatch `^metallb/(controller|speaker)$` $repository -}}
{{- if or $named (and $bare (empty .root.Values.global.imageRegistry)) -}}true{{- end -}}
{{- end -}}

{{/* Non-empty when the tag is one of the original's: our versions begin with 1. In a repository of the user's own,
     whatever tag there is means what the user made it. */}}
{{- define "metallb.image.isOriginalTag" -}}
{{- $image := (index .root.Values .component).image -}}
{{- $old := regexMatch `^v0\.[0-9]+(\.[0-9]+)?$` (toString ($image.tag | default "")) -}}
{{- $known := list "" (include "metallb.image.default" .component) (printf "metallb/%s" .component) -}}
{{- if or (include "metallb.image.isOriginal" .) (and $old (has ($image.repository | default "") $known)) -}}true{{- end -}}
{{- end -}}

{{- define "metallb.image.tag" -}}
{{- $image := (index .root.Values .component).image -}}
{{- if include "metallb.image.isOriginalTag" . -}}
{{- .root.Chart.AppVersion -}}
{{- else -}}
{{- $image.tag | default .root.Chart.AppVersion -}}
{{- end -}}
{{- end -}}

{{- define "metallb.image" -}}
{{- $image := (index .root.Values .component).image -}}
{{- $original := include "metallb.image.isOriginal" . -}}
{{- $repository := ternary (include "metallb.image.default" .component) $image.repository (or (ne $original "") (empty $image.repository)) -}}
{{- with .root.Values.global.imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- $first := first $parts -}}
{{- if and (gt (len $parts) 1) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- $repository = join "/" (rest $parts) -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if and $image.digest (not $original) -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (include "metallb.image.tag" .) -}}
{{- end -}}
{{- end -}}

{{/* What Kubernetes itself would choose, written out. */}}
{{- define "metallb.image.pullPolicy" -}}
{{- $image := (index .root.Values .component).image -}}
{{- $moving := and (eq (include "metallb.image.tag" .) "latest") (empty $image.digest) -}}
{{- $image.pullPolicy | default (ternary "Always" "IfNotPresent" $moving) -}}
{{- end -}}

{{/* Argument: root. The pull secrets of both lists as YAML, each once; a bare name is taken as well. */}}
{{- define "metallb.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (.Values.global.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) -}}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- with $secrets | uniq }}{{ toYaml . }}{{ end -}}
{{- end -}}
