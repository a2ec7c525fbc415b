{{/* Refuses with a sentence that begins with the value it is about. Takes a dict: field, say. */}}
{{- define "ray-cluster.refuse" -}}
{{- fail (printf "ray-cluster: %s: %s" .field .say) -}}
{{- end -}}

{{/*
Makes the values what the templates take, at every depth and in place: keys whose value is null go (to the chart null is
"not said"), and text that is a number or a boolean becomes one where a number or a boolean is wanted, as `--set-string`,
Argo CD's parameters and templated values give it. What is free text by nature is left: environment, labels and the like.
*/}}
{{- define "ray-cluster.prune" -}}
{{- $node := . -}}
{{- if kindIs "map" $node -}}
{{- $numbers := list "replicas" "minReplicas" "maxReplicas" "numOfHosts" "idleTimeoutSeconds" "rayPriority" "priority" "port" "headPorts" "workerPorts" "minAvailable" "maxUnavailable" "containerPort" "hostPort" "runAsUser" "runAsGroup" "fsGroup" "terminationGracePeriodSeconds" "activeDeadlineSeconds" "initialDelaySeconds" "periodSeconds" "timeoutSeconds" "successThreshold" "failureThreshold" "expirationSeconds" "tolerationSeconds" "rayClusterDeletionDelaySeconds" "serviceUnhealthySecondThreshold" "deploymentUnhealthySecondThreshold" "maxSurgePercent" "stepSizePercent" "intervalSeconds" "weight" "maxSkew" -}}
{{- $booleans := list "strict" "enabled" "disabled" "headOnly" "keepReplicas" "suspend" "headless" "restricted" "allowNamespace" "konnectivity" "allowApiServer" "allowPlainHttp" "excludeHeadPodFromServeSvc" "allowUnauthenticatedExposure" "enableK8sTokenAuth" "enableInTreeAutoscaling" "enableIngress" "automountServiceAccountToken" "enableServiceLinks" "shareProcessNamespace" "hostNetwork" "hostPID" "hostIPC" "runAsNonRoot" "privileged" "allowPrivilegeEscalation" "readOnlyRootFilesystem" "readOnly" "optional" "stdin" "tty" -}}
{{- $free := list "env" "containerEnv" "labels" "annotations" "commonLabels" "commonAnnotations" "podLabels" "podAnnotations" "headServiceAnnotations" "serveConfigV2" "matchLabels" "nodeSelector" "rayStartParams" "initArgs" "rayResources" "rayLabels" "extraObjects" -}}
{{- range $key, $value := $node -}}
{{- if kindIs "invalid" $value -}}{{- $_ := unset $node $key -}}
{{- else if and (kindIs "string" $value) (has $key $numbers) -}}
{{- if regexMatch "^-?[0-9]+$" $value -}}{{- $_ := set $node $key (int64 $value) -}}{{- end -}}
{{- else if and (kindIs "string" $value) (has $key $booleans) -}}
{{- if has $value (list "true" "false") -}}{{- $_ := set $node $key (eq $value "true") -}}{{- end -}}
{{- else if and (kindIs "slice" $value) (has $key $numbers) -}}
{{- $made := list -}}
{{- range $value -}}{{- $made = append $made (int64 .) -}}{{- end -}}
{{- $_ := set $node $key $made -}}
{{- else if has $key $free -}}
{{- if kindIs "map" $value -}}
{{- range $name, $text := $value -}}{{- if kindIs "invalid" $text -}}{{- $_ := unset $value $name -}}{{- end -}}{{- end -}}
{{- else if and (kindIs "slice" $value) (ne $key "extraObjects") -}}
{{- range $value -}}{{- include "ray-cluster.prune" . -}}{{- end -}}
{{- end -}}
{{- else -}}{{- include "ray-cluster.prune" $value -}}{{- end -}}
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
The name of the resource: fullnameOverride, else the release's name if it has the chart's name in it, else
<release>-<name>. Generated names are cut where KubeRay's limit is; a name given by hand is never changed.
*/}}
{{- define "ray-cluster.fullname" -}}
{{- $kind := include "ray-cluster.kind" . -}}
{{- $most := include "ray-cluster.longestName" . | int -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := "" -}}
{{- $field := "the release's name" -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- $field = "fullnameOverride" -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name | trunc $most | trimSuffix "-" -}}
{{- else -}}
{{- $full = printf "%s-%s" .Release.Name $name | trunc $most | trimSuffix "-" -}}
{{- end -}}
{{- if gt (len $full) $most -}}
{{- include "ray-cluster.refuse" (dict "field" $field "say" (printf "%q has %d characters; KubeRay refuses the name of a %s over %d" $full (len $full) $kind $most)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- include "ray-cluster.refuse" (dict "field" $field "say" (printf "%q cannot name a %s: lower case letters, digits and '-', beginning with a letter; set fullnameOverride" $full $kind)) -}}
{{- end -}}
{{- $full -}}
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

{{/*
Ray's version as a tag tells it: what it begins with, if that can be a version of Ray. Images that are not Ray's own may
be tagged otherwise (2026.3.1, 1.1.2): theirs counts only where it is a 2.x. Takes a dict: repository, tag.
*/}}
{{- define "ray-cluster.tagVersion" -}}
{{- $version := regexFind "^[0-9]+\\.[0-9]+\\.[0-9]+" (include "ray-cluster.string" .tag) -}}
{{- $own := regexMatch "(^|/)rayproject/ray(-[a-z-]+)?$" (include "ray-cluster.string" .repository) -}}
{{- if or $own (regexMatch "^2\\.[0-9]{1,3}\\." $version) -}}{{- $version -}}{{- end -}}
{{- end -}}

{{/* The same of an image's whole name. */}}
{{- define "ray-cluster.imageVersion" -}}
{{- $name := regexReplaceAll "@.*$" (include "ray-cluster.string" .) "" -}}
{{- $tag := regexFind ":[^:/]+$" $name -}}
{{- if $tag -}}{{- include "ray-cluster.tagVersion" (dict "repository" (trimSuffix $tag $name) "tag" (trimPrefix ":" $tag)) -}}{{- end -}}
{{- end -}}

{{/* Ray's version: head.rayVersion, else as the tag of the head's image tells it, else nothing. */}}
{{- define "ray-cluster.rayVersion" -}}
{{- $head := .Values.head | default dict -}}
{{- $image := include "ray-cluster.image" (dict "root" . "group" $head) | fromYaml -}}
{{- include "ray-cluster.string" $head.rayVersion | default (include "ray-cluster.tagVersion" $image) -}}
{{- end -}}

{{/* "yes" if the head's environment says how Ray asks for tokens. Takes the head's Ray container. */}}
{{- define "ray-cluster.authByEnvironment" -}}
{{- range (.env | default list) -}}
{{- if has .name (list "RAY_AUTH_MODE" "RAY_ENABLE_K8S_TOKEN_AUTH") -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* "yes" if the head's environment switches authentication on. Takes the head's Ray container. */}}
{{- define "ray-cluster.closedByEnvironment" -}}
{{- range (.env | default list) -}}
{{- $value := include "ray-cluster.string" .value | lower -}}
{{- if or (and (eq .name "RAY_AUTH_MODE") (has $value (list "token" "k8s"))) (and (eq .name "RAY_ENABLE_K8S_TOKEN_AUTH") (has $value (list "true" "1"))) -}}yes{{- end -}}
{{- end -}}
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
