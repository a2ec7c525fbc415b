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
    condition     = alltrue([for pool in values(var.pools) : pool.tpu_topology == null || can(regex("^[0-9]+x[0-9]+(x[0-9]+)?$", pool.tpu_topology))])
    error_message = "pools: tpu_topology must look like 2x4 or 2x2x2."
  }
}

variable "labels" {
  description = "Google Cloud labels of the machines."
  type        = map(string)
  default     = {}
  nullable    = false
}
