# --- cluster -----------------------------------------------------------------------------------------------------------

variable "name" {
  description = "Name of the cluster, and prefix of everything around it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,34}[a-z0-9])?$", var.name))
    error_message = "name must be 1 to 32 lower-case letters, digits and dashes, and start with a letter."
  }
}

variable "kubernetes_version" {
  description = "Kubernetes version of the control plane and the nodes, such as `1.34`. Null takes EKS' own choice when the cluster is made, and leaves it then. The plan warns when Amazon's standard support has ended."
  type        = string
  default     = null

  validation {
    condition     = var.kubernetes_version == null || can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version such as 1.34."
  }
}

variable "support_type" {
  description = "`STANDARD` upgrades the cluster when a version's standard support ends; `EXTENDED` pays for longer support."
  type        = string
  default     = "STANDARD"
  nullable    = false

  validation {
    condition     = contains(["STANDARD", "EXTENDED"], var.support_type)
    error_message = "support_type must be STANDARD or EXTENDED."
  }
}

variable "auto_mode" {
  description = "Whether EKS runs the nodes itself (Auto Mode), with drivers, NVIDIA's device plugin and the scaling. Each of `node_pools` becomes a NodePool in the output `kubernetes_manifests`; system pods and the Ray head run on pools of its own."
  type        = bool
  default     = false
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether `terraform destroy` is refused, and a plan that would replace the cluster. To destroy, apply with false first. (Works with every version of the AWS provider: a guard in this module, not a setting of AWS.)"
  type        = bool
  default     = false
  nullable    = false
}

variable "control_plane_logs" {
  description = "Control-plane logs that go to CloudWatch."
  type        = set(string)
  default     = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
  nullable    = false

  validation {
    condition     = length(setsubtract(var.control_plane_logs, ["api", "audit", "authenticator", "controllerManager", "scheduler"])) == 0
    error_message = "control_plane_logs may hold api, audit, authenticator, controllerManager and scheduler."
  }
}

variable "log_retention_days" {
  description = "How long control-plane and flow logs are kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a number that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400 and so on."
  }
}

variable "log_drain_seconds" {
  description = "How long after the cluster its log group is destroyed: EKS delivers the last logs late, and would make the group anew, so that a cluster of the same name could not be made again."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.log_drain_seconds >= 0 && var.log_drain_seconds <= 900 && floor(var.log_drain_seconds) == var.log_drain_seconds
    error_message = "log_drain_seconds must be a whole number from 0 to 900."
  }
}

variable "addons" {
  description = <<-EOT
    EKS add-ons, by name. For each: `version` (default: EKS's own choice), `configuration` (JSON), and `before_nodes`:
    whether nodes wait for it (the network plugin: without it no node becomes ready). Not used with Auto Mode.
    `aws-ebs-csi-driver` gets the role that it needs. `eks-node-monitoring-agent` finds GPUs that fail, for node repair.
  EOT
  type = map(object({
    version       = optional(string)
    configuration = optional(string)
    before_nodes  = optional(bool, false)
  }))
  default = {
    vpc-cni                = { before_nodes = true }
    kube-proxy             = { before_nodes = true }
    eks-pod-identity-agent = { before_nodes = true }
    coredns                = {}

    eks-node-monitoring-agent = {}
  }
  nullable = false
}

# --- network -----------------------------------------------------------------------------------------------------------

variable "create_network" {
  description = "Whether to make a VPC. Otherwise `vpc_id` and `private_subnet_ids` say where the cluster goes."
  type        = bool
  default     = true
  nullable    = false
}

variable "vpc_cidr" {
  description = "Addresses of the VPC that is made: /16 to /20."
  type        = string
  default     = "10.0.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false)
    error_message = "vpc_cidr must be an IPv4 network of /16 to /20, such as 10.0.0.0/16."
  }
}

variable "availability_zones" {
  description = "Zones of the VPC that is made. By default the first three of the region in which EKS makes clusters."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.availability_zones) == 0 || (length(var.availability_zones) >= 2 && length(var.availability_zones) <= 4)
    error_message = "availability_zones must be 2 to 4 zones, or none to take the region's first three."
  }
}

