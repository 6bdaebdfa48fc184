{{- /* Labels of every object. */ -}}
{{- define "sotto.labels" -}}
app.kubernetes.io/name: sotto
{{- end }}

{{- /* Labels that select the pods of a component. */ -}}
{{- define "sotto.selector" -}}
app.kubernetes.io/name: sotto
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "sotto.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The data of a ConfigMap: sotto.toml, by default a file of the chart, and further files. */ -}}
{{- define "sotto.files" -}}
{{- $text := .values.config | default (.root.Files.Get .file) -}}
sotto.toml: {{ $text | toJson }}
{{- range $name, $text := .values.files }}
{{ $name }}: {{ $text | toJson }}
{{- end }}
{{- end }}
