{{/* Arithmetic on addresses. An address is a string of hexadecimal digits of fixed width, 8 for IPv4 and 32 for IPv6:
     such strings sort and compare as the addresses do. Arguments have passed the schema's patterns. */}}

{{/* Argument: an address as text. Its digits; an IPv4-mapped IPv6 address counts as IPv4. */}}
{{- define "metallb.net.hex" -}}
{{- if contains ":" . -}}
{{- $text := . -}}
{{- /* A tail in IPv4 form becomes two groups. */ -}}
{{- if contains "." $text -}}
{{- $tail := regexFind `[0-9.]+$` $text -}}
{{- $digits := include "metallb.net.hex" $tail -}}
{{- $text = printf "%s%s:%s" (trimSuffix $tail $text) (substr 0 4 $digits) (substr 4 8 $digits) -}}
{{- end -}}
{{- $halves := splitList "::" $text -}}
{{- $left := compact (splitList ":" (index $halves 0)) -}}
{{- $right := list -}}
{{- if gt (len $halves) 1 -}}
{{- $right = compact (splitList ":" (index $halves 1)) -}}
{{- end -}}
{{- $groups := $left -}}
{{- range until (int (max 0 (sub (sub 8 (len $left)) (len $right)))) -}}
{{- $groups = append $groups "0" -}}
{{- end -}}
{{- $digits := "" -}}
{{- range concat $groups $right -}}
{{- $digits = printf "%s%04x" $digits (int64 (printf "0x%s" .)) -}}
{{- end -}}
{{- regexReplaceAll `^0{20}ffff([0-9a-f]{8})$` $digits "${1}" -}}
{{- else -}}
{{- range splitList "." . -}}
{{- printf "%02x" (atoi .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Argument: digits. The address as it is usually written, IPv6 as in RFC 5952: what a peer without a name is named. */}}
{{- define "metallb.net.text" -}}
{{- if eq (len .) 8 -}}
{{- $octets := list -}}
{{- range regexFindAll `..` . -1 -}}{{- $octets = append $octets (int64 (printf "0x%s" .)) -}}{{- end -}}
{{- join "." $octets -}}
{{- else -}}
{{- $text := regexReplaceAll `(^|:)0{1,3}` (regexFindAll `....` . -1 | join ":") "${1}" -}}
{{- /* The longest run of zeros, the first of equally long ones; a single zero stays. */ -}}
{{- range $more := list 7 6 5 4 3 2 1 -}}
{{- if not (contains "::" $text) -}}
{{- $text = regexSplit (printf `(^|:)0(:0){%d}(:|$)` $more) $text 2 | join "::" -}}
{{- end -}}
{{- end -}}
{{- $text -}}
{{- end -}}
{{- end -}}

{{/* Argument: {hex, prefix}. "LOW HIGH": the first and last address of the network of that prefix length. */}}
{{- define "metallb.net.network" -}}
{{- $low := "" -}}
{{- $high := "" -}}
{{- $prefix := .prefix -}}
{{- range $i, $group := regexFindAll `[0-9a-f]{4}` .hex -1 -}}
{{- $bits := min 16 (max 0 (sub $prefix (mul 16 $i))) | int -}}
{{- $size := index (list 65536 32768 16384 8192 4096 2048 1024 512 256 128 64 32 16 8 4 2 1) $bits -}}
{{- $value := int64 (printf "0x%s" $group) -}}
{{- $first := sub $value (mod $value $size) -}}
{{- $low = printf "%s%04x" $low $first -}}
{{- $high = printf "%s%04x" $high (sub (add $first $size) 1) -}}
{{- end -}}
{{- printf "%s %s" $low $high -}}
{{- end -}}

{{/* Argument: an entry of a pool, a CIDR or a range. "LOW HIGH". */}}
{{- define "metallb.net.bounds" -}}
{{- if contains "/" . -}}
{{- $parts := splitList "/" . -}}
{{- $hex := include "metallb.net.hex" (index $parts 0) -}}
{{- $prefix := index $parts 1 | trimAll " \t" | atoi -}}
{{- if and (contains ":" .) (eq (len $hex) 8) -}}
{{- $prefix = sub $prefix 96 -}}
{{- end -}}
{{- include "metallb.net.network" (dict "hex" $hex "prefix" $prefix) -}}
{{- else -}}
{{- $parts := splitList "-" . -}}
{{- printf "%s %s" (include "metallb.net.hex" (index $parts 0 | trimAll " \t")) (include "metallb.net.hex" (index $parts 1 | trimAll " \t")) -}}
{{- end -}}
{{- end -}}

{{/* Argument: an entry of a pool. Non-empty when it is a CIDR of IPv4-mapped addresses and of others beside them. */}}
{{- define "metallb.net.tooShort" -}}
{{- if contains "/" . -}}
{{- $parts := splitList "/" . -}}
{{- $mapped := and (contains ":" .) (eq (len (include "metallb.net.hex" (index $parts 0))) 8) -}}
{{- if and $mapped (lt (index $parts 1 | trimAll " \t" | atoi) 96) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Argument: hexadecimal digits. The same number in binary digits. */}}
{{- define "metallb.net.binary" -}}
{{- $nibbles := dict "0" "0000" "1" "0001" "2" "0010" "3" "0011" "4" "0100" "5" "0101" "6" "0110" "7" "0111" "8" "1000" "9" "1001" "a" "1010" "b" "1011" "c" "1100" "d" "1101" "e" "1110" "f" "1111" -}}
{{- range splitList "" . -}}{{- get $nibbles . -}}{{- end -}}
{{- end -}}

{{/* Argument: {low, high} as digits. The prefix length of the largest network that fits between both.
     Below the bits that both share, low goes on with 0 and high with 1: the largest network ends at that boundary
     or begins there, and its size is told by how far low is all ones, and high all zeros, from there. */}}
{{- define "metallb.net.shortestPrefix" -}}
{{- $low := include "metallb.net.binary" .low -}}
{{- $high := include "metallb.net.binary" .high -}}
{{- $shared := len $low -}}
{{- range $i := until (len $low) -}}
{{- if and (eq $shared (len $low)) (ne (substr $i (int (add $i 1)) $low) (substr $i (int (add $i 1)) $high)) -}}
{{- $shared = $i -}}
{{- end -}}
{{- end -}}
{{- $lowRest := substr $shared -1 $low -}}
{{- $highRest := substr $shared -1 $high -}}
{{- if and (regexMatch `^0*$` $lowRest) (regexMatch `^1*$` $highRest) -}}
{{- $shared -}}
{{- else -}}
{{- $start := int (add $shared 1) -}}
{{- $lowRest = substr $start -1 $low -}}
{{- $highRest = substr $start -1 $high -}}
{{- $below := add $start (len (regexFind `^1*` $lowRest)) (ternary 0 1 (regexMatch `^1*0*$` $lowRest)) -}}
{{- $above := add $start (len (regexFind `^0*` $highRest)) (ternary 0 1 (regexMatch `^0*1*$` $highRest)) -}}
{{- min $below $above -}}
{{- end -}}
{{- end -}}