variable "nat" {
  description = "How the private nodes of the VPC that is made reach the internet: `single`, `per_zone` or `none`. With `none` the module makes endpoints for what EKS' own parts ask of AWS; every image, Ray's and KubeRay's too, has to come from ECR then."
  type        = string
  default     = "single"
  nullable    = false

  validation {
    condition     = contains(["single", "per_zone", "none"], var.nat)
    error_message = "nat must be single, per_zone or none."
  }
}

variable "flow_logs" {
  description = "Whether the VPC that is made logs its traffic."
  type        = bool
  default     = true
  nullable    = false
}

variable "vpc_id" {
  description = "A VPC that is there already, with `create_network = false`."
  type        = string
  default     = null

  validation {
    condition     = var.create_network == (var.vpc_id == null)
    error_message = "vpc_id goes with create_network = false, and only with it."
  }
}

variable "private_subnet_ids" {
  description = "Private subnets of that VPC, in two zones or more."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = var.create_network ? length(var.private_subnet_ids) == 0 : length(var.private_subnet_ids) >= 2
    error_message = "private_subnet_ids must name 2 subnets or more with create_network = false, and none otherwise."
  }
}

variable "endpoint_public_access" {
  description = "Whether the Kubernetes API can be reached from outside the VPC, too, from `endpoint_public_access_cidrs` alone."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.endpoint_public_access || length(var.endpoint_public_access_cidrs) > 0
    error_message = "endpoint_public_access needs endpoint_public_access_cidrs: name the networks that may reach the Kubernetes API."
  }
}

variable "endpoint_public_access_cidrs" {
  description = "Networks that may reach the public endpoint. The whole internet is refused."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.endpoint_public_access_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "endpoint_public_access_cidrs must be networks such as 203.0.113.0/24, and not the whole internet."
  }
}

variable "private_endpoint_reachable" {
  description = "Whether a peering, a VPN or a transit gateway leads into the VPC that is made, so that the private endpoint can be reached. It only ends the plan's warning."
  type        = bool
  default     = false
  nullable    = false
}

# --- nodes -------------------------------------------------------------------------------------------------------------

variable "system_pool" {
  description = <<-EOT
    The pool without accelerators that carries the system's pods, the KubeRay operator and the Ray head.
    The same keys as in `node_pools`. Null makes none (then `node_pools` needs one without accelerator, or nothing runs).
  EOT
  type = object({
    machine_type = optional(string, "m6i.xlarge")
    capacity     = optional(string, "on_demand")
    min          = optional(number, 1)
    max          = optional(number, 3)
    zones        = optional(list(string), [])
    disk_gib     = optional(number, 100)
    labels       = optional(map(string), {})
    ami          = optional(string)
    node_repair  = optional(bool, true)
    allocatable = optional(object({
      cpu        = number
      memory_gib = number
    }))
  })
  default = {}

  validation {
    condition     = try(contains(["on_demand", "spot"], var.system_pool.capacity), var.system_pool == null)
    error_message = "system_pool: capacity must be on_demand or spot."
  }
  validation {
    condition     = try(var.system_pool.min >= 0 && var.system_pool.min <= var.system_pool.max && var.system_pool.max >= 1, var.system_pool == null)
    error_message = "system_pool: 0 <= min <= max and max >= 1."
  }
}

