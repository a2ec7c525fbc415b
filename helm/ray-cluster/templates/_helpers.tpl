{{/* Refuses with a sentence that begins with the value it is about. Takes a dict: field, say. */}}
{{- define "ray-cluster.refuse" -}}
{{- fail (printf "ray-cluster: %s: %s" .field .say) -}}
{{- end -}}

{{/* Takes keys whose value is null out of a map, at every depth and in place: to the chart null is "not said". */}}
{{- define "ray-cluster.prune" -}}
{{- $node := . -}}
{{- if kindIs "map" $node -}}
{{- range $key, $value := $node -}}
{{- if kindIs "invalid" $value -}}{{- $_ := unset $node $key -}}
{{- else if ne $key "extraObjects" -}}{{- include "ray-cluster.prune" $value -}}{{- end -}}
{{- end -}}
{{- else if kindIs "slice" $node -}}
{{- range $node -}}{{- include "ray-cluster.prune" . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* A scalar as a string, whole numbers without an exponent (values files carry numbers as floats). */}}
{{- define "ray-cluster.string" -}}
{{- if kindIs "string" . -}}{{- . -}}{{- else if not (kindIs "invalid" .) -}}{{- toJson . -}}{{- end -}}
{{- end -}}

{{/* A map whose values are all strings, as labels, annotations, selectors and rayStartParams have to be. */}}
{{- define "ray-cluster.stringMap" -}}
{{- $out := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $out $key (include "ray-cluster.string" $value) -}}{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* "yes" if the operator is at least of the version given. Takes a dict: root, version. */}}
{{- define "ray-cluster.kuberayAtLeast" -}}
{{- if semverCompare (printf ">=%s-0" .version) (.root.Values.kuberayVersion | trimPrefix "v") -}}yes{{- end -}}
{{- end -}}

{{/*
The name of the RayCluster: fullnameOverride, else the release's name if it has the chart's name in it, else
<release>-<name>. Generated names are cut where KubeRay's limit is; a name given by hand is never changed.
*/}}
{{- define "ray-cluster.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := "" -}}
{{- $field := "the release's name" -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- $field = "fullnameOverride" -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- $full = printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- if gt (len $full) 53 -}}
{{- include "ray-cluster.refuse" (dict "field" $field "say" (printf "%q has %d characters; KubeRay refuses the name of a RayCluster over 53" $full (len $full))) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- include "ray-cluster.refuse" (dict "field" $field "say" (printf "%q cannot name a RayCluster: lower case letters, digits and '-', beginning with a letter; set fullnameOverride" $full)) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* The head's service, as the operator names it. */}}
{{- define "ray-cluster.headService" -}}
{{- $given := dig "headService" "metadata" "name" "" (.Values.head | default dict) -}}
{{- if .Values.spec -}}
{{- $given = dig "headGroupSpec" "headService" "metadata" "name" "" .Values.spec -}}
{{- end -}}
{{- $given | default (printf "%s-head-svc" (include "ray-cluster.fullname" .)) -}}
{{- end -}}

{{/* Labels of every object of the chart. */}}
{{- define "ray-cluster.labels" -}}
{{- $labels := include "ray-cluster.stringMap" (.Values.commonLabels | default dict) | fromYaml -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $labels "app.kubernetes.io/instance" .Release.Name -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- toYaml $labels -}}
{{- end -}}

{{/* The metadata of an object of the chart. Takes a dict: root, name, and optionally labels and annotations. */}}
{{- define "ray-cluster.metadata" -}}
{{- $labels := include "ray-cluster.stringMap" (.labels | default dict) | fromYaml -}}
{{- $labels = mergeOverwrite $labels (include "ray-cluster.labels" .root | fromYaml) -}}
{{- $annotations := include "ray-cluster.stringMap" (.root.Values.commonAnnotations | default dict) | fromYaml -}}
{{- $annotations = mergeOverwrite $annotations (include "ray-cluster.stringMap" (.annotations | default dict) | fromYaml) -}}
{{- $metadata := dict "name" .name "namespace" .root.Release.Namespace "labels" $labels -}}
{{- if $annotations -}}{{- $_ := set $metadata "annotations" $annotations -}}{{- end -}}
{{- toYaml $metadata -}}
{{- end -}}

{{/* Ray's version: head.rayVersion, else what the tag of the head's image begins with, else nothing. */}}
{{- define "ray-cluster.rayVersion" -}}
{{- $head := .Values.head | default dict -}}
{{- $image := include "ray-cluster.image" (dict "root" . "group" $head) | fromYaml -}}
{{- $head.rayVersion | default (regexFind "^[0-9]+\\.[0-9]+\\.[0-9]+" (include "ray-cluster.string" $image.tag)) -}}
{{- end -}}

{{/* The image of a group: its own keys over those of the whole cluster. Takes a dict: root, group. */}}
{{- define "ray-cluster.image" -}}
{{- $own := .group.image | default dict -}}
{{- $image := mergeOverwrite (deepCopy (.root.Values.image | default dict)) (deepCopy $own) -}}
{{- if and (or $own.tag $own.repository) (not $own.digest) -}}{{- $_ := unset $image "digest" -}}{{- end -}}
{{- toYaml $image -}}
{{- end -}}

{{- define "ray-cluster.imageName" -}}
{{- if .digest -}}{{- printf "%s@%s" .repository .digest -}}
{{- else -}}{{- printf "%s:%s" .repository (include "ray-cluster.string" .tag) -}}{{- end -}}
{{- end -}}
