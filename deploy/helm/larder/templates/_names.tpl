{{/* What objects are called, and by what they are found. */}}

{{/* At most 52 characters: a StatefulSet's pods have it in a label, with a hash of ten behind it. */}}
{{- define "larder.name" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else -}}
{{- $release := .Release.Name -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $release) -}}
{{- fail (printf "release name %s: a Service's name begins with a letter and has no dots; set fullnameOverride" $release) -}}
{{- else if contains "larder" $release -}}
{{ $release | trunc 52 | trimAll "-" }}
{{- else -}}
{{ $release | trunc 40 | trimAll "-" }}-larder
{{- end -}}
{{- end -}}
{{- end }}

{{/* A text as a label's value. Flux and others put +REVISION behind the chart's version. */}}
{{- define "larder.label" -}}
{{ regexReplaceAll "[^a-zA-Z0-9]+$" (. | replace "+" "_" | trunc 63) "" | quote }}
{{- end }}

{{- define "larder.selector" -}}
app.kubernetes.io/name: larder
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "larder.labels" -}}
helm.sh/chart: {{ include "larder.label" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{ include "larder.selector" . }}
app.kubernetes.io/version: {{ include "larder.label" .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The chart's labels and further ones, of which none takes the place of the chart's: `larder.labelled (list $ LABELS)`. */}}
{{- define "larder.labelled" -}}
{{- mustMerge (include "larder.labels" (index . 0) | fromYaml) (index . 1 | default dict) | toYaml -}}
{{- end }}

{{- define "larder.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}
