{{/* The port at which Ray Serve answers. */}}
{{- define "ray-service.servePort" -}}
{{- dig "port" 8000 (.Values.serve | default dict) | default 8000 | int -}}
{{- end -}}

{{/* A peer of a network policy: all pods of some namespaces. Takes their names. */}}
{{- define "ray-service.namespacePeer" -}}
{{- toYaml (dict "namespaceSelector" (dict "matchExpressions" (list (dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" .)))) -}}
{{- end -}}

{{/* Who is named for Serve's port: serve.allowFrom, and the controllers of what the chart makes to reach it. */}}
{{- define "ray-service.servePeers" -}}
{{- $serve := .Values.serve | default dict -}}
{{- $ingress := $serve.ingress | default dict -}}
{{- $gateway := $serve.gateway | default dict -}}
{{- $peers := list -}}
{{- with $serve.allowFrom -}}{{- $peers = concat $peers . -}}{{- end -}}
{{- if and $ingress.enabled $ingress.controllerNamespaces -}}
{{- $peers = append $peers (include "ray-service.namespacePeer" $ingress.controllerNamespaces | fromYaml) -}}
{{- end -}}
{{- if and $gateway.enabled $gateway.namespaces -}}
{{- $peers = append $peers (include "ray-service.namespacePeer" $gateway.namespaces | fromYaml) -}}
{{- end -}}
{{- toYaml $peers -}}
{{- end -}}

{{/* The rules of an Ingress. Takes a dict: hosts, service, port, field. */}}
{{- define "ray-service.ingressRules" -}}
{{- $backend := dict "service" (dict "name" .service "port" (dict "number" .port)) -}}
{{- $rules := list -}}
{{- range .hosts -}}
{{- $host := . -}}
{{- $paths := list -}}
{{- range (.paths | default (list (dict "path" .path "pathType" .pathType))) -}}
{{- $one := . -}}
{{- if kindIs "string" . -}}{{- $one = dict "path" . -}}{{- end -}}
{{- $paths = append $paths (dict "path" ($one.path | default "/") "pathType" ($one.pathType | default $host.pathType | default "Prefix") "backend" $backend) -}}
{{- end -}}
{{- $rule := dict "http" (dict "paths" $paths) -}}
{{- with .host -}}{{- $_ := set $rule "host" . -}}{{- end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- if not $rules -}}
{{- include "ray-service.refuse" (dict "field" .field "say" "is needed, e.g. [{host: ray.example.com}]") -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{/* "yes" if a certificate is named for a host. Takes a dict: host, tls. */}}
{{- define "ray-service.hasCertificate" -}}
{{- $host := .host | default "" -}}
{{- $above := printf "*.%s" (regexReplaceAll "^[^.]*\\." $host "") -}}
{{- range .tls -}}
{{- if or (not .hosts) (has $host .hosts) (has $above .hosts) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is open, as lines for people. */}}
{{- define "ray-service.serveNotes" -}}
{{- $serve := .Values.serve | default dict -}}
{{- $policy := .Values.networkPolicy | default dict -}}
{{- $port := include "ray-service.servePort" . -}}
{{- $closed := dig "enabled" false $policy -}}
{{- $public := list -}}
{{- if dig "enabled" false ($serve.ingress | default dict) -}}{{- $public = append $public "serve.ingress" -}}{{- end -}}
{{- if dig "enabled" false ($serve.gateway | default dict) -}}{{- $public = append $public "serve.gateway" -}}{{- end }}
Ray Serve, where it runs: {{ include "ray-service.serveService" . }}.{{ .Release.Namespace }}.svc:{{ $port }}. That port asks for no token.
{{- if $closed }} The network policy lets in who is named in serve.allowFrom ({{ len ($serve.allowFrom | default list) | default "nobody" }}), the operator
{{- if $serve.allowApiServer }}, the API server as a proxy{{ end }}
{{- if $public }}, the controllers' namespaces{{ end }}; nobody else.
{{- end }}
{{- if and $closed (has $port (splitList "," (join "," (concat ($policy.headPorts | default list) ($policy.workerPorts | default list))))) }}
WARNING: {{ $port }} is among networkPolicy.headPorts or workerPorts: all whom they are open for can call Serve without a token.
{{- end }}
{{- range $serve.allowFrom }}
{{- if has (dig "ipBlock" "cidr" "" .) (list "0.0.0.0/0" "::/0") }}
WARNING: serve.allowFrom names {{ .ipBlock.cidr }}: everybody who can reach the pods can call Serve without a token.
{{- end }}
{{- end }}
{{- range $public }}
WARNING: {{ . }} is on: whoever reaches it can call what is served. Serve asks for no token: your controller, or the application, has to ask who it is.
{{- end }}
{{- if ne (dig "type" "ClusterIP" (.Values.service | default dict) | default "ClusterIP") "ClusterIP" }}
WARNING: service.type is {{ .Values.service.type }}: Serve's port is at it, too, for whom serve.allowFrom names{{ if not $closed }}, and without a network policy for everybody{{ end }}.
{{- end }}
{{- end -}}
