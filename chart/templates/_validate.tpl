{{/* Refusals that no schema can express: what one key says about another. Each helper gives lines "PATH: REASON (FIX)",
     one for each error. The processes check the same again, whatever way a configuration reaches them. */}}

{{/* Argument: {root}. Every error there is. */}}
{{- define "metallb.validate" -}}
{{- include "metallb.validate.names" . -}}
{{- include "metallb.validate.ranges" . -}}
{{- include "metallb.validate.advertisements" . -}}
{{- include "metallb.validate.peers" . -}}
{{- include "metallb.validate.disruption" . -}}
{{- include "metallb.validate.objects" . -}}
{{- include "metallb.validate.values" . -}}
{{- end -}}

{{/* Names are unique, each in its list. */}}
{{- define "metallb.validate.names" -}}
{{- $config := .root.Values.configInline | default dict -}}
{{- range $list, $what := dict "address-pools" "pool" "bfd-profiles" "bfd profile" "peers" "peer" -}}
{{- $seen := dict -}}
{{- range $i, $entry := get $config $list | default list -}}
{{- with get $entry "name" }}
{{- if hasKey $seen . }}
configInline.{{ $list }}[{{ $i }}].name: duplicate definition of {{ $what }} {{ . | quote }} (it is also {{ $list }}[{{ get $seen . }}]; give each its own name)
{{- else }}
{{- $_ := set $seen . $i }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Ranges run from low to high and do not overlap, whichever pool they are in. Sorted first: n log n. */}}
{{- define "metallb.validate.ranges" -}}
{{- $bounds := list -}}
{{- range $p, $pool := get (.root.Values.configInline | default dict) "address-pools" | default list -}}
{{- range $key := list "addresses" "exclude-addresses" -}}
{{- range $a, $entry := get $pool $key | default list -}}
{{- $where := printf "configInline.address-pools[%d].%s[%d]" $p $key $a -}}
{{- $ends := splitList " " (include "metallb.net.bounds" $entry) -}}
{{- if include "metallb.net.tooShort" $entry }}
{{ $where }}: the prefix length of {{ $entry | quote }} is less than 96, so that it holds more than the IPv4-mapped addresses (write the IPv4 network)
{{- else if ne (len (index $ends 0)) (len (index $ends 1)) }}
{{ $where }}: {{ $entry | quote }} mixes an IPv4 and an IPv6 address (write one range for each family)
{{- else if gt (index $ends 0) (index $ends 1) }}
{{- $halves := splitList "-" $entry }}
{{ $where }}: the start of {{ $entry | quote }} is after its end (write {{ index $halves 1 | trimAll " \t" }}-{{ index $halves 0 | trimAll " \t" }})
{{- else if eq $key "addresses" }}
{{- $bounds = append $bounds (printf "%d|%s|%s|%06d.%06d|%s|%s" (len (index $ends 0)) (index $ends 0) (index $ends 1) $p $a $where $entry) }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $last := list "" "" "" "" "" "" -}}
{{- range sortAlpha $bounds -}}
{{- $this := splitList "|" . -}}
{{- if eq (index $this 0) (index $last 0) -}}
{{- if le (index $this 1) (index $last 2) }}
{{- /* The one that comes later in the document is blamed. */}}
{{- $new := ternary $this $last (gt (index $this 3) (index $last 3)) }}
{{- $old := ternary $last $this (gt (index $this 3) (index $last 3)) }}
{{ index $new 4 }}: {{ index $new 5 | quote }} overlaps with {{ index $old 5 | quote }} (that is {{ index $old 4 | trimPrefix "configInline." }}: an address belongs to one entry of one pool)
{{- end -}}
{{- if gt (index $this 2) (index $last 2) }}{{ $last = $this }}{{ end -}}
{{- else -}}
{{- $last = $this -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Advertisements fit their pool's protocol and addresses, and what they name is there. */}}
{{- define "metallb.validate.advertisements" -}}
{{- $config := .root.Values.configInline | default dict -}}
{{- $aliases := get $config "bgp-communities" | default dict -}}
{{- $peerNames := include "metallb.validate.peerNames" . | fromJsonArray -}}
{{- $wellKnown := list "graceful-shutdown" "accept-own" "blackhole" "llgr-stale" "no-llgr" "no-export" "no-advertise" "no-export-subconfed" "no-peer" -}}
{{- range $p, $pool := get $config "address-pools" | default list -}}
{{- $where := printf "configInline.address-pools[%d]" $p -}}
{{- if and (eq (get $pool "protocol") "layer2") (get $pool "bgp-advertisements") }}
{{ $where }}.bgp-advertisements: cannot have bgp-advertisements in a layer2 address pool (remove them, or set protocol: bgp)
{{- end }}
{{- if and (eq (get $pool "protocol") "bgp") (get $pool "l2-advertisements") }}
{{ $where }}.l2-advertisements: cannot have l2-advertisements in a bgp address pool (remove them, or set protocol: layer2)
{{- end }}
{{- if and (eq (get $pool "protocol") "bgp") (get $pool "l2-spread") }}
{{ $where }}.l2-spread: cannot have l2-spread in a bgp address pool (remove it, or set protocol: layer2)
{{- end }}
{{- include "metallb.validate.merged" (dict "pool" $pool "where" $where "aliases" $aliases) }}
{{- range $a, $advertisement := get $pool "bgp-advertisements" | default list -}}
{{- $here := printf "%s.bgp-advertisements[%d]" $where $a -}}
{{- range $key, $width := dict "aggregation-length" 8 "aggregation-length-v6" 32 -}}
{{- $length := get $advertisement $key -}}
{{- if and (hasKey $advertisement $key) (not (kindIs "invalid" $length)) -}}
{{- range $entry := get $pool "addresses" -}}
{{- $ends := splitList " " (include "metallb.net.bounds" $entry) -}}
{{- $low := index $ends 0 -}}
{{- $high := index $ends 1 -}}
{{- if and (eq (len $low) $width) (eq (len $high) $width) (le $low $high) -}}
{{- $shortest := include "metallb.net.shortestPrefix" (dict "low" $low "high" $high) | atoi -}}
{{- if lt (int $length) $shortest }}
{{ $here }}.{{ $key }}: {{ int $length }} is shorter than the prefix length {{ $shortest }} of {{ $entry | quote }}: its route would cover addresses that are not in the pool (write {{ $shortest }} or more)
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $c, $community := get $advertisement "communities" | default list -}}
{{- if not (or (hasKey $aliases $community) (has $community $wellKnown) (regexMatch `^([0-9]+:[0-9]+|large:[0-9]+:[0-9]+:[0-9]+)$` $community)) }}
{{ $here }}.communities[{{ $c }}]: community {{ $community | quote }} is not defined (add it to bgp-communities{{ with keys $aliases | sortAlpha }}, which has {{ join ", " . }}{{ end }})
{{- end -}}
{{- end -}}
{{- range $n, $name := get $advertisement "peers" | default list -}}
{{- if not (has $name $peerNames) }}
{{ $here }}.peers[{{ $n }}]: no peer is named {{ $name | quote }} (the names of peers are {{ join ", " $peerNames | default "none yet" }})
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Arguments: a pool, where it is, the aliases. Advertisements that come to one route have its communities together. */}}
{{- define "metallb.validate.merged" -}}
{{- $aliases := .aliases -}}
{{- $where := .where -}}
{{- $all := get .pool "bgp-advertisements" | default list -}}
{{- $receivers := list "" -}}{{/* "": any peer that none of them names */}}
{{- $count := 0 -}}
{{- range $all -}}
{{- $receivers = concat $receivers (get . "peers" | default list) -}}
{{- $count = add $count (len (get . "communities" | default list)) -}}
{{- end -}}
{{- if gt (int $count) 300 -}}
{{- $said := false -}}
{{- range $receiver := uniq $receivers -}}
{{- range $key, $length := dict "aggregation-length" 32 "aggregation-length-v6" 128 -}}
{{- $together := dict -}}
{{- range $a, $advertisement := $all -}}
{{- $peers := get $advertisement "peers" | default list -}}
{{- if or (empty $peers) (has $receiver $peers) -}}
{{- $given := get $advertisement $key -}}
{{- $prefix := ternary $length $given (or (not (hasKey $advertisement $key)) (kindIs "invalid" $given)) | int | toString -}}
{{- $merged := get $together $prefix | default list -}}
{{- range get $advertisement "communities" | default list -}}
{{- $merged = append $merged (get $aliases . | default .) -}}
{{- end -}}
{{- $merged = uniq $merged -}}
{{- $_ := set $together $prefix $merged -}}
{{- if and (gt (len $merged) 300) (not $said) -}}
{{- $said = true }}
{{ $where }}.bgp-advertisements[{{ $a }}].communities: with those of the advertisements before it a route may have {{ len $merged }} communities: more than 300 do not fit into one BGP message (list fewer, or give the advertisements different peers or aggregation lengths)
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* JSON list of the peers' names: given, or made of the address, then of address and port, then numbered. */}}
{{- define "metallb.validate.peerNames" -}}
{{- $peers := get (.root.Values.configInline | default dict) "peers" | default list -}}
{{- $names := list -}}
{{- range $peers -}}
{{- with get . "name" -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- range $peer := $peers -}}
{{- if not (get $peer "name") -}}
{{- $address := include "metallb.net.hex" (get $peer "peer-address") | include "metallb.net.text" -}}
{{- $name := $address -}}
{{- if has $name $names -}}
{{- $name = printf (ternary "[%s]:%d" "%s:%d" (contains ":" $address)) $address (int (get $peer "peer-port" | default 179)) -}}
{{- end -}}
{{- $base := $name -}}
{{- range $number := untilStep 2 (int (add 3 (len $peers))) 1 -}}
{{- if has $name $names -}}{{- $name = printf "%s#%d" $base $number -}}{{- end -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* Argument: a duration as Go writes it. Milliseconds, as a number in text: no more than an integer holds. */}}
{{- define "metallb.validate.milliseconds" -}}
{{- $factors := dict "ns" 0.000001 "us" 0.001 "µs" 0.001 "μs" 0.001 "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll `[0-9.]+(ns|us|µs|μs|ms|s|m|h)` . -1 -}}
{{- $unit := regexFind `[^0-9.]+$` . -}}
{{- $number := trimSuffix $unit . -}}
{{- /* More digits than these, and float64 would say 0 at last. */ -}}
{{- if regexMatch `^0*[1-9][0-9]{17}` $number }}{{ $number = "1e18" }}{{ end -}}
{{- $sum = addf $sum (mulf (float64 $number) (get $factors $unit)) -}}
{{- end -}}
{{- minf $sum 1e15 -}}
{{- end -}}

{{/* Argument: a duration. Whole seconds, as a number in text. */}}
{{- define "metallb.validate.seconds" -}}
{{- div (include "metallb.validate.milliseconds" . | float64 | int64) 1000 -}}
{{- end -}}

{{/* Argument: a list of selectors. JSON of the requirements of each, the same however they are written. */}}
{{- define "metallb.validate.selectors" -}}
{{- $selectors := list -}}
{{- range . -}}
{{- $requirements := list -}}
{{- range $label, $value := get . "match-labels" | default dict -}}
{{- $requirements = append $requirements (toJson (list $label "In" (list (default "" $value)))) -}}
{{- end -}}
{{- range get . "match-expressions" | default list -}}
{{- $values := list -}}
{{- range get . "values" | default list }}{{ $values = append $values (default "" .) }}{{ end -}}
{{- $requirements = append $requirements (toJson (list (get . "key") (get . "operator") ($values | uniq | sortAlpha))) -}}
{{- end -}}
{{- $selectors = append $selectors (sortAlpha $requirements) -}}
{{- end -}}
{{- toJson $selectors -}}
{{- end -}}

{{/* Argument: a peer. What it says but for its name, the same however addresses, times and defaults are written. */}}
{{- define "metallb.validate.meaning" -}}
{{- $meaning := dict -}}
{{- range $key, $value := omit . "name" "graceful-restart" -}}
{{- if $value }}{{ $_ := set $meaning $key $value }}{{ end -}}
{{- end -}}
{{- range $key := list "peer-address" "source-address" "router-id" -}}
{{- with get $meaning $key }}{{ $_ := set $meaning $key (include "metallb.net.hex" .) }}{{ end -}}
{{- end -}}
{{- $_ := set $meaning "peer-port" (int (get $meaning "peer-port" | default 179)) -}}
{{- $hold := include "metallb.validate.seconds" (get $meaning "hold-time" | default "90s") | int64 -}}
{{- $third := ternary (max 1 (div $hold 3)) 0 (gt $hold 0) -}}
{{- $_ := set $meaning "hold-time" $hold -}}
{{- $_ := set $meaning "keepalive-time" (include "metallb.validate.seconds" (get $meaning "keepalive-time") | int64 | default $third) -}}
{{- with get $meaning "connect-time" }}{{ $_ := set $meaning "connect-time" (include "metallb.validate.seconds" .) }}{{ end -}}
{{- with get $meaning "password-secret" -}}
{{- $_ := set $meaning "password-secret" (dict "name" (get . "name") "key" (get . "key" | default "password")) -}}
{{- end -}}
{{- with get $meaning "node-selectors" }}{{ $_ := set $meaning "node-selectors" (include "metallb.validate.selectors" .) }}{{ end -}}
{{- with get $meaning "address-families" }}{{ $_ := set $meaning "address-families" (sortAlpha .) }}{{ end -}}
{{- $restart := get . "graceful-restart" -}}
{{- $time := "15s" -}}
{{- if kindIs "map" $restart -}}
{{- $time = get $restart "restart-time" | default $time -}}
{{- $restart = ne (toString (get $restart "enabled")) "false" -}}
{{- end -}}
{{- $_ := set $meaning "graceful-restart" (list (ternary true false (not (empty $restart))) (include "metallb.validate.seconds" $time)) -}}
{{- toJson $meaning -}}
{{- end -}}

{{/* Peers: timers agree with each other, and options with the kind of peer. */}}
{{- define "metallb.validate.peers" -}}
{{- $config := .root.Values.configInline | default dict -}}
{{- $profiles := list -}}
{{- range get $config "bfd-profiles" | default list -}}
{{- $profiles = append $profiles (get . "name") -}}
{{- end -}}
{{- $seen := dict -}}
{{- $listening := dict -}}
{{- range $i, $peer := get $config "peers" | default list -}}
{{- $where := printf "configInline.peers[%d]" $i -}}
{{- $whole := include "metallb.validate.meaning" $peer -}}
{{- if hasKey $seen $whole }}
{{ $where }}: peer #{{ add $i 1 }} already exists (it is the same as peers[{{ get $seen $whole }}]; remove one)
{{- else }}
{{- $_ := set $seen $whole $i }}
{{- end }}
{{- if get $peer "listen" }}
{{- $secret := get $peer "password-secret" | default dict }}
{{- $password := toJson (list (get $peer "password" | default "") (get $secret "name" | default "") (get $secret "key" | default "password")) }}
{{- $spot := printf "%s %s" (include "metallb.net.hex" (get $peer "peer-address")) (get $peer "node-selectors" | default list | toJson) }}
{{- if ne $password (get $listening $spot | default $password) }}
{{ $where }}.listen: another peer listens for the same address with another password: the first packet of a call does not tell which of them it is (give both one password, or remove listen from one)
{{- end }}
{{- $_ := set $listening $spot $password }}
{{- end }}
{{- with get $peer "bfd-profile" }}
{{- if not (has . $profiles) }}
{{ $where }}.bfd-profile: there is no BFD profile {{ . | quote }} (add it to bfd-profiles{{ with $profiles }}, which has {{ join ", " . }}{{ end }})
{{- end }}
{{- end }}
{{- /* Whole seconds: that is what the protocol can say (RFC 4271 section 4.2). */}}
{{- $holdText := get $peer "hold-time" | default "90s" }}
{{- $hold := include "metallb.validate.seconds" $holdText | int64 }}
{{- if and (gt $hold 0) (lt $hold 3) }}
{{ $where }}.hold-time: invalid hold time {{ $holdText | quote }}: must be 0 or >=3s (write 3s or more, such as 90s)
{{- else if gt $hold 65535 }}
{{ $where }}.hold-time: invalid hold time {{ $holdText | quote }}: must be at most 65535s (the default is 90s)
{{- end }}
{{- with get $peer "keepalive-time" }}
{{- if gt (include "metallb.validate.seconds" . | int64) $hold }}
{{ $where }}.keepalive-time: {{ . | quote }} is longer than the hold time {{ $holdText | quote }} (a third of the hold time is usual)
{{- end }}
{{- end }}
{{- with get $peer "connect-time" }}
{{- $time := include "metallb.validate.milliseconds" . | float64 }}
{{- if or (lt $time 1000.0) (gt $time 65535000.0) }}
{{ $where }}.connect-time: invalid connect-time {{ . | quote }}: must be 1s to 65535s (such as 10s)
{{- end }}
{{- end }}
{{- $restart := get $peer "graceful-restart" }}
{{- if kindIs "map" $restart }}
{{- with get $restart "restart-time" }}
{{- $time := include "metallb.validate.milliseconds" . | float64 }}
{{- if or (lt $time 1000.0) (gt $time 15000.0) }}
{{ $where }}.graceful-restart.restart-time: invalid restart-time {{ . | quote }}: must be 1s to 15s (such as 10s)
{{- end }}
{{- end }}
{{- end }}
{{- if gt (len (get $peer "password" | default "")) 80 }}
{{ $where }}.password: invalid password: it is longer than 80 bytes (choose a shorter one)
{{- end }}
{{- $internal := or (eq (toString (get $peer "peer-asn")) "internal") (eq (toString (get $peer "peer-asn")) (toString (get $peer "my-asn"))) }}
{{- if and $internal (get $peer "ebgp-multihop") }}
{{ $where }}.ebgp-multihop: the peer is in our own AS: multihop is for eBGP (remove it; iBGP sessions may cross routers anyway)
{{- end }}
{{- if and $internal (get $peer "local-asn") }}
{{ $where }}.local-asn: the peer is in our own AS: local-asn is for eBGP (remove it)
{{- else if and (get $peer "local-asn") (eq (toString (get $peer "local-asn")) (toString (get $peer "peer-asn"))) }}
{{ $where }}.local-asn: it is the peer's own AS, which would make it an iBGP peer (write another, or remove it)
{{- end }}
{{- if and (get $peer "gtsm") (get $peer "ebgp-multihop") }}
{{ $where }}.gtsm: not together with ebgp-multihop: a packet that crossed a router has no TTL of 255 (remove one of both)
{{- end }}
{{- if and (get $peer "password") (get $peer "password-secret") }}
{{ $where }}.password: both password and password-secret are set (keep password-secret)
{{- end }}
{{- end -}}
{{- end -}}

{{/* How pods of the controller are replaced and evicted: somebody must be allowed to go. */}}
{{- define "metallb.validate.disruption" -}}
{{- $controller := .root.Values.controller -}}
{{- $budget := $controller.podDisruptionBudget | default dict -}}
{{- $minimum := $budget.minAvailable -}}
{{- $maximum := $budget.maxUnavailable -}}
{{- if and (not (kindIs "invalid" $minimum)) (not (kindIs "invalid" $maximum)) }}
controller.podDisruptionBudget: minAvailable and maxUnavailable are both set (keep one)
{{- else if and $controller.enabled $budget.enabled (gt (int $controller.replicas) 0) }}
{{- $stay := toString (default 0 $minimum) }}
{{- $kept := int $stay }}
{{- if hasSuffix "%" $stay }}
{{- $kept = div (add (mul (int $controller.replicas) (trimSuffix "%" $stay | int)) 99) 100 }}
{{- end }}
{{- if ge (int $kept) (int $controller.replicas) }}
controller.podDisruptionBudget.minAvailable: {{ $stay }} of {{ int $controller.replicas }} pods must stay: draining their node would never end (raise controller.replicas, or set maxUnavailable: 1 in its place)
{{- else if and (not (kindIs "invalid" $maximum)) (has (toString $maximum) (list "0" "0%")) }}
controller.podDisruptionBudget.maxUnavailable: no pod may ever go: draining its node would never end (set it to 1)
{{- end }}
{{- end }}
{{- $strategy := $controller.strategy | default dict }}
{{- $steps := $strategy.rollingUpdate | default dict }}
{{- $rolls := eq ($strategy.type | default "RollingUpdate") "RollingUpdate" }}
{{- if and $rolls (has (toString $steps.maxSurge) (list "0" "0%")) (has (toString $steps.maxUnavailable) (list "0" "0%")) }}
controller.strategy.rollingUpdate: maxSurge and maxUnavailable are both 0: no pod could be replaced (raise one of them)
{{- end }}
{{- end -}}

{{/* Names that the values give to objects: each belongs to one of its kind. */}}
{{- define "metallb.validate.objects" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $accepted := include "metallb.acceptedConfigName" $root -}}
{{- $dashboard := printf "%s-dashboard" (include "metallb.fullname" $root) -}}
{{- $theirs := toString $values.existingConfigMap -}}
{{- if eq $theirs $accepted }}
existingConfigMap: {{ $accepted | quote }} is where the controller keeps what it has accepted (choose another name for yours)
{{- else if and $values.prometheus.grafanaDashboard.enabled (eq $theirs $dashboard) }}
existingConfigMap: {{ $dashboard | quote }} is the ConfigMap of the dashboard (choose another name for yours)
{{- end }}
{{- $passwords := include "metallb.peerSecretName" $root -}}
{{- if (include "metallb.config.split" $root | fromJson).passwords -}}
{{- if eq (toString $values.speaker.secretName) $passwords }}
speaker.secretName: {{ $passwords | quote }} is the Secret into which the passwords of configInline are moved (choose another name)
{{- end }}
{{- range $i, $peer := get $values.configInline "peers" }}
{{- if eq (get (get $peer "password-secret" | default dict) "name" | toString) $passwords }}
configInline.peers[{{ $i }}].password-secret.name: {{ $passwords | quote }} is the Secret into which the passwords of other peers are moved (choose another name)
{{- end }}
{{- end }}
{{- end }}
{{- $name := include "metallb.controller.serviceAccountName" $root -}}
{{- if and $values.controller.enabled $values.speaker.enabled $values.controller.serviceAccount.create $values.speaker.serviceAccount.create (eq $name (include "metallb.speaker.serviceAccountName" $root)) }}
speaker.serviceAccount.name: {{ $name | quote }} is the controller's too, and both are to be created (give each its own; or set create: false for one)
{{- end }}
{{- end -}}

{{/* Values that contradict each other. */}}
{{- define "metallb.validate.values" -}}
{{- $values := .root.Values -}}
{{- $name := include "metallb.fullname" .root }}
{{- if not (regexMatch `^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$` $name) }}
{{ ternary "fullnameOverride" "nameOverride" (not (empty $values.fullnameOverride)) }}: {{ $name | quote }} is no name of an object (use lower-case letters, digits and dashes; fullnameOverride takes the place of the whole name)
{{- end }}
{{- if eq (int $values.prometheus.metricsPort) (int $values.speaker.memberlist.mlBindPort) }}
speaker.memberlist.mlBindPort: {{ int $values.speaker.memberlist.mlBindPort }} is prometheus.metricsPort too (the ports are opened on the same host: choose another)
{{- end }}
{{- if and $values.alsoClassless (empty $values.loadBalancerClass) }}
alsoClassless: it says nothing without loadBalancerClass (set loadBalancerClass, or remove it: Services without a class are served then)
{{- end }}
{{- if ($values.speaker.securityContext | default dict).runAsNonRoot }}
speaker.securityContext.runAsNonRoot: the container with the raw sockets is root, without any right but these (remove it; the other container is not root)
{{- end }}
{{- end -}}
