{{/*
What is this chart's own: ray-cluster has the same templates (scripts/chart_copies.py copies them) with other answers here.
*/}}

{{- define "ray-service.kind" -}}RayService{{- end -}}

{{/* How long KubeRay lets its name be. */}}
{{- define "ray-service.longestName" -}}47{{- end -}}

{{/* The labels by which its pods are found: KubeRay makes a cluster of another name for each version. */}}
{{- define "ray-service.selector" -}}
{{- toYaml (dict "airflow-ray/rayservice" (include "ray-service.fullname" .)) -}}
{{- end -}}

{{/* The labels by which the head's service is found: the one that KubeRay leads to the cluster that serves. */}}
{{- define "ray-service.headServiceSelector" -}}
{{- toYaml (dict "ray.io/originated-from-cr-name" (include "ray-service.fullname" .) "ray.io/node-type" "head") -}}
{{- end -}}

{{/* Labels that pods need for that, beyond KubeRay's. */}}
{{- define "ray-service.selected" -}}{{- include "ray-service.selector" . -}}{{- end -}}

{{/* The head's service, and Serve's, as the operator names them. */}}
{{- define "ray-service.headService" -}}{{- printf "%s-head-svc" (include "ray-service.fullname" .) -}}{{- end -}}

{{- define "ray-service.serveService" -}}
{{- dig "metadata" "name" "" (.Values.serveService | default dict) | default (printf "%s-serve-svc" (include "ray-service.fullname" .)) -}}
{{- end -}}

{{/* Values that go into the spec of the cluster as they are, beside its pods. */}}
{{- define "ray-service.asTheyAre" -}}
{{- toYaml (list "suspend" "headServiceAnnotations" "tlsOptions" "historyServerOptions") -}}
{{- end -}}

{{/* The cluster. Pods of a ready spec get the label by which the network policy finds them, and nothing else. */}}
{{- define "ray-service.cluster" -}}
{{- $spec := include "ray-service.spec" . | fromYaml -}}
{{- if .Values.spec -}}
{{- range $group := append ($spec.workerGroupSpecs | default list) $spec.headGroupSpec -}}
{{- $metadata := $group.template.metadata | default dict -}}
{{- $_ := set $metadata "labels" (mergeOverwrite ($metadata.labels | default dict) (include "ray-service.selected" $ | fromYaml)) -}}
{{- $_ := set $group.template "metadata" $metadata -}}
{{- end -}}
{{- end -}}
{{- include "ray-service.validateOwn" (dict "root" . "spec" $spec) -}}
{{- toYaml $spec -}}
{{- end -}}

{{/* What KubeRay would refuse of a RayService later, or take and not do. Takes a dict: root, spec (of its cluster). */}}
{{- define "ray-service.validateOwn" -}}
{{- $values := .root.Values -}}
{{- $spec := .spec -}}
{{- $own := not $values.spec -}}
{{- if $spec.upgradeStrategy -}}
{{- include "ray-service.refuse" (dict "field" "spec.upgradeStrategy" "say" "is of a RayCluster that somebody changes; KubeRay refuses it in a RayService. Use upgradeStrategy") -}}
{{- end -}}
{{- if dig "authOptions" "enableK8sTokenAuth" false $spec -}}
{{- include "ray-service.refuse" (dict "field" (ternary "authOptions.enableK8sTokenAuth" "spec.authOptions.enableK8sTokenAuth" $own) "say" "is refused by KubeRay in a RayService. Leave it out: the cluster then asks for a token of its own") -}}
{{- end -}}
{{- if dig "headService" "metadata" "name" "" $spec.headGroupSpec -}}
{{- include "ray-service.refuse" (dict "field" (ternary "head.headService.metadata.name" "spec.headGroupSpec.headService.metadata.name" $own) "say" "is refused by KubeRay in a RayService: it makes NAME-head-svc") -}}
{{- end -}}
{{- $ports := dig "ports" list (dig "template" "spec" "containers" list $spec.headGroupSpec | first | default dict) | default list -}}
{{- $serving := list -}}
{{- range $ports -}}{{- if regexMatch "^serve(-|$)" (.name | default "") -}}{{- $serving = append $serving .name -}}{{- end -}}{{- end -}}
{{- if and $ports (not $serving) (not $values.serveService) -}}
{{- include "ray-service.refuse" (dict "field" (ternary "head.ports" "spec.headGroupSpec.template.spec.containers[0].ports" $own) "say" "name no port serve: KubeRay would make no service for the applications, and never call it ready. Add {name: serve, containerPort: 8000}, or name none") -}}
{{- end -}}
{{- range list (list "1.5.0" "rayClusterDeletionDelaySeconds" (not (kindIs "invalid" $values.rayClusterDeletionDelaySeconds))) (list "1.5.0" "upgradeStrategy.clusterUpgradeOptions" (dig "clusterUpgradeOptions" dict ($values.upgradeStrategy | default dict))) (list "1.6.0" "managedBy" $values.managedBy) -}}
{{- if and (index . 2) (not (include "ray-service.kuberayAtLeast" (dict "root" $.root "version" (index . 0)))) -}}
{{- include "ray-service.refuse" (dict "field" (index . 1) "say" (printf "KubeRay knows this from %s on, and kuberayVersion is %s: an older operator would drop it without a word. Set kuberayVersion to what really runs, or leave the value out" (index . 0) $values.kuberayVersion)) -}}
{{- end -}}
{{- end -}}
{{- include "ray-service.validateStrategy" . -}}
{{- include "ray-service.validateApplications" .root -}}
{{- end -}}

