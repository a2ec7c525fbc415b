{{/*
A security context: the chart's defaults below what the user says, without what would contradict it.
Takes a dict: defaults, own.
*/}}
{{- define "ray-service.security" -}}
{{- $own := .own | default dict -}}
{{- $context := mergeOverwrite (deepCopy .defaults) (deepCopy $own) -}}
{{- if $own.privileged -}}
{{- range $key := list "allowPrivilegeEscalation" "capabilities" -}}
{{- if not (hasKey $own $key) -}}{{- $_ := unset $context $key -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey $own "runAsUser") (eq (include "ray-service.string" $own.runAsUser) "0") (not (hasKey $own "runAsNonRoot")) -}}
{{- $_ := set $context "runAsNonRoot" false -}}
{{- end -}}
{{- if has "SYS_ADMIN" (dig "capabilities" "add" list $own) -}}
{{- if not (hasKey $own "allowPrivilegeEscalation") -}}{{- $_ := unset $context "allowPrivilegeEscalation" -}}{{- end -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "ray-service.podSecurityDefaults" -}}
{{- $security := .Values.podSecurity | default dict -}}
{{- $out := dict -}}
{{- if $security.enabled -}}
{{- with $security.seccompProfile -}}{{- $_ := set $out "seccompProfile" (dict "type" .) -}}{{- end -}}
{{- if $security.runAsNonRoot -}}
{{- $_ := set $out "runAsNonRoot" true -}}
{{- if not (kindIs "invalid" $security.runAsUser) -}}{{- $_ := set $out "runAsUser" $security.runAsUser -}}{{- end -}}
{{- end -}}
{{- if not (kindIs "invalid" $security.fsGroup) -}}
{{- $_ := set $out "fsGroup" $security.fsGroup -}}
{{- $_ := set $out "fsGroupChangePolicy" "OnRootMismatch" -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{- define "ray-service.containerSecurityDefaults" -}}
{{- $security := .Values.podSecurity | default dict -}}
{{- $out := dict -}}
{{- if $security.enabled -}}
{{- $_ := set $out "allowPrivilegeEscalation" false -}}
{{- $_ := set $out "capabilities" (dict "drop" (list "ALL")) -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* The user's further containers, hardened like Ray's own. Takes a dict: root, containers. */}}
{{- define "ray-service.containers" -}}
{{- $defaults := include "ray-service.containerSecurityDefaults" .root | fromYaml -}}
{{- $out := list -}}
{{- range .containers -}}
{{- $container := deepCopy . -}}
{{- with include "ray-service.security" (dict "defaults" $defaults "own" .securityContext) | fromYaml -}}
{{- $_ := set $container "securityContext" . -}}
{{- end -}}
{{- with .env -}}{{- $_ := set $container "env" (include "ray-service.env" . | fromYamlArray) -}}{{- end -}}
{{- $out = append $out $container -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* Environment variables with values that are strings. */}}
{{- define "ray-service.env" -}}
{{- $out := list -}}
{{- range . -}}
{{- $variable := deepCopy . -}}
{{- if hasKey . "value" -}}{{- $_ := set $variable "value" (include "ray-service.string" .value) -}}{{- end -}}
{{- $out = append $out $variable -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* Resource requirements, fractions as strings: the definitions refuse a bare 0.5. */}}
{{- define "ray-service.resources" -}}
{{- $out := deepCopy . -}}
{{- range $part := list "limits" "requests" -}}
{{- with get $out $part -}}
{{- $quantities := dict -}}
{{- range $name, $quantity := . -}}
{{- if and (kindIs "float64" $quantity) (ne (float64 (floor $quantity)) $quantity) -}}
{{- $_ := set $quantities $name (include "ray-service.string" $quantity) -}}
{{- else -}}
{{- $_ := set $quantities $name $quantity -}}
{{- end -}}
{{- end -}}
{{- $_ := set $out $part $quantities -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* "yes" if the autoscaler alone gets a token for the Kubernetes API: a volume that only its container mounts. */}}
{{- define "ray-service.autoscalerToken" -}}
{{- $head := .Values.head | default dict -}}
{{- $podSpec := $head.podSpec | default dict -}}
{{- if and $head.enableInTreeAutoscaling (not $head.automountServiceAccountToken) (not $podSpec.automountServiceAccountToken) -}}yes{{- end -}}
{{- end -}}

{{/*
A group with what all groups have in common: lists are put before its own (what is there by name, or the same mount, it
has from itself), maps below its own. Takes a dict: common, group.
*/}}
{{- define "ray-service.withCommon" -}}
{{- $common := .common -}}
{{- $group := deepCopy .group -}}
{{- range $key, $by := dict "volumes" "name" "volumeMounts" "mountPath" "tolerations" "" -}}
{{- with get $common $key -}}
{{- $own := get $group $key | default list -}}
{{- $taken := list -}}
{{- if $by -}}{{- range $own -}}{{- $taken = append $taken (get . $by) -}}{{- end -}}{{- end -}}
{{- $all := list -}}
{{- range . -}}{{- if not (and $by (has (get . $by) $taken)) -}}{{- $all = append $all . -}}{{- end -}}{{- end -}}
{{- $_ := set $group $key (concat $all $own) -}}
{{- end -}}
{{- end -}}
{{- range $key := list "nodeSelector" "podSpec" -}}
{{- with get $common $key -}}{{- $_ := set $group $key (mergeOverwrite (deepCopy .) (deepCopy (get $group $key | default dict))) -}}{{- end -}}
{{- end -}}
{{- toYaml $group -}}
{{- end -}}

{{/* The pod template of a group. Takes a dict: root, group, kind (head or worker), never (restartPolicy Never). */}}
{{- define "ray-service.podTemplate" -}}
{{- $root := .root -}}
{{- $group := include "ray-service.withCommon" (dict "common" ($root.Values.common | default dict) "group" .group) | fromYaml -}}
{{- $image := include "ray-service.image" (dict "root" $root "group" $group) | fromYaml -}}
{{- /* The Ray container */ -}}
{{- $container := dict "name" (printf "ray-%s" .kind) "image" (include "ray-service.imageName" $image) -}}
{{- with $image.pullPolicy -}}{{- $_ := set $container "imagePullPolicy" . -}}{{- end -}}
{{- range $key := list "command" "args" "envFrom" "volumeMounts" "ports" "lifecycle" -}}
{{- with get $group $key -}}{{- $_ := set $container $key . -}}{{- end -}}
{{- end -}}
{{- with $group.resources -}}
{{- $_ := set $container "resources" (include "ray-service.resources" . | fromYaml) -}}
{{- end -}}
{{- $env := concat (dig "containerEnv" list ($root.Values.common | default dict) | default list) ($group.containerEnv | default list) -}}
{{- if and (eq (dig "mode" "" ($root.Values.authOptions | default dict)) "disabled") (include "ray-service.tokenByDefault" $root) -}}
{{- $env = append $env (dict "name" "RAY_AUTH_MODE" "value" "disabled") -}}
{{- end -}}
{{- with $env -}}{{- $_ := set $container "env" (include "ray-service.env" . | fromYamlArray) -}}{{- end -}}
{{- $defaults := include "ray-service.containerSecurityDefaults" $root | fromYaml -}}
{{- with include "ray-service.security" (dict "defaults" $defaults "own" $group.securityContext) | fromYaml -}}
{{- $_ := set $container "securityContext" . -}}
{{- end -}}
{{- with $group.containerSpec -}}{{- $container = mergeOverwrite $container (deepCopy .) -}}{{- end -}}
{{- /* The pod */ -}}
{{- $pod := dict "containers" (list $container) -}}
{{- with $group.sidecarContainers -}}
{{- $_ := set $pod "containers" (concat (list $container) (include "ray-service.containers" (dict "root" $root "containers" .) | fromYamlArray)) -}}
{{- end -}}
{{- with $group.initContainers -}}
{{- $_ := set $pod "initContainers" (include "ray-service.containers" (dict "root" $root "containers" .) | fromYamlArray) -}}
{{- end -}}
{{- with $root.Values.imagePullSecrets -}}{{- $_ := set $pod "imagePullSecrets" . -}}{{- end -}}
{{- range $key := list "volumes" "dnsConfig" "affinity" "tolerations" "priorityClassName" "priority" "topologySpreadConstraints" "restartPolicy" "runtimeClassName" "serviceAccountName" "resourceClaims" -}}
{{- with get $group $key -}}{{- $_ := set $pod $key . -}}{{- end -}}
{{- end -}}
{{- with $group.nodeSelector -}}{{- $_ := set $pod "nodeSelector" (include "ray-service.stringMap" . | fromYaml) -}}{{- end -}}
{{- if and .never (not $pod.restartPolicy) -}}{{- $_ := set $pod "restartPolicy" "Never" -}}{{- end -}}
{{- with include "ray-service.security" (dict "defaults" (include "ray-service.podSecurityDefaults" $root | fromYaml) "own" $group.podSecurityContext) | fromYaml -}}
{{- $_ := set $pod "securityContext" . -}}
{{- end -}}
{{- $_ := set $pod "automountServiceAccountToken" ($group.automountServiceAccountToken | default false) -}}
{{- if and (eq .kind "head") (include "ray-service.autoscalerToken" $root) -}}
{{- $sources := list
      (dict "serviceAccountToken" (dict "path" "token" "expirationSeconds" 3607))
      (dict "configMap" (dict "name" "kube-root-ca.crt" "items" (list (dict "key" "ca.crt" "path" "ca.crt"))))
      (dict "downwardAPI" (dict "items" (list (dict "path" "namespace" "fieldRef" (dict "apiVersion" "v1" "fieldPath" "metadata.namespace"))))) -}}
{{- $_ := set $pod "volumes" (append ($pod.volumes | default list) (dict "name" "autoscaler-token" "projected" (dict "sources" $sources))) -}}
{{- end -}}
{{- with $group.podSpec -}}{{- $pod = mergeOverwrite $pod (deepCopy .) -}}{{- end -}}
{{- /* Its labels: no chart version here, a newer chart alone must not replace pods */ -}}
{{- $labels := dict "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $labels = mergeOverwrite $labels (include "ray-service.stringMap" ($root.Values.podLabels | default dict) | fromYaml) (include "ray-service.stringMap" ($group.labels | default dict) | fromYaml) (include "ray-service.selected" $root | fromYaml) -}}
{{- $metadata := dict "labels" $labels -}}
{{- with mergeOverwrite (include "ray-service.stringMap" ($root.Values.podAnnotations | default dict) | fromYaml) (include "ray-service.stringMap" ($group.annotations | default dict) | fromYaml) -}}
{{- $_ := set $metadata "annotations" . -}}
{{- end -}}
{{- toYaml (dict "metadata" $metadata "spec" $pod) -}}
{{- end -}}

{{/* "yes" if this Ray asks for a token unless told not to. */}}
{{- define "ray-service.tokenByDefault" -}}
{{- $version := include "ray-service.rayVersion" . -}}
{{- if $version -}}{{- if semverCompare ">=2.61.0-0" $version -}}yes{{- end -}}{{- end -}}
{{- end -}}