variable "node_pools" {
  description = "Pools for Ray workers, by name; each becomes a worker group. See `modules/node-pools` for what a pool may say and what is refused."
  type = map(object({
    machine_type        = string
    other_machine_types = optional(list(string), [])
    accelerator = optional(object({
      type  = optional(string)
      count = optional(number)
    }))
    capacity              = optional(string, "on_demand")
    reservation_id        = optional(string)
    reservation_group_arn = optional(string)
    min                   = optional(number)
    max                   = optional(number, 1)
    zones                 = optional(list(string), [])
    disk_gib              = optional(number, 100)
    labels                = optional(map(string), {})
    taints = optional(list(object({
      key    = string
      value  = optional(string, "")
      effect = optional(string, "NoSchedule")
    })), [])
    ami             = optional(string)
    ami_release     = optional(string)
    efa             = optional(bool, false)
    placement_group = optional(bool, false)
    local_disks     = optional(bool, false)
    node_repair     = optional(bool, true)
    allocatable = optional(object({
      cpu        = number
      memory_gib = number
    }))
  }))
  default  = {}
  nullable = false

  validation {
    condition     = !var.auto_mode || alltrue([for pool in values(var.node_pools) : contains(["on_demand", "spot"], pool.capacity) && pool.ami == null && pool.ami_release == null && !pool.efa && !pool.placement_group && !pool.local_disks && pool.disk_gib == 100])
    error_message = "node_pools: with auto_mode EKS chooses image and disks of the nodes. A pool says machine_type, other_machine_types, capacity (on_demand or spot), max, zones, labels and taints; no ami, ami_release, disk_gib, local_disks, efa, placement_group or reservation."
  }
  validation {
    condition     = !contains(keys(var.node_pools), "system")
    error_message = "node_pools: the name system is the system pool's."
  }
}

variable "volume_kms_key_arn" {
  description = "KMS key of the nodes' disks; EC2 Auto Scaling must be allowed to use it. Null encrypts with the account's own key for disks."
  type        = string
  default     = null
}

# --- identity ----------------------------------------------------------------------------------------------------------

variable "creator_is_admin" {
  description = "Whether whoever makes the cluster may administer it. The DAG that makes it needs that to install Ray. It counts when the cluster is made: a later change does nothing but warn."
  type        = bool
  default     = true
  nullable    = false
}

variable "access_entries" {
  description = <<-EOT
    Who else may use the Kubernetes API, by any key. For each: `principal_arn` (IAM role or user), `policy`: `cluster_admin`,
    `admin`, `edit` or `view`, and `namespaces` it is limited to (default: all). `kubernetes_groups` for RBAC of your own.
  EOT
  type = map(object({
    principal_arn     = string
    policy            = optional(string)
    namespaces        = optional(list(string), [])
    kubernetes_groups = optional(list(string), [])
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for entry in values(var.access_entries) : entry.policy == null || contains(["cluster_admin", "admin", "edit", "view"], coalesce(entry.policy, "-"))])
    error_message = "access_entries: policy must be cluster_admin, admin, edit or view."
  }
  validation {
    condition     = alltrue([for entry in values(var.access_entries) : entry.policy != null || length(entry.kubernetes_groups) > 0])
    error_message = "access_entries: policy or kubernetes_groups must be given."
  }
}

variable "identity_mode" {
  description = "How service accounts get their IAM role: `pod_identity`, or `irsa` (makes an OIDC provider in IAM)."
  type        = string
  default     = "pod_identity"
  nullable    = false

  validation {
    condition     = contains(["pod_identity", "irsa"], var.identity_mode)
    error_message = "identity_mode must be pod_identity or irsa."
  }
}