{{- define "ray-service.validateStrategy" -}}
{{- $strategy := .root.Values.upgradeStrategy | default dict -}}
{{- $options := $strategy.clusterUpgradeOptions -}}
{{- if eq ($strategy.type | default "") "NewClusterWithIncrementalUpgrade" -}}
{{- if not (include "ray-service.kuberayAtLeast" (dict "root" .root "version" "1.5.0")) -}}
{{- include "ray-service.refuse" (dict "field" "upgradeStrategy.type" "say" (printf "KubeRay knows NewClusterWithIncrementalUpgrade from 1.5.0 on, and kuberayVersion is %s" .root.Values.kuberayVersion)) -}}
{{- end -}}
{{- if not .spec.enableInTreeAutoscaling -}}
{{- include "ray-service.refuse" (dict "field" "upgradeStrategy.type" "say" "NewClusterWithIncrementalUpgrade needs the autoscaler: set head.enableInTreeAutoscaling=true") -}}
{{- end -}}
{{- range $key := list "gatewayClassName" "stepSizePercent" "intervalSeconds" -}}
{{- if not (hasKey ($options | default dict) $key) -}}
{{- include "ray-service.refuse" (dict "field" (printf "upgradeStrategy.clusterUpgradeOptions.%s" $key) "say" "is needed with NewClusterWithIncrementalUpgrade") -}}
{{- end -}}
{{- end -}}
{{- range $key := list "ingress" "gateway" -}}
{{- if dig $key "enabled" false ($.root.Values.serve | default dict) -}}
{{- include "ray-service.refuse" (dict "field" (printf "serve.%s.enabled" $key) "say" "does not go with NewClusterWithIncrementalUpgrade: KubeRay makes a Gateway of its own then, and no service that all versions share") -}}
{{- end -}}
{{- end -}}
{{- else if $options -}}
{{- include "ray-service.refuse" (dict "field" "upgradeStrategy.clusterUpgradeOptions" "say" "belongs to the type NewClusterWithIncrementalUpgrade only") -}}
{{- end -}}
{{- end -}}

{{/* What Serve would refuse of the applications, or what would be gone with the first head. */}}
{{- define "ray-service.validateApplications" -}}
{{- $applications := dig "applications" list (.Values.serveConfigV2 | default dict) | default list -}}
{{- if not $applications -}}
{{- include "ray-service.refuse" (dict "field" "serveConfigV2.applications" "say" "is needed, e.g. [{name: recommender, import_path: model:app}]. KubeRay never calls a service ready that serves none") -}}
{{- end -}}
{{- $names := list -}}
{{- $routes := list -}}
{{- range $i, $one := $applications -}}
{{- $field := printf "serveConfigV2.applications[%d]" $i -}}
{{- if not (regexMatch "^[A-Za-z_][\\w.]*[:.][A-Za-z_]\\w*$" ($one.import_path | default "")) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.import_path" $field) "say" (printf "is %q: it has to be module:attribute" ($one.import_path | default ""))) -}}
{{- end -}}
{{- $name := $one.name | default "default" -}}
{{- if has $name $names -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.name" $field) "say" (printf "%q is the name of two applications" $name)) -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- $route := ternary $one.route_prefix "/" (hasKey $one "route_prefix") -}}
{{- if not (kindIs "invalid" $route) -}}
{{- if has $route $routes -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.route_prefix" $field) "say" (printf "%q is that of two applications (unless it is said, it is /)" $route)) -}}
{{- end -}}
{{- $routes = append $routes $route -}}
{{- end -}}
{{- $environments := list ($one.runtime_env | default dict) -}}
{{- range $one.deployments -}}{{- $environments = append $environments (dig "ray_actor_options" "runtime_env" dict . | default dict) -}}{{- end -}}
{{- range $environments -}}
{{- $paths := list -}}
{{- with .working_dir -}}{{- $paths = append $paths . -}}{{- end -}}
{{- range .py_modules -}}{{- $paths = append $paths . -}}{{- end -}}
{{- range $paths -}}
{{- if not (contains "://" .) -}}
{{- include "ray-service.refuse" (dict "field" (printf "%s.runtime_env" $field) "say" (printf "names code on a machine (%s). The cluster fetches it itself: an archive in object storage, e.g. s3://bucket/code.zip, or code in the image" .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
