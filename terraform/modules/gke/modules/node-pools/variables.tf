variable "project" {
  description = "The Google Cloud project."
  type        = string
  nullable    = false
}

variable "location" {
  description = "The cluster's region or zone."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+(-[a-z])?$", var.location))
    error_message = "location must be a region such as europe-west4, or a zone such as europe-west4-a."
  }
}

variable "zones" {
  description = "The cluster's zones, for pools that name none. By default all of the region are asked for the machine type; GKE takes three of them."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "cluster" {
  description = "The GKE cluster that the pools join: its name or id."
  type        = string
  nullable    = false
}

variable "cluster_name" {
  description = "The cluster's name; prefix of what is made here."
  type        = string
  nullable    = false
}

variable "node_service_account" {
  description = "Email of the service account that the nodes run as. Not the project's default one, which may do too much."
  type        = string
  nullable    = false
}

variable "boot_disk_kms_key" {
  description = "Cloud KMS key of the nodes' disks. Null encrypts with Google's keys."
  type        = string
  default     = null
}

variable "pools" {
  description = <<-EOT
    Node pools, by name. For each:
    - `machine_type`: such as `n2-standard-8`, `g2-standard-48`, `a3-highgpu-8g`, `ct6e-standard-4t`.
    - `accelerator`: `{type, count}`, inferred for machine types that always have accelerators (a2, a3, a4, g2, g4, TPUs); what
      is said here is checked against it. For n1 machines and types this module doesn't know it has to be said.
    - `capacity`: `on_demand`, `spot`, `reservation` (needs `reservation_name`), `flex_start` (starts when there is
      capacity, ends after `max_run_duration`) or `queued` (whole jobs by Kueue's provisioning requests). Exactly one of
      them. `capacity_block` is AWS's.
    - `min`, `max`: nodes in all zones together; for slices of several TPU hosts the number of slices, 0 or 1. `min` is 0
      by default for accelerators, else 1. (A pool without accelerators begins with whole zones: `min = 1` in three zones
      with three nodes, of which the autoscaler takes back the idle ones; one with accelerators never with more than
      `min`, and what lacks comes with the first pods.)
    - `zones`: where; the cluster's by default. Each has to offer the machine type. A TPU slice of several hosts, TPUs
      with `flex_start` and `compact_placement` need exactly one.
    - `disk_gib`, `disk_type`: the boot disk.
    - `labels`, `taints`: in addition to the module's own (label `ray-pool`, and a taint for accelerators). A taint's
      effect may be spelled as in Kubernetes or as in Google Cloud.
    - `gpu_driver`: `LATEST`, `DEFAULT` or `INSTALLATION_DISABLED`. `gpu_sharing`: `{strategy, clients}`, strategy
      `TIME_SHARING` or `MPS`.
    - `tpu_topology`: such as `4x4`; the machine's own by default. More chips than a machine has make a slice of several
      hosts.
    - `gvnic`, `image_streaming`, `compact_placement`.
    - `ordinary_network`: a3-…gpu-8g, a4 and h4d machines reach their speed over networks for GPUDirect or RDMA, which this
      module does not make: more than one (`max`) is refused unless this says that the ordinary network will do.
    - `allocatable`: what Ray may ask of a node, `{cpu, memory_gib}`; by default what the cloud says of the machine type,
      less what GKE reserves.
  EOT
  type = map(object({
    machine_type = string
    accelerator = optional(object({
      type  = optional(string)
      count = optional(number)
    }))
    capacity         = optional(string, "on_demand")
    reservation_name = optional(string)
    max_run_duration = optional(string)
    min              = optional(number)
    max              = optional(number, 1)
    zones            = optional(list(string), [])
    disk_gib         = optional(number, 100)
    disk_type        = optional(string)
    labels           = optional(map(string), {})
    taints = optional(list(object({
      key    = string
      value  = optional(string, "")
      effect = optional(string, "NoSchedule")
    })), [])
    gpu_driver = optional(string, "LATEST")
    gpu_sharing = optional(object({
      strategy = string
      clients  = number
    }))
    tpu_topology      = optional(string)
    gvnic             = optional(bool, true)
    image_streaming   = optional(bool, true)
    compact_placement = optional(bool, false)
    ordinary_network  = optional(bool, false)
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
    condition     = alltrue([for pool in values(var.pools) : can(regex("^[a-z][a-z0-9]*-[a-z0-9-]+$", pool.machine_type))])
    error_message = "pools: machine_type must be a Compute Engine machine type such as g2-standard-48."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : contains(["on_demand", "spot", "reservation", "flex_start", "queued"], pool.capacity)])
    error_message = "pools: capacity must be on_demand, spot, reservation, flex_start or queued on Google Cloud (capacity_block is AWS's)."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : (pool.capacity == "reservation") == (pool.reservation_name != null)])
    error_message = "pools: capacity = reservation needs reservation_name, and the other capacities exclude it."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.max_run_duration == null || (contains(["flex_start", "queued"], pool.capacity) && can(regex("^[0-9]+s$", pool.max_run_duration)))])
    error_message = "pools: max_run_duration is for flex_start and queued, in seconds, such as 86400s."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : coalesce(pool.min, 0) == 0 || !contains(["flex_start", "queued"], pool.capacity)])
    error_message = "pools: flex_start and queued start from min = 0."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.max >= 1 && coalesce(pool.min, 0) >= 0 && coalesce(pool.min, 0) <= pool.max && floor(pool.max) == pool.max && floor(coalesce(pool.min, 0)) == coalesce(pool.min, 0)])
    error_message = "pools: min and max must be whole numbers with 0 <= min <= max and max >= 1."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.disk_gib >= 20 && pool.disk_gib <= 65536])
    error_message = "pools: disk_gib must be from 20 to 65536."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : contains(["LATEST", "DEFAULT", "INSTALLATION_DISABLED"], pool.gpu_driver)])
    error_message = "pools: gpu_driver must be LATEST, DEFAULT or INSTALLATION_DISABLED."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : try(contains(["TIME_SHARING", "MPS"], pool.gpu_sharing.strategy) && pool.gpu_sharing.clients >= 2 && pool.gpu_sharing.clients <= 48, pool.gpu_sharing == null)])
    error_message = "pools: gpu_sharing needs strategy TIME_SHARING or MPS, and clients from 2 to 48."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.tpu_topology == null || can(regex("^[0-9]+x[0-9]+(x[0-9]+)?$", pool.tpu_topology))])
    error_message = "pools: tpu_topology must look like 2x4 or 2x2x2."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : (pool.tpu_topology == null || can(regex("^(ct|tpu)[0-9]", pool.machine_type))) && !(pool.gpu_sharing != null && can(regex("^(ct|tpu)[0-9]", pool.machine_type)))])
    error_message = "pools: tpu_topology is for TPU machines (ct…, tpu…), gpu_sharing is not."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : length(pool.zones) == 1 || !pool.compact_placement])
    error_message = "pools: compact_placement needs exactly one zone in zones."
  }
  validation {
    condition     = alltrue(flatten([for pool in values(var.pools) : [for taint in pool.taints : contains(["NoSchedule", "PreferNoSchedule", "NoExecute", "NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"], taint.effect)]]))
    error_message = "pools: a taint's effect must be NoSchedule, PreferNoSchedule or NoExecute, or as the clouds spell it NO_SCHEDULE, PREFER_NO_SCHEDULE or NO_EXECUTE."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : try(pool.allocatable.cpu > 0 && pool.allocatable.memory_gib >= 1, pool.allocatable == null)])
    error_message = "pools: allocatable needs cpu > 0 and memory_gib >= 1."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : !contains(keys(pool.labels), "ray-pool")])
    error_message = "pools: the label ray-pool is the module's own."
  }
  validation {
    condition     = length(flatten([for name, pool in var.pools : [for key, value in pool.labels : "${name}.labels[\"${key}\"]" if !can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", key)) || !can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", value))]])) == 0
    error_message = "pools: Kubernetes refuses ${join(", ", flatten([for name, pool in var.pools : [for key, value in pool.labels : "${name}.labels[\"${key}\"]" if !can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", key)) || !can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", value))]]))}: keys and values are up to 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends; a key may have a domain and a slash before."
  }
  validation {
    condition     = length(flatten([for name, pool in var.pools : [for key in keys(pool.labels) : "${name}.labels[\"${key}\"]" if can(regex("(^|\\.)(kubernetes|k8s)\\.io/", key)) && !can(regex("(^|\\.)(kubelet|node)\\.kubernetes\\.io/", key))]])) == 0
    error_message = "pools: a node may not give itself ${join(", ", flatten([for name, pool in var.pools : [for key in keys(pool.labels) : "${name}.labels[\"${key}\"]" if can(regex("(^|\\.)(kubernetes|k8s)\\.io/", key)) && !can(regex("(^|\\.)(kubelet|node)\\.kubernetes\\.io/", key))]]))}: of the domains kubernetes.io and k8s.io only node.kubernetes.io and kubelet.kubernetes.io are free. Take a domain of your own."
  }
  validation {
    condition     = length(flatten([for name, pool in var.pools : [for taint in pool.taints : "${name}.taints[\"${taint.key}\"]" if !can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", taint.key)) || !can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", taint.value))]])) == 0
    error_message = "pools: Kubernetes refuses ${join(", ", flatten([for name, pool in var.pools : [for taint in pool.taints : "${name}.taints[\"${taint.key}\"]" if !can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", taint.key)) || !can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", taint.value))]]))}: keys and values of taints are made as those of labels."
  }
  validation {
    condition = alltrue([for pool in values(var.pools) :
      length(distinct([for taint in pool.taints : "${taint.key}:${replace(lower(taint.effect), "_", "")}"])) == length(distinct([for taint in pool.taints : "${taint.key}=${taint.value}:${replace(lower(taint.effect), "_", "")}"]))
    ])
    error_message = "pools: two taints of a pool have the same key and effect, and different values: a node can have one of them."
  }
}

variable "labels" {
  description = "Google Cloud labels of the machines."
  type        = map(string)
  default     = {}
  nullable    = false
}
