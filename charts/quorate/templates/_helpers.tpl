{{- define "cluster.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "cluster.labels" -}}
app.kubernetes.io/name: quorate-cluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: quorate
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cluster.pods" -}}
app.kubernetes.io/name: quorate
app.kubernetes.io/instance: {{ include "cluster.name" . }}
{{- end }}

{{- define "cluster.testPod" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "cluster.version" -}}
{{ .Values.version | default .Chart.AppVersion }}
{{- end }}
