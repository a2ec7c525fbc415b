{{/*
What is this chart's own: ray-service has the same templates (scripts/chart_copies.py copies them) with other answers here.
*/}}

{{- define "ray-cluster.kind" -}}RayCluster{{- end -}}

{{/* How long KubeRay lets its name be. */}}
{{- define "ray-cluster.longestName" -}}53{{- end -}}

{{/* The labels by which its pods are found. */}}
{{- define "ray-cluster.selector" -}}
{{- toYaml (dict "ray.io/cluster" (include "ray-cluster.fullname" .)) -}}
{{- end -}}

{{/* The labels by which the head's service is found. */}}
{{- define "ray-cluster.headServiceSelector" -}}
{{- toYaml (dict "ray.io/cluster" (include "ray-cluster.fullname" .) "ray.io/node-type" "head") -}}
{{- end -}}

{{/* Labels that pods need for that, beyond KubeRay's: none. */}}
{{- define "ray-cluster.selected" -}}{{- toYaml dict -}}{{- end -}}

{{/* The head's service, as the operator names it. */}}
{{- define "ray-cluster.headService" -}}
{{- $given := dig "headService" "metadata" "name" "" (.Values.head | default dict) -}}
{{- if .Values.spec -}}
{{- $given = dig "headGroupSpec" "headService" "metadata" "name" "" .Values.spec -}}
{{- end -}}
{{- $given | default (printf "%s-head-svc" (include "ray-cluster.fullname" .)) -}}
{{- end -}}

{{/* The service at which Ray Serve answers: the head's. */}}
{{- define "ray-cluster.serveService" -}}{{- include "ray-cluster.headService" . -}}{{- end -}}

{{/* Values that go into the spec of the cluster as they are, beside its pods. */}}
{{- define "ray-cluster.asTheyAre" -}}
{{- toYaml (list "suspend" "managedBy" "upgradeStrategy" "headServiceAnnotations" "tlsOptions" "historyServerOptions") -}}
{{- end -}}
