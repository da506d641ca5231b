{{- define "kdaemon.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "kdaemon.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "kdaemon.name" .) }}
{{- end }}

{{- define "kdaemon.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "kdaemon.selector" -}}
app.kubernetes.io/name: kdaemon
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kdaemon.labels" -}}
{{ include "kdaemon.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
