{{/*
What the operator would refuse later (only an event says so then), and what it would drop silently. Works on the spec as
it will be sent, so that a ready `spec` is checked like a generated one.
*/}}

{{/* Fields that only a newer operator knows: with an older one they would be dropped without a word. */}}
{{- define "ray-service.validateVersion" -}}
{{- $root := .root -}}
{{- $spec := .spec -}}
{{- $own := not $root.Values.spec -}}
{{- if not (include "ray-service.kuberayAtLeast" (dict "root" $root "version" "1.4.0")) -}}
{{- include "ray-service.refuse" (dict "field" "kuberayVersion" "say" (printf "%s is older than 1.4.0, the oldest operator that this chart knows" $root.Values.kuberayVersion)) -}}
{{- end -}}
{{- if and (ne (dig "authOptions" "mode" "token" $spec) "disabled") (hasKey $spec "authOptions") (not (include "ray-service.kuberayAtLeast" (dict "root" $root "version" "1.5.1"))) -}}
{{- include "ray-service.refuse" (dict "field" "authOptions.mode" "say" (printf "token authentication needs KubeRay 1.5.1 or newer, and kuberayVersion is %s. Upgrade the operator, or set authOptions.mode=disabled: then whoever reaches the dashboard runs code in the cluster" $root.Values.kuberayVersion)) -}}
{{- end -}}
{{- $gates := list
      (list "1.5.1" "authOptions.mode" "authOptions.mode" (hasKey $spec "authOptions"))
      (list "1.6.0" "authOptions.secretName" "authOptions.secretName" (dig "authOptions" "secretName" "" $spec))
      (list "1.6.0" "authOptions.enableK8sTokenAuth" "authOptions.enableK8sTokenAuth" (dig "authOptions" "enableK8sTokenAuth" false $spec))
      (list "1.6.0" "upgradeStrategy" "upgradeStrategy" $spec.upgradeStrategy)
      (list "1.7.0" "tlsOptions" "tlsOptions" $spec.tlsOptions)
      (list "1.7.0" "historyServerOptions" "historyServerOptions" $spec.historyServerOptions)
      (list "1.7.0" "networkPolicy.kuberay" "networkPolicy" $spec.networkPolicy)
      (list "1.7.0" "gcsFaultTolerance.backend" "gcsFaultToleranceOptions.backend" (dig "gcsFaultToleranceOptions" "backend" "" $spec))
      (list "1.7.0" "gcsFaultTolerance.storage" "gcsFaultToleranceOptions.storage" (dig "gcsFaultToleranceOptions" "storage" dict $spec))
      (list "1.7.0" "head.autoscalerOptions.command" "autoscalerOptions.command" (dig "autoscalerOptions" "command" list $spec))
      (list "1.7.0" "head.autoscalerOptions.args" "autoscalerOptions.args" (dig "autoscalerOptions" "args" list $spec))
      (list "1.7.0" "head.ingressOptions" "headGroupSpec.ingressOptions" (dig "headGroupSpec" "ingressOptions" dict $spec))
      (list "1.5.0" "head.rayResources" "headGroupSpec.resources" (dig "headGroupSpec" "resources" dict $spec))
      (list "1.5.0" "head.rayLabels" "headGroupSpec.labels" (dig "headGroupSpec" "labels" dict $spec)) -}}
{{- range .groups -}}
{{- $gates = append $gates (list "1.5.0" (printf "%s.rayResources" .field) (printf "%s.resources" .field) .group.resources) -}}
{{- $gates = append $gates (list "1.5.0" (printf "%s.rayLabels" .field) (printf "%s.labels" .field) .group.labels) -}}
{{- $gates = append $gates (list "1.7.0" (printf "%s.rayPriority" .field) (printf "%s.priority" .field) .group.priority) -}}
{{- end -}}
{{- range $gates -}}
{{- $since := index . 0 -}}
{{- if and (index . 3) (not (include "ray-service.kuberayAtLeast" (dict "root" $root "version" $since))) -}}
{{- $field := ternary (index . 1) (printf "spec.%s" (index . 2 | trimPrefix "spec.")) $own -}}
{{- include "ray-service.refuse" (dict "field" $field "say" (printf "KubeRay knows this from %s on, and kuberayVersion is %s: an older operator would drop it without a word. Set kuberayVersion to what really runs, or leave the value out" $since $root.Values.kuberayVersion)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ray-service.validateAuth" -}}
{{- $root := .root -}}
{{- $spec := .spec -}}
{{- $auth := $spec.authOptions | default dict -}}
{{- $where := ternary "spec.rayVersion" "head.rayVersion" (not (empty $root.Values.spec)) -}}
{{- $version := include "ray-service.string" $spec.rayVersion -}}
{{- $ray := dig "headGroupSpec" "template" "spec" "containers" list $spec | first | default dict -}}
{{- $tag := regexFind ":[^:/@]+$" (regexReplaceAll "@.*$" (include "ray-service.string" $ray.image) "") | trimPrefix ":" -}}
{{- $given := dig "rayVersion" "" (ternary $root.Values.head $root.Values.spec (empty $root.Values.spec) | default dict) -}}
{{- $source := ternary (printf ", as the tag of its image says (%s)" $tag) "" (empty $given) -}}
{{- $missing := "neither it nor the image's tag says it" -}}
{{- if and $tag (regexMatch "^[0-9]+\\.[0-9]" $tag) -}}{{- $missing = printf "the image's tag, %s, can't be a version of Ray" $tag -}}{{- end -}}
{{- if eq ($auth.mode | default "") "token" -}}
{{- if not (regexMatch "^v?[0-9]+\\.[0-9]+(\\.[0-9]+)?" $version) -}}
{{- include "ray-service.refuse" (dict "field" $where "say" (printf "token authentication needs to know Ray's version (2.52.0 or newer), and %s. Set %s, or authOptions.mode=disabled" (ternary (printf "%q is not one" $version) $missing (ne $version "")) $where)) -}}
{{- end -}}
{{- if not (semverCompare ">=2.52.0-0" $version) -}}
{{- include "ray-service.refuse" (dict "field" $where "say" (printf "token authentication needs Ray 2.52.0 or newer, and this is %s%s. Use a newer image, or set authOptions.mode=disabled: then whoever reaches the dashboard runs code in the cluster" $version $source)) -}}
{{- end -}}
{{- if $auth.enableK8sTokenAuth -}}
{{- if not (semverCompare ">=2.55.0-0" $version) -}}
{{- include "ray-service.refuse" (dict "field" "authOptions.enableK8sTokenAuth" "say" (printf "needs Ray 2.55.0 or newer, and this is %s" $version)) -}}
{{- end -}}
{{- if $auth.secretName -}}
{{- include "ray-service.refuse" (dict "field" "authOptions.secretName" "say" "cannot be used together with authOptions.enableK8sTokenAuth") -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- if $auth.enableK8sTokenAuth -}}
{{- include "ray-service.refuse" (dict "field" "authOptions.enableK8sTokenAuth" "say" "needs authOptions.mode=token") -}}
{{- end -}}
{{- $type := $spec.headGroupSpec.serviceType | default "ClusterIP" -}}
{{- if not (or $root.Values.allowUnauthenticatedExposure (include "ray-service.closedByEnvironment" $ray)) -}}
{{- $say := "an open Ray dashboard is remote code execution for whoever reaches it. Turn token authentication on, or say allowUnauthenticatedExposure=true" -}}
{{- if ne $type "ClusterIP" -}}
{{- include "ray-service.refuse" (dict "field" "service.type" "say" (printf "%s without token authentication: %s" $type $say)) -}}
{{- end -}}
{{- if or (dig "enabled" false ($root.Values.ingress | default dict)) $spec.headGroupSpec.enableIngress -}}
{{- include "ray-service.refuse" (dict "field" "ingress.enabled" "say" (printf "an ingress without token authentication: %s" $say)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What holds for the head and for every worker group. Takes a dict: field, group. */}}
{{- define "ray-service.validateGroup" -}}
{{- $params := .group.rayStartParams | default dict -}}
{{- if .group.resources -}}
{{- range $key := list "num-cpus" "num-gpus" "memory" "resources" -}}
{{- if get $params $key -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.rayStartParams.%s" $.field $key) "say" (printf "cannot be used together with %s" $.resources)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey $params "labels" -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.rayStartParams.labels" .field) "say" (printf "is refused by KubeRay: use %s" .labels)) -}}
{{- end -}}
{{- if not (dig "template" "spec" "containers" list .group) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.template.spec.containers" .field) "say" "needs at least one container") -}}
{{- end -}}
{{- $volumes := list -}}
{{- range (dig "template" "spec" "volumes" list .group | default list) -}}{{- $volumes = append $volumes .name -}}{{- end -}}
{{- range concat (dig "template" "spec" "containers" list .group) (dig "template" "spec" "initContainers" list .group | default list) -}}
{{- $container := . -}}
{{- range (.volumeMounts | default list) -}}
{{- if not (has .name $volumes) -}}
{{- $own := not (hasPrefix "spec." $.field) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.%s" $.field (ternary "volumes" "template.spec.volumes" $own)) "say" (printf "has no volume %q, which the container %s mounts at %s%s" .name $container.name .mountPath (ternary ". Lists replace each other: say the chart's own volume again, or set volumeMounts, too; common.volumes adds to all groups" "" $own))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ray-service.validateWorkers" -}}
{{- $spec := .spec -}}
{{- $seen := dict -}}
{{- $v2 := or (eq (dig "autoscalerOptions" "version" "" $spec) "v2") (include "ray-service.v2ByVariable" $spec) -}}
{{- range .groups -}}
{{- $field := .field -}}
{{- $group := .group -}}
{{- $name := $group.groupName | default "" -}}
{{- $nameField := ternary $field (printf "%s.groupName" $field) (hasPrefix "additionalWorkerGroups." $field) -}}
{{- if or (gt (len $name) 63) (not (regexMatch "^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$" $name)) (eq $name "headgroup") -}}
{{- include "ray-service.refuse" (dict "field" $nameField "say" (printf "%q cannot name a worker group: at most 63 letters, digits, '-' and '.', as it becomes a label and part of the pods' names; headgroup is taken" $name)) -}}
{{- end -}}
{{- if hasKey $seen $name -}}
{{- include "ray-service.refuse" (dict "field" $nameField "say" (printf "%q is the name of two worker groups" $name)) -}}
{{- end -}}
{{- $_ := set $seen $name true -}}
{{- range $key := list "replicas" "minReplicas" "maxReplicas" "idleTimeoutSeconds" -}}
{{- $number := get $group $key -}}
{{- if and (hasKey $group $key) (kindIs "string" $number) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.%s" $field $key) "say" (printf "%q is no number" $number)) -}}
{{- end -}}
{{- if and (hasKey $group $key) (not (kindIs "invalid" $number)) (lt (int64 $number) 0) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.%s" $field $key) "say" (printf "%d is negative" (int64 $number))) -}}
{{- end -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $group.minReplicas)) (not (kindIs "invalid" $group.maxReplicas)) -}}
{{- if gt (int64 $group.minReplicas) (int64 $group.maxReplicas) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.minReplicas" $field) "say" (printf "%d is more than maxReplicas, %d" (int64 $group.minReplicas) (int64 $group.maxReplicas))) -}}
{{- end -}}
{{- else if not $spec.enableInTreeAutoscaling -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.minReplicas" $field) "say" "and maxReplicas are needed where there is no autoscaler") -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $group.idleTimeoutSeconds)) (not (and $spec.enableInTreeAutoscaling $v2)) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.idleTimeoutSeconds" $field) "say" "only autoscaler v2 has a time-out per group: set head.enableInTreeAutoscaling=true and head.autoscalerOptions.version=v2") -}}
{{- end -}}
{{- if $group.priority -}}
{{- if not (and $spec.enableInTreeAutoscaling $v2) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.rayPriority" $field) "say" "only autoscaler v2 knows priorities: set head.enableInTreeAutoscaling=true and head.autoscalerOptions.version=v2") -}}
{{- end -}}
{{- if not (semverCompare ">=2.56.0-0" (include "ray-service.string" $spec.rayVersion | default "0.0.0")) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.rayPriority" $field) "say" (printf "needs Ray 2.56.0 or newer, and this is %s" (include "ray-service.string" $spec.rayVersion | default "not said (head.rayVersion)"))) -}}
{{- end -}}
{{- end -}}
{{- if and $group.suspend $spec.enableInTreeAutoscaling -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.suspend" $field) "say" "a single group cannot be suspended while the autoscaler is on") -}}
{{- end -}}
{{- include "ray-service.validateGroup" (dict "field" $field "group" $group "resources" (printf "%s.%s" $field (ternary "resources" "rayResources" (hasPrefix "spec." $field))) "labels" (printf "%s.%s" $field (ternary "labels" "rayLabels" (hasPrefix "spec." $field)))) -}}
{{- end -}}
{{- end -}}

{{/* "yes" if the head's environment turns autoscaler v2 on. Takes the spec. */}}
{{- define "ray-service.v2ByVariable" -}}
{{- range dig "template" "spec" "containers" list .headGroupSpec | first | dig "env" list -}}
{{- if and (eq .name "RAY_enable_autoscaler_v2") (has .value (list "1" "true")) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ray-service.validateAutoscaler" -}}
{{- $spec := .spec -}}
{{- $own := .own -}}
{{- $options := $spec.autoscalerOptions | default dict -}}
{{- $prefix := ternary "head." "spec." $own -}}
{{- $names := list -}}
{{- range dig "template" "spec" "containers" list $spec.headGroupSpec | first | dig "env" list -}}{{- $names = append $names .name -}}{{- end -}}
{{- if $spec.enableInTreeAutoscaling -}}
{{- if and $options.version (has "RAY_enable_autoscaler_v2" $names) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%sautoscalerOptions.version" $prefix) "say" "and the head's variable RAY_enable_autoscaler_v2 say the same thing twice: use only the former") -}}
{{- end -}}
{{- if eq ($options.version | default "") "v2" -}}
{{- $say := "autoscaler v2 needs restartPolicy Never (or none said: then the chart sets it)" -}}
{{- if not (has (dig "template" "spec" "restartPolicy" "" $spec.headGroupSpec) (list "" "Never")) -}}
{{- include "ray-service.refuse" (dict "field" (ternary "head.restartPolicy" "spec.headGroupSpec.template.spec.restartPolicy" $own) "say" $say) -}}
{{- end -}}
{{- range .groups -}}
{{- if not (has (dig "template" "spec" "restartPolicy" "" .group) (list "" "Never")) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.%srestartPolicy" .field (ternary "" "template.spec." $own)) "say" $say) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else if include "ray-service.v2ByVariable" $spec -}}
{{- include "ray-service.refuse" (dict "field" (printf "%senableInTreeAutoscaling" $prefix) "say" "has to be true where the variable RAY_enable_autoscaler_v2 is set") -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $options.idleTimeoutSeconds)) (lt (int64 $options.idleTimeoutSeconds) 0) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%sautoscalerOptions.idleTimeoutSeconds" $prefix) "say" "is negative") -}}
{{- end -}}
{{- range $options.env -}}
{{- if eq .name "KUBERAY_GEN_AUTOSCALER_START_CMD" -}}
{{- include "ray-service.refuse" (dict "field" (printf "%sautoscalerOptions.env" $prefix) "say" "must not set KUBERAY_GEN_AUTOSCALER_START_CMD: the operator does") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ray-service.validateFaultTolerance" -}}
{{- $spec := .spec -}}
{{- $params := $spec.headGroupSpec.rayStartParams | default dict -}}
{{- $ft := $spec.gcsFaultToleranceOptions -}}
{{- $names := list -}}
{{- range dig "template" "spec" "containers" list $spec.headGroupSpec | first | dig "env" list -}}{{- $names = append $names .name -}}{{- end -}}
{{- $annotations := .root.Values.annotations | default dict -}}
{{- if or (index $params "redis-username") (has "REDIS_USERNAME" $names) -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.redisUsername" "say" "is where the name of the Redis user belongs, not rayStartParams or the environment") -}}
{{- end -}}
{{- if $ft -}}
{{- if or (index $params "redis-password") (has "REDIS_PASSWORD" $names) -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.redisPassword" "say" "is where Redis' password belongs, not rayStartParams or the environment") -}}
{{- end -}}
{{- if has "RAY_REDIS_ADDRESS" $names -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.redisAddress" "say" "and the head's variable RAY_REDIS_ADDRESS say the same thing twice: use only the former") -}}
{{- end -}}
{{- range $key := list "ray.io/ft-enabled" "ray.io/external-storage-namespace" -}}
{{- if get $annotations $key -}}
{{- include "ray-service.refuse" (dict "field" (printf "annotations[%s]" $key) "say" "cannot be used together with gcsFaultTolerance.enabled") -}}
{{- end -}}
{{- end -}}
{{- if eq ($ft.backend | default "redis") "rocksdb" -}}
{{- range $key := list "redisAddress" "redisUsername" "redisPassword" "externalStorageNamespace" -}}
{{- if get $ft $key -}}
{{- include "ray-service.refuse" (dict "field" (printf "gcsFaultTolerance.%s" $key) "say" "does not go with the backend rocksdb") -}}
{{- end -}}
{{- end -}}
{{- if and (dig "storage" "claimName" "" $ft) (or (dig "storage" "size" "" $ft) (dig "storage" "storageClassName" "" $ft) (dig "storage" "accessModes" list $ft)) -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.storage.claimName" "say" "names an existing claim: size, storageClassName and accessModes do not go with it") -}}
{{- end -}}
{{- else if $ft.storage -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.storage" "say" "belongs to the backend rocksdb only") -}}
{{- end -}}
{{- else if has "RAY_REDIS_ADDRESS" $names -}}
{{- if ne (get $annotations "ray.io/ft-enabled" | default "" | toString) "true" -}}
{{- include "ray-service.refuse" (dict "field" "gcsFaultTolerance.enabled" "say" "has to be true where the variable RAY_REDIS_ADDRESS is set") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Everything. Takes a dict: root, spec. */}}
{{- define "ray-service.validate" -}}
{{- $root := .root -}}
{{- $spec := .spec -}}
{{- $own := not $root.Values.spec -}}
{{- if not $spec.headGroupSpec -}}
{{- include "ray-service.refuse" (dict "field" "spec.headGroupSpec" "say" "is needed: spec takes the whole spec of a RayCluster") -}}
{{- end -}}
{{- $names := list -}}
{{- if $own -}}{{- $names = include "ray-service.groups" $root | fromYamlArray -}}{{- end -}}
{{- $groups := list -}}
{{- range $i, $group := ($spec.workerGroupSpecs | default list) -}}
{{- $field := printf "spec.workerGroupSpecs[%d]" $i -}}
{{- if $own -}}{{- $field = (index $names $i).field -}}{{- end -}}
{{- $groups = append $groups (dict "field" $field "group" $group) -}}
{{- end -}}
{{- $all := dict "root" $root "spec" $spec "own" $own "groups" $groups -}}
{{- if not (or $groups $root.Values.headOnly) -}}
{{- include "ray-service.refuse" (dict "field" (ternary "worker.disabled" "spec.workerGroupSpecs" $own) "say" "no worker group is left. Enable worker or a group of additionalWorkerGroups, or say headOnly=true for a cluster that is only a head") -}}
{{- end -}}
{{- include "ray-service.validateGroup" (dict "field" (ternary "head" "spec.headGroupSpec" $own) "group" $spec.headGroupSpec "resources" (ternary "head.rayResources" "spec.headGroupSpec.resources" $own) "labels" (ternary "head.rayLabels" "spec.headGroupSpec.labels" $own)) -}}
{{- include "ray-service.validateVersion" $all -}}
{{- include "ray-service.validateAuth" $all -}}
{{- include "ray-service.validateWorkers" $all -}}
{{- include "ray-service.validateAutoscaler" $all -}}
{{- include "ray-service.validateFaultTolerance" $all -}}
{{- if and $spec.historyServerOptions (not (dig "collectorOptions" "image" "" $spec.historyServerOptions)) -}}
{{- include "ray-service.refuse" (dict "field" "historyServerOptions.collectorOptions.image" "say" "is needed") -}}
{{- end -}}
{{- end -}}