variable "service_accounts" {
  description = <<-EOT
    Kubernetes service accounts that act in AWS, by any key. For each: `namespace`, `name`, `bucket_access` (`none`, `read`
    or `write`, on this module's bucket), `policy_arns` (further IAM policies, by any key).
  EOT
  type = map(object({
    namespace     = string
    name          = string
    bucket_access = optional(string, "none")
    policy_arns   = optional(map(string), {})
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for account in values(var.service_accounts) : account.bucket_access == "none" || var.bucket_mode != "none"])
    error_message = "service_accounts: bucket_access needs a bucket: set bucket_mode."
  }
  validation {
    condition     = !contains(keys(var.service_accounts), "cluster-autoscaler")
    error_message = "service_accounts: the key cluster-autoscaler is the module's own."
  }
}

variable "ray_service_account" {
  description = "Which key of `service_accounts` the Ray pods run as (goes into `ray_helm_values`). Null leaves the chart's choice."
  type        = string
  default     = null

  validation {
    condition     = var.ray_service_account == null || contains(keys(var.service_accounts), coalesce(var.ray_service_account, "-"))
    error_message = "ray_service_account must be a key of service_accounts."
  }
}

variable "cluster_autoscaler" {
  description = "The Kubernetes cluster autoscaler, which pools with min 0 need: its identity, and how the output `kubernetes_manifests` has it. `image` is by default the first release for the cluster's Kubernetes version; name one in your registry where nodes have no way out, or a newer patch."
  type = object({
    enabled         = optional(bool, true)
    namespace       = optional(string, "kube-system")
    service_account = optional(string, "cluster-autoscaler")
    image           = optional(string)
  })
  default  = {}
  nullable = false
}

# --- storage and encryption --------------------------------------------------------------------------------------------

variable "bucket_mode" {
  description = "`create` makes a bucket for Ray's data, `existing` takes `bucket_name`, `none` has none."
  type        = string
  default     = "create"
  nullable    = false

  validation {
    condition     = contains(["create", "existing", "none"], var.bucket_mode)
    error_message = "bucket_mode must be create, existing or none."
  }
}

variable "bucket_name" {
  description = "A bucket that is there already, with `bucket_mode = \"existing\"`."
  type        = string
  default     = null

  validation {
    condition     = (var.bucket_mode == "existing") == (var.bucket_name != null)
    error_message = "bucket_name goes with bucket_mode = existing, and only with it."
  }
}

variable "bucket_kms_key_arn" {
  description = "The KMS key of an existing bucket, so that `bucket_access` includes it: without it every read and write of an encrypted object is refused. Its policy has to leave the decision to IAM."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_kms_key_arn == null || var.bucket_mode == "existing"
    error_message = "bucket_kms_key_arn goes with bucket_mode = existing: the bucket that is made has the module's key."
  }
}

variable "bucket_force_destroy" {
  description = "Whether destroying the bucket deletes the objects in it. Otherwise destroying stops at a bucket with objects."
  type        = bool
  default     = false
  nullable    = false
}

variable "create_kms_key" {
  description = "Whether to make a KMS key for Kubernetes secrets, logs and the bucket. Otherwise `kms_key_arn` names one."
  type        = bool
  default     = true
  nullable    = false
}

variable "kms_key_arn" {
  description = "A KMS key that is there already, with `create_kms_key = false`. CloudWatch Logs must be allowed to use it."
  type        = string
  default     = null

  validation {
    condition     = var.create_kms_key == (var.kms_key_arn == null)
    error_message = "kms_key_arn goes with create_kms_key = false, and only with it."
  }
}

# --- ray ---------------------------------------------------------------------------------------------------------------

variable "ray_head" {
  description = "What the Ray head asks for: `cpu` and `memory_gib`. Never more than a node of the system pool can give."
  type = object({
    cpu        = optional(number, 2)
    memory_gib = optional(number, 8)
  })
  default  = {}
  nullable = false
}

variable "device_plugin_image" {
  description = "Image of NVIDIA's device plugin in `kubernetes_manifests`."
  type        = string
  default     = "nvcr.io/nvidia/k8s-device-plugin:v0.17.1"
  nullable    = false
}

variable "gpu_image" {
  description = "Image of the worker groups with GPUs in `ray_helm_values`: `repository`, `tag`, `digest`; what is not said is as for the whole cluster. It counts more than a profile, and less than `values`. Null leaves the cluster's image: name the `-gpu` image of the Ray version that you use."
  type = object({
    repository = optional(string)
    tag        = optional(string)
    digest     = optional(string)
  })
  default = null

  validation {
    condition     = var.gpu_image == null || try(coalesce(var.gpu_image.repository, var.gpu_image.tag, var.gpu_image.digest), null) != null
    error_message = "gpu_image needs repository, tag or digest."
  }
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "cluster_tags" {
  description = "Tags of the cluster alone. Those named `airflow-ray-run`, `-expires`, `-version` and `-used` are written when it is made, and changes of them are ignored."
  type        = map(string)
  default     = {}
  nullable    = false
}
