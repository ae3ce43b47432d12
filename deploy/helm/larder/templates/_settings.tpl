{{/* larder.yaml, and the files that it names. What is written here for a Secret names the path that "larder.files" gives it. */}}

{{- define "larder.made" -}}
listen:
  data: 0.0.0.0:8080
  # Beyond metrics, health and the page's own files it answers only who shows a token or a certificate.
  admin: 0.0.0.0:9090
cache:
  dir: /var/lib/larder
catalog:
  files: [/etc/larder/plugins.properties]
admin:
  {{- with .Values.admin.tokenSecret.name }}
  token_file: /etc/larder/admin/token
  {{- end }}
tls:
  {{- range $port, $tls := .Values.tls }}
  {{ $port }}:
    {{- if $tls.secret }}
    certificate: /etc/larder/tls/{{ $port }}/tls.crt
    key: /etc/larder/tls/{{ $port }}/tls.key
    {{- end }}
    {{- if $tls.clientCaSecret.name }}
    client_ca: [/etc/larder/tls/{{ $port }}/client-ca.crt]
    {{- end }}
  {{- end }}
registry:
  {{- with .Values.pullSecret }}
  docker_config: /etc/larder/pull
  {{- end }}
  proxy:
    {{- with .Values.proxy.url }}
    url: {{ . | quote }}
    {{- end }}
    {{- with .Values.proxy.username }}
    username: {{ . | quote }}
    {{- end }}
    {{- with .Values.proxy.passwordSecret.name }}
    password_file: /etc/larder/proxy/password
    {{- end }}
    {{- with .Values.proxy.noProxy }}
    no_proxy: {{ toJson . }}
    {{- end }}
  hosts:
    {{- range $host, $of := .Values.registries }}
    {{ $host | quote }}:
      {{- if $of.pullSecret }}
      docker_config: {{ printf "/etc/larder/registries/%s" $host | quote }}
      {{- end }}
      {{- if $of.caSecret }}
      ca: [{{ printf "/etc/larder/registries/%s/ca.crt" $host | quote }}]
      {{- end }}
      {{- if $of.clientCertificateSecret }}
      client_certificate: {{ printf "/etc/larder/registries/%s/tls.crt" $host | quote }}
      client_key: {{ printf "/etc/larder/registries/%s/tls.key" $host | quote }}
      {{- end }}
    {{- end }}
{{- end }}

{{/* The settings: what the chart makes of its values, but for what is empty, and over it what stands in `config`. */}}
{{- define "larder.config" -}}
{{- $made := include "larder.made" . | fromYaml -}}
{{- range $name, $section := $made -}}
{{- range $key, $value := $section }}{{ if not $value }}{{ $_ := unset $section $key }}{{ end }}{{ end -}}
{{- if not $section }}{{ $_ := unset $made $name }}{{ end -}}
{{- end -}}
{{- mergeOverwrite $made (deepCopy .Values.config) | toYaml -}}
{{- end }}

{{/* The sources of /etc/larder. One volume for all: the kubelet turns it in one step, so that larder sees a rule and its password
     together. A key that the ConfigMap may get later is optional, so that it comes without a restart. */}}
{{- define "larder.files" -}}
- configMap:
    name: {{ include "larder.name" . }}
    items:
      - {key: larder.yaml, path: larder.yaml}
      - {key: plugins.properties, path: plugins.properties}
- configMap:
    name: {{ include "larder.name" . }}
    items: [{key: ca.pem, path: certs/ca.pem}]
    optional: true
{{- $files := list
      (list .Values.pullSecret ".dockerconfigjson" "pull/.dockerconfigjson")
      (list .Values.proxy.passwordSecret.name .Values.proxy.passwordSecret.key "proxy/password")
      (list .Values.admin.tokenSecret.name .Values.admin.tokenSecret.key "admin/token") }}
{{- range $port, $tls := .Values.tls }}
{{- range list "tls.crt" "tls.key" }}
{{- $files = append $files (list $tls.secret . (printf "tls/%s/%s" $port .)) }}
{{- end }}
{{- $files = append $files (list $tls.clientCaSecret.name $tls.clientCaSecret.key (printf "tls/%s/client-ca.crt" $port)) }}
{{- end }}
{{- range .Values.ca.secrets }}
{{- /* A Secret's name has no underscore, so that no two come to one path. */}}
{{- $files = append $files (list .name .key (printf "certs/%s_%s.pem" .name .key)) }}
{{- end }}
{{- range $host, $of := .Values.registries }}
{{- $files = append $files (list $of.pullSecret ".dockerconfigjson" (printf "registries/%s/.dockerconfigjson" $host)) }}
{{- with $of.caSecret }}
{{- $files = append $files (list .name .key (printf "registries/%s/ca.crt" $host)) }}
{{- end }}
{{- range list "tls.crt" "tls.key" }}
{{- $files = append $files (list $of.clientCertificateSecret . (printf "registries/%s/%s" $host .)) }}
{{- end }}
{{- end }}
{{- range $secret := .Values.secrets }}
{{- range .keys }}
{{- $files = append $files (list $secret.name . (printf "secrets/%s/%s" $secret.name .)) }}
{{- end }}
{{- end }}
{{- range uniq $files }}
{{- if index . 0 }}
- secret:
    name: {{ index . 0 }}
    items: [{key: {{ index . 1 | quote }}, path: {{ index . 2 | quote }}}]
{{- end }}
{{- end }}
{{- end }}

