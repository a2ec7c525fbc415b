variable "cluster_name" {
  description = "The EKS cluster that the pools join."
  type        = string
  nullable    = false
}

variable "kubernetes_version" {
  description = "Kubernetes version of the nodes, such as 1.33. Null takes the cluster's when a pool is made and leaves it then."
  type        = string
  default     = null
}

variable "cluster_security_group_id" {
  description = "The security group that EKS made for the cluster. Needed by pools with EFA; the others get it from EKS."
  type        = string
  default     = null
}

variable "vpc_id" {
  description = "The cluster's VPC. Needed by pools with EFA."
  type        = string
  default     = null
}

variable "subnets" {
  description = "Private subnets to put nodes into, each with its zone."
  type        = list(object({ id = string, zone = string }))
  nullable    = false

  validation {
    condition     = length(var.subnets) > 0
    error_message = "subnets must name at least one subnet."
  }
}

variable "node_role_arn" {
  description = "An IAM role for the nodes that is there already, with `create_node_role = false`."
  type        = string
  default     = null
}

variable "create_node_role" {
  description = "Whether to make the nodes' IAM role here."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = var.create_node_role || var.node_role_arn != null
    error_message = "create_node_role = false needs node_role_arn."
  }
}

variable "volume_kms_key_arn" {
  description = "KMS key of the nodes' disks; EC2 Auto Scaling must be allowed to use it. Null encrypts with the account's own key for disks."
  type        = string
  default     = null
}

variable "pools" {
  description = <<-EOT
    Node pools, by name. For each:
    - `machine_type`: an EC2 instance type, such as `m6i.2xlarge` or `g5.12xlarge`. `other_machine_types`: what else may be
      taken, for spot: with as many accelerators of that kind, and the same architecture. A worker asks for the CPUs and the
      memory that the least of them has.
    - `accelerator`: inferred from the machine type. `{type, count}` here is checked against it, and a difference refused.
    - `capacity`: `on_demand`, `spot`, `reservation` (needs `reservation_id` or `reservation_group_arn`) or
      `capacity_block` (needs `reservation_id`; min 0 until the block starts). Exactly one of them. `flex_start` and
      `queued` are Google Cloud's.
    - `min`, `max`: nodes. `min` is 0 by default for accelerators, else 1. The cluster autoscaler moves between them.
    - `zones`: where; by default every subnet's zone that has the machine type. A pool with EFA, a placement group or a capacity block has one zone.
    - `disk_gib`: size of the encrypted gp3 disk.
    - `labels`, `taints`: in addition to the module's own (label `ray-pool`, and a taint for accelerators, whose value may
      be another one). A taint's effect may be spelled as in Kubernetes or as in AWS.
    - `ami`: EKS AMI type; inferred: `AL2023_x86_64_STANDARD`, `AL2023_x86_64_NVIDIA`, `AL2023_x86_64_NEURON`,
      `AL2023_ARM_64_STANDARD`. `ami_release`: its release version.
    - `efa`: Elastic Fabric Adapter on as many interfaces as the machine type has. Workers ask for all of them, and for huge
      pages where the AMI sets them aside; AWS' EFA device plugin has to be installed. `placement_group`: a cluster
      placement group of its own.
    - `local_disks`: the machine's own NVMe disks, as one RAID 0, carry images, logs and what pods write: Ray spills there.
    - `node_repair`: EKS replaces nodes that fail; GPUs that do are found by the add-on `eks-node-monitoring-agent`.
    - `allocatable`: what Ray may ask of a node, `{cpu, memory_gib}`; by default computed from the machine type.
  EOT
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
    condition     = alltrue([for name in keys(var.pools) : can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", name))])
    error_message = "pools: a name is 1 to 40 lower-case letters, digits and dashes, and starts with a letter."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : alltrue([for type in concat([pool.machine_type], pool.other_machine_types) : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", type))])])
    error_message = "pools: machine_type must be an EC2 instance type such as g5.12xlarge."
  }
}

variable "create" {
  description = "Whether to make the pools. Otherwise this module only says what their machines have: for nodes that something else makes (Auto Mode, Karpenter)."
  type        = bool
  default     = true
  nullable    = false
}

variable "autoscaler_tags" {
  description = "Whether to tell the cluster autoscaler, by tags of the Auto Scaling groups, what nodes of an empty pool would have."
  type        = bool
  default     = true
  nullable    = false
}

variable "tags" {
  description = "Tags of everything that is made here, nodes and disks included."
  type        = map(string)
  default     = {}
  nullable    = false
}
