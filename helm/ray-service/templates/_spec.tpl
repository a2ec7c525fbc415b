{{/* rayStartParams of a group, with the old name initArgs beside it. */}}
{{- define "ray-service.rayStartParams" -}}
{{- include "ray-service.stringMap" (mergeOverwrite (deepCopy (.rayStartParams | default dict)) (deepCopy (.initArgs | default dict))) -}}
{{- end -}}

{{/* The enabled worker groups as a list of {field, name, group}; field is where the user wrote it. */}}
{{- define "ray-service.groups" -}}
{{- $out := list -}}
{{- $worker := .Values.worker | default dict -}}
{{- if and (hasKey .Values "worker") (not $worker.disabled) -}}
{{- $out = append $out (dict "field" "worker" "name" ($worker.groupName | default "workergroup") "group" $worker) -}}
{{- end -}}
{{- range $name, $group := (.Values.additionalWorkerGroups | default dict) -}}
{{- if not $group.disabled -}}
{{- $out = append $out (dict "field" (printf "additionalWorkerGroups.%s" $name) "name" $name "group" $group) -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* The autoscaler's version as it will be: v1, v2, or nothing where the operator or an environment variable decides. */}}
{{- define "ray-service.autoscalerVersion" -}}
{{- $head := .Values.head | default dict -}}
{{- $given := dig "version" "" ($head.autoscalerOptions | default dict) -}}
{{- if $given -}}
{{- $given -}}
{{- else if $head.enableInTreeAutoscaling -}}
{{- $free := true -}}
{{- range concat (dig "containerEnv" list (.Values.common | default dict) | default list) ($head.containerEnv | default list) -}}
{{- if eq .name "RAY_enable_autoscaler_v2" -}}{{- $free = false -}}{{- end -}}
{{- end -}}
{{- $groups := include "ray-service.groups" . | fromYamlArray -}}
{{- range append $groups (dict "group" $head) -}}
{{- if not (has (.group.restartPolicy | default "") (list "" "Never")) -}}{{- $free = false -}}{{- end -}}
{{- end -}}
{{- $rayVersion := include "ray-service.rayVersion" . -}}
{{- if and $free $rayVersion -}}
{{- if semverCompare ">=2.47.0-0" $rayVersion -}}v2{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ray-service.authOptions" -}}
{{- $auth := .Values.authOptions | default dict -}}
{{- $out := dict -}}
{{- if eq ($auth.mode | default "token") "token" -}}
{{- $_ := set $out "mode" "token" -}}
{{- with $auth.secretName -}}{{- $_ := set $out "secretName" . -}}{{- end -}}
{{- with $auth.enableK8sTokenAuth -}}{{- $_ := set $out "enableK8sTokenAuth" . -}}{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{- define "ray-service.autoscalerOptions" -}}
{{- $head := .Values.head | default dict -}}
{{- $options := deepCopy ($head.autoscalerOptions | default dict) -}}
{{- with $options.env -}}{{- $_ := set $options "env" (include "ray-service.env" . | fromYamlArray) -}}{{- end -}}
{{- with $options.resources -}}{{- $_ := set $options "resources" (include "ray-service.resources" . | fromYaml) -}}{{- end -}}
{{- if $head.enableInTreeAutoscaling -}}
{{- with include "ray-service.autoscalerVersion" . -}}{{- $_ := set $options "version" . -}}{{- end -}}
{{- with include "ray-service.security" (dict "defaults" (include "ray-service.containerSecurityDefaults" . | fromYaml) "own" $options.securityContext) | fromYaml -}}
{{- $_ := set $options "securityContext" . -}}
{{- end -}}
{{- if include "ray-service.autoscalerToken" . -}}
{{- $mount := dict "name" "autoscaler-token" "mountPath" "/var/run/secrets/kubernetes.io/serviceaccount" "readOnly" true -}}
{{- $_ := set $options "volumeMounts" (append ($options.volumeMounts | default list) $mount) -}}
{{- end -}}
{{- end -}}
{{- toYaml $options -}}
{{- end -}}

{{- define "ray-service.gcsFaultToleranceOptions" -}}
{{- $gcs := .Values.gcsFaultTolerance | default dict -}}
{{- $out := dict -}}
{{- if $gcs.enabled -}}
{{- if ne ($gcs.backend | default "redis") "rocksdb" -}}
{{- if not $gcs.redisAddress -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.redisAddress" "say" "is needed: the address of a Redis that outlives the head, e.g. redis:6379") -}}
{{- end -}}
{{- end -}}
{{- range $key := list "backend" "redisAddress" "externalStorageNamespace" "redisUsername" "redisPassword" "storage" -}}
{{- with get $gcs $key -}}{{- $_ := set $out $key . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* One entry of workerGroupSpecs. Takes a dict: root, field, name, group, never. */}}
{{- define "ray-service.workerGroup" -}}
{{- $group := deepCopy .group -}}
{{- $additional := ne .field "worker" -}}
{{- if and $additional (not $group.resources) -}}
{{- $size := dict "cpu" "1" "memory" "1Gi" -}}
{{- $_ := set $group "resources" (dict "limits" $size "requests" $size) -}}
{{- end -}}
{{- $accelerated := regexMatch "(?i)(gpu|/mig-|tpu|gaudi|neuron)" (join " " (concat (keys (dig "limits" dict ($group.resources | default dict) | default dict)) (keys (dig "requests" dict ($group.resources | default dict) | default dict)))) -}}
{{- $autoscaling := dig "enableInTreeAutoscaling" false (.root.Values.head | default dict) -}}
{{- $max := $group.maxReplicas -}}
{{- if kindIs "invalid" $max -}}{{- $max = 2147483647 -}}{{- end -}}
{{- $min := $group.minReplicas -}}
{{- if kindIs "invalid" $min -}}
{{- $min = 0 -}}
{{- if not (or $accelerated $additional) -}}
{{- $min = min 1 (int64 $max) -}}
{{- if not (kindIs "invalid" $group.replicas) -}}{{- $min = min $min (int64 $group.replicas) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $replicas := $group.replicas -}}
{{- if kindIs "invalid" $replicas -}}
{{- $replicas = $min -}}
{{- if and (not $autoscaling) (not $additional) -}}{{- $replicas = min (max 1 (int64 $min)) (int64 $max) -}}{{- end -}}
{{- end -}}
{{- $out := dict "groupName" .name "replicas" $replicas "minReplicas" $min "maxReplicas" $max "numOfHosts" ($group.numOfHosts | default 1) -}}
{{- $_ := set $out "rayStartParams" (include "ray-service.rayStartParams" $group | fromYaml) -}}
{{- if not (kindIs "invalid" $group.idleTimeoutSeconds) -}}{{- $_ := set $out "idleTimeoutSeconds" $group.idleTimeoutSeconds -}}{{- end -}}
{{- with $group.rayPriority -}}{{- $_ := set $out "priority" . -}}{{- end -}}
{{- with $group.suspend -}}{{- $_ := set $out "suspend" . -}}{{- end -}}
{{- with $group.rayResources -}}{{- $_ := set $out "resources" (include "ray-service.stringMap" . | fromYaml) -}}{{- end -}}
{{- with $group.rayLabels -}}{{- $_ := set $out "labels" (include "ray-service.stringMap" . | fromYaml) -}}{{- end -}}
{{- $_ := set $out "template" (include "ray-service.podTemplate" (dict "root" .root "group" $group "kind" "worker" "never" .never) | fromYaml) -}}
{{- toYaml $out -}}
{{- end -}}

{{/* The spec that the values make. */}}
{{- define "ray-service.generatedSpec" -}}
{{- $root := . -}}
{{- $head := .Values.head | default dict -}}
{{- $spec := dict -}}
{{- with include "ray-service.rayVersion" . -}}{{- $_ := set $spec "rayVersion" . -}}{{- end -}}
{{- with $head.enableInTreeAutoscaling -}}{{- $_ := set $spec "enableInTreeAutoscaling" . -}}{{- end -}}
{{- with include "ray-service.autoscalerOptions" . | fromYaml -}}{{- $_ := set $spec "autoscalerOptions" . -}}{{- end -}}
{{- with include "ray-service.gcsFaultToleranceOptions" . | fromYaml -}}{{- $_ := set $spec "gcsFaultToleranceOptions" . -}}{{- end -}}
{{- $never := and $head.enableInTreeAutoscaling (eq (include "ray-service.autoscalerVersion" .) "v2") -}}
{{- /* Head */ -}}
{{- $headGroup := dict "rayStartParams" (include "ray-service.rayStartParams" $head | fromYaml) -}}
{{- $service := .Values.service | default dict -}}
{{- with $service.type -}}{{- $_ := set $headGroup "serviceType" . -}}{{- end -}}
{{- if $head.headService -}}
{{- $_ := set $headGroup "headService" $head.headService -}}
{{- else if and (hasKey $service "headless") (not $service.headless) (eq ($service.type | default "ClusterIP") "ClusterIP") -}}
{{- $_ := set $headGroup "headService" (dict "spec" (dict "type" "ClusterIP")) -}}
{{- end -}}
{{- range $key := list "enableIngress" "ingressOptions" -}}
{{- with get $head $key -}}{{- $_ := set $headGroup $key . -}}{{- end -}}
{{- end -}}
{{- with $head.rayResources -}}{{- $_ := set $headGroup "resources" (include "ray-service.stringMap" . | fromYaml) -}}{{- end -}}
{{- with $head.rayLabels -}}{{- $_ := set $headGroup "labels" (include "ray-service.stringMap" . | fromYaml) -}}{{- end -}}
{{- $_ := set $headGroup "template" (include "ray-service.podTemplate" (dict "root" . "group" $head "kind" "head" "never" $never) | fromYaml) -}}
{{- $_ := set $spec "headGroupSpec" $headGroup -}}
{{- /* Workers */ -}}
{{- $groups := list -}}
{{- range include "ray-service.groups" . | fromYamlArray -}}
{{- $groups = append $groups (include "ray-service.workerGroup" (dict "root" $root "field" .field "name" .name "group" .group "never" $never) | fromYaml) -}}
{{- end -}}
{{- $_ := set $spec "workerGroupSpecs" $groups -}}
{{- toYaml $spec -}}
{{- end -}}

{{/* What the autoscaler has written into the running cluster stays: replicas (inside the bounds) and pods to delete. */}}
{{- define "ray-service.keepReplicas" -}}
{{- $spec := .spec -}}
{{- if and $spec.enableInTreeAutoscaling .root.Values.keepReplicas -}}
{{- $running := dict -}}
{{- with lookup "ray.io/v1" "RayCluster" .root.Release.Namespace .name -}}
{{- if dig "spec" "enableInTreeAutoscaling" false . -}}
{{- range (dig "spec" "workerGroupSpecs" list . | default list) -}}{{- $_ := set $running .groupName . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $groups := list -}}
{{- range $group := $spec.workerGroupSpecs -}}
{{- with get $running $group.groupName -}}
{{- if not (kindIs "invalid" .replicas) -}}
{{- $replicas := int64 .replicas -}}
{{- if not (kindIs "invalid" $group.maxReplicas) -}}{{- $replicas = min $replicas (int64 $group.maxReplicas) -}}{{- end -}}
{{- if not (kindIs "invalid" $group.minReplicas) -}}{{- $replicas = max $replicas (int64 $group.minReplicas) -}}{{- end -}}
{{- $_ := set $group "replicas" $replicas -}}
{{- end -}}
{{- with .scaleStrategy -}}{{- $_ := set $group "scaleStrategy" . -}}{{- end -}}
{{- end -}}
{{- $groups = append $groups $group -}}
{{- end -}}
{{- $_ := set $spec "workerGroupSpecs" $groups -}}
{{- end -}}
{{- toYaml $spec -}}
{{- end -}}

{{/* The spec as it goes to the API server: generated, or the user's own; checked either way. */}}
{{- define "ray-service.spec" -}}
{{- $spec := deepCopy (.Values.spec | default dict) -}}
{{- if not $spec -}}{{- $spec = include "ray-service.generatedSpec" . | fromYaml -}}{{- end -}}
{{- /* What stands beside the pods: the values' word, unless a ready spec has its own */ -}}
{{- range $key := include "ray-service.asTheyAre" . | fromYamlArray -}}
{{- $value := get $.Values $key -}}
{{- if and (not (hasKey $spec $key)) (or $value (and (eq $key "suspend") (kindIs "bool" $value))) -}}{{- $_ := set $spec $key $value -}}{{- end -}}
{{- end -}}
{{- with dig "kuberay" dict (.Values.networkPolicy | default dict) -}}
{{- if not (hasKey $spec "networkPolicy") -}}{{- $_ := set $spec "networkPolicy" . -}}{{- end -}}
{{- end -}}
{{- if .Values.spec -}}
{{- /* What the definition would fill in: the checks below, and replicas, go by it */ -}}
{{- $container := dig "headGroupSpec" "template" "spec" "containers" list $spec | first | default dict -}}
{{- if not $spec.rayVersion -}}
{{- with include "ray-service.imageVersion" $container.image -}}{{- $_ := set $spec "rayVersion" . -}}{{- end -}}
{{- end -}}
{{- range $group := ($spec.workerGroupSpecs | default list) -}}
{{- range $key, $value := dict "replicas" 0 "minReplicas" 0 "maxReplicas" 2147483647 -}}
{{- if not (hasKey $group $key) -}}{{- $_ := set $group $key (int64 $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $byEnvironment := include "ray-service.authByEnvironment" (dig "headGroupSpec" "template" "spec" "containers" list $spec | first | default dict) -}}
{{- if and (eq (dig "mode" "" (.Values.authOptions | default dict)) "disabled") (not .Values.spec) -}}{{- $byEnvironment = "" -}}{{- end -}}
{{- if not (or (hasKey $spec "authOptions") $byEnvironment) -}}
{{- with include "ray-service.authOptions" . | fromYaml -}}{{- $_ := set $spec "authOptions" . -}}{{- end -}}
{{- end -}}
{{- $spec = include "ray-service.keepReplicas" (dict "root" . "spec" $spec "name" (include "ray-service.fullname" .)) | fromYaml -}}
{{- include "ray-service.validate" (dict "root" . "spec" $spec) -}}
{{- toYaml $spec -}}
{{- end -}}
