# What has to run in the cluster before a pod with GPUs gets a node, as Kubernetes objects: Terraform hands them out, and
# installs nothing (one provider; whoever has an administrator's rights applies them). Written from the documentation,
# and not run on AWS: see docs/infrastructure.md.

locals {
  plugin_pools = var.auto_mode ? [] : sort(flatten(module.node_pools[*].device_plugin_pools))

  # https://github.com/NVIDIA/k8s-device-plugin: the kubelet learns of the GPUs through a socket in its own folder.
  device_plugin = [for pools in [local.plugin_pools] : {
    apiVersion = "apps/v1"
    kind       = "DaemonSet"
    metadata   = { name = "nvidia-device-plugin-daemonset", namespace = "kube-system", labels = local.ours }
    spec = {
      selector = { matchLabels = { name = "nvidia-device-plugin-ds" } }
      template = {
        metadata = { labels = { name = "nvidia-device-plugin-ds" } }
        spec = {
          priorityClassName            = "system-node-critical"
          automountServiceAccountToken = false
          affinity = { nodeAffinity = { requiredDuringSchedulingIgnoredDuringExecution = { nodeSelectorTerms = [
            { matchExpressions = [{ key = "ray-pool", operator = "In", values = pools }] },
          ] } } }
          tolerations = [{ operator = "Exists" }]
          containers = [{
            name  = "nvidia-device-plugin-ctr"
            image = var.device_plugin_image
            securityContext = {
              allowPrivilegeEscalation = false
              capabilities             = { drop = ["ALL"] }
            }
            volumeMounts = [{ name = "device-plugin", mountPath = "/var/lib/kubelet/device-plugins" }]
          }]
          volumes = [{ name = "device-plugin", hostPath = { path = "/var/lib/kubelet/device-plugins" } }]
        }
      }
    }
  } if length(pools) > 0]

  # https://github.com/kubernetes/autoscaler/tree/master/cluster-autoscaler: of the minor version that the cluster has. It
  # finds the groups by the tags that EKS puts on them.
  autoscaler_account = { for key, account in local.autoscaler : "account" => {
    name        = account.name
    namespace   = account.namespace
    annotations = module.service_accounts.service_accounts[key].annotations
  } }
  autoscaler_reads = {
    ""                     = ["namespaces", "persistentvolumeclaims", "persistentvolumes", "pods", "replicationcontrollers", "services"]
    "apps"                 = ["daemonsets", "replicasets", "statefulsets"]
    "batch"                = ["jobs"]
    "policy"               = ["poddisruptionbudgets"]
    "resource.k8s.io"      = ["deviceclasses", "resourceclaims", "resourceslices"]
    "storage.k8s.io"       = ["csidrivers", "csinodes", "csistoragecapacities", "storageclasses", "volumeattachments"]
    "autoscaling.x-k8s.io" = ["provisioningrequests", "capacitybuffers"]
  }
  autoscaler_rules = concat(
    [for group, kinds in local.autoscaler_reads : { apiGroups = [group], resources = kinds, verbs = ["get", "list", "watch"], resourceNames = [] }],
    [
      { apiGroups = [""], resources = ["nodes"], verbs = ["get", "list", "watch", "update", "patch", "delete"], resourceNames = [] },
      { apiGroups = [""], resources = ["events"], verbs = ["create", "patch"], resourceNames = [] },
      { apiGroups = [""], resources = ["pods/eviction"], verbs = ["create"], resourceNames = [] },
      { apiGroups = [""], resources = ["pods/status"], verbs = ["update"], resourceNames = [] },
    ],
  )
  autoscaler_own = [
    { apiGroups = [""], resources = ["configmaps"], verbs = ["create", "list", "watch"], resourceNames = [] },
    { apiGroups = [""], resources = ["configmaps"], verbs = ["get", "update", "delete", "watch"], resourceNames = ["cluster-autoscaler-status", "cluster-autoscaler-priority-expander"] },
    { apiGroups = ["coordination.k8s.io"], resources = ["leases"], verbs = ["create"], resourceNames = [] },
    { apiGroups = ["coordination.k8s.io"], resources = ["leases"], verbs = ["get", "update"], resourceNames = ["cluster-autoscaler"] },
  ]
  cluster_autoscaler = flatten([for account in values(local.autoscaler_account) : [
    jsonencode({
      apiVersion = "v1"
      kind       = "ServiceAccount"
      metadata   = { name = account.name, namespace = account.namespace, annotations = account.annotations, labels = local.ours }
    }),
    jsonencode({
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = "ClusterRole"
      metadata   = { name = "cluster-autoscaler", labels = local.ours }
      rules      = local.autoscaler_rules
    }),
    jsonencode({
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = "ClusterRoleBinding"
      metadata   = { name = "cluster-autoscaler", labels = local.ours }
      roleRef    = { apiGroup = "rbac.authorization.k8s.io", kind = "ClusterRole", name = "cluster-autoscaler" }
      subjects   = [{ kind = "ServiceAccount", name = account.name, namespace = account.namespace }]
    }),
    jsonencode({
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = "Role"
      metadata   = { name = "cluster-autoscaler", namespace = account.namespace, labels = local.ours }
      rules      = local.autoscaler_own
    }),
    jsonencode({
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = "RoleBinding"
      metadata   = { name = "cluster-autoscaler", namespace = account.namespace, labels = local.ours }
      roleRef    = { apiGroup = "rbac.authorization.k8s.io", kind = "Role", name = "cluster-autoscaler" }
      subjects   = [{ kind = "ServiceAccount", name = account.name, namespace = account.namespace }]
    }),
    jsonencode({
      apiVersion = "apps/v1"
      kind       = "Deployment"
      metadata   = { name = "cluster-autoscaler", namespace = account.namespace, labels = local.ours }
      spec = {
        replicas = 1
        selector = { matchLabels = { app = "cluster-autoscaler" } }
        template = {
          metadata = { labels = { app = "cluster-autoscaler" } }
          spec = {
            priorityClassName  = "system-cluster-critical"
            serviceAccountName = account.name
            nodeSelector       = { for key in ["ray-pool"] : key => "system" if length(local.system_pool) > 0 }
            securityContext    = { runAsNonRoot = true, runAsUser = 65534, fsGroup = 65534, seccompProfile = { type = "RuntimeDefault" } }
            containers = [{
              name  = "cluster-autoscaler"
              image = coalesce(var.cluster_autoscaler.image, "registry.k8s.io/autoscaling/cluster-autoscaler:v${aws_eks_cluster.this.version}.0")
              command = [
                "./cluster-autoscaler",
                "--cloud-provider=aws",
                "--namespace=${account.namespace}",
                "--node-group-auto-discovery=asg:tag=k8s.io/cluster-autoscaler/enabled,k8s.io/cluster-autoscaler/${var.name}",
                "--expander=least-waste",
              ]
              # The region can't be asked of the node: pods don't reach its metadata.
              env             = [{ name = "AWS_REGION", value = local.region }]
              resources       = { requests = { cpu = "100m", memory = "600Mi" }, limits = { memory = "1Gi" } }
              securityContext = { allowPrivilegeEscalation = false, readOnlyRootFilesystem = true, capabilities = { drop = ["ALL"] } }
            }]
          }
        }
      }
    }),
  ]])

  # https://docs.aws.amazon.com/eks/latest/userguide/create-node-pool.html and auto-accelerated.html (read 2026-11-29):
  # Auto Mode brings drivers, NVIDIA's device plugin and the scaling; the class `default` comes with its own pools.
  auto_pools = [for name, pool in var.auto_mode ? var.node_pools : {} : {
    apiVersion = "karpenter.sh/v1"
    kind       = "NodePool"
    metadata   = { name = name, labels = local.ours }
    spec = {
      limits     = { cpu = tostring(pool.max * module.node_pools[0].machine_vcpus[pool.machine_type]) }
      disruption = { consolidationPolicy = "WhenEmpty", consolidateAfter = "300s" }
      template = {
        metadata = { labels = merge(pool.labels, { "ray-pool" = name }) }
        spec = {
          nodeClassRef = { group = "eks.amazonaws.com", kind = "NodeClass", name = "default" }
          taints       = [for taint in module.node_pools[0].taints[name] : { key = taint.key, value = taint.value, effect = taint.effect }]
          requirements = concat(
            [
              { key = "node.kubernetes.io/instance-type", operator = "In", values = concat([pool.machine_type], pool.other_machine_types) },
              { key = "karpenter.sh/capacity-type", operator = "In", values = [pool.capacity == "spot" ? "spot" : "on-demand"] },
            ],
            [for zones in [pool.zones] : { key = "topology.kubernetes.io/zone", operator = "In", values = zones } if length(zones) > 0],
          )
        }
      }
    }
  }]

  ours = { "app.kubernetes.io/managed-by" = "airflow-ray" }

  kubernetes_manifests = concat(
    [for item in local.device_plugin : jsonencode(item)],
    local.cluster_autoscaler,
    [for item in local.auto_pools : jsonencode(item)],
  )
}