{{/* What a port speaks: `larder.scheme (list . "data")`. */}}
{{- define "larder.scheme" -}}
{{- $config := include "larder.config" (index . 0) | fromYaml -}}
{{- dig "tls" (index . 1) "certificate" "" $config | empty | ternary "http" "https" -}}
{{- end }}

{{/* Not empty where `helm test` has something to run. */}}
{{- define "larder.tested" -}}
{{- if and (not .Values.networkPolicy.enabled) (eq (include "larder.scheme" (list . "data")) "http") }}yes{{ end -}}
{{- end }}

{{/* A time of the settings in seconds: `larder.seconds (list KEY TEXT)`. */}}
{{- define "larder.seconds" -}}
{{- $text := index . 1 | toString -}}
{{- if not (regexMatch "^[0-9]+(s|m)$" $text) -}}
{{- fail (printf "config.%s: %s: write it in seconds or minutes, such as 5s, so that terminationGracePeriodSeconds can be held against it" (index . 0) $text) -}}
{{- end -}}
{{- mul (regexFind "^[0-9]+" $text) (ternary 60 1 (hasSuffix "m" $text)) -}}
{{- end }}

{{/* A size of larder's settings or of Kubernetes in bytes: `larder.bytes (list KEY SIZE)`. */}}
{{- define "larder.bytes" -}}
{{- $size := index . 1 -}}
{{- $text := kindIs "string" $size | ternary $size (printf "%v" $size) | lower -}}
{{- if kindIs "float64" $size }}{{ $text = printf "%.0f" $size }}{{ end -}}
{{- $parts := regexFind "^[0-9]+([.][0-9]+)? *[kmgtpe]?i?b?$" $text -}}
{{- if not $parts -}}
{{- fail (printf "%s: %v: not a size" (index . 0) $size) -}}
{{- end -}}
{{- $bytes := regexFind "^[0-9.]+" $text | float64 -}}
{{- range until (index (dict "" 0 "k" 1 "m" 2 "g" 3 "t" 4 "p" 5 "e" 6) (regexFind "[kmgtpe]" $text) | int) -}}
{{- $bytes = mulf $bytes (contains "i" $text | ternary 1024 1000) -}}
{{- end -}}
{{- printf "%.0f" $bytes -}}
{{- end }}

{{/* What the schema cannot say: values that do not fit each other. */}}
{{- define "larder.fits" -}}
{{- $config := include "larder.config" . | fromYaml -}}
{{- $drain := include "larder.seconds" (list "server.drain" (dig "server" "drain" "5s" $config)) -}}
{{- $finish := include "larder.seconds" (list "server.finish" (dig "server" "finish" "15s" $config)) -}}
{{- $needed := add $drain $finish 5 -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds: %v is too short: config.server.drain (%ss), config.server.finish (%ss) and 5 seconds are %d" .Values.terminationGracePeriodSeconds $drain $finish $needed) -}}
{{- end -}}
{{- range list $config.listen.data $config.listen.admin -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" . -}}
{{- fail (printf "config.listen: %s: nobody outside of the pod reaches it, the kubelet's probes included" .) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.persistence.enabled -}}
{{- $disk := dig "cache" "disk" "2GiB" $config -}}
{{- $module := dig "limits" "module" "256MiB" $config -}}
{{- $least := add (include "larder.bytes" (list "config.cache.disk" $disk)) (include "larder.bytes" (list "config.limits.module" $module)) -}}
{{- if lt (include "larder.bytes" (list "persistence.size" .Values.persistence.size) | int64) $least -}}
{{- fail (printf "persistence.size: %s is too small: config.cache.disk (%v) and room for the largest plugin (config.limits.module, %v) are %d bytes; Kubernetes ends a pod whose emptyDir is beyond it" .Values.persistence.size $disk $module $least) -}}
{{- end -}}
{{- end -}}
{{- if not (hasPrefix "/var/lib/larder/" (printf "%s/" $config.cache.dir)) -}}
{{- fail (printf "config.cache.dir: %s: must be /var/lib/larder or a folder in it, where the volume is" $config.cache.dir) -}}
{{- end -}}
{{- if and .Values.catalog (not (has "/etc/larder/plugins.properties" $config.catalog.files)) -}}
{{- fail "config.catalog.files: must name /etc/larder/plugins.properties, where the text of catalog lies" -}}
{{- end -}}
{{- if eq (dig "tls" "admin" "client_certificate" "" $config) "required" -}}
{{- fail "config.tls.admin.client_certificate: required shuts out the kubelet's probes; optional asks for one wherever one is needed" -}}
{{- end -}}
{{- with .Values.networkPolicy -}}
{{- if and .enabled (not .registries) (not .proxy) -}}
{{- fail "networkPolicy: registries or proxy must say what larder may reach: with neither it reaches no registry" -}}
{{- end -}}
{{- if and .enabled $.Values.proxy.url (not .proxy) -}}
{{- fail "networkPolicy.proxy: must have the addresses of proxy.url: a NetworkPolicy knows no names" -}}
{{- end -}}
{{- end -}}
{{- end }}
