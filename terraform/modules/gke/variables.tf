# --- cluster -----------------------------------------------------------------------------------------------------------

variable "name" {
  description = "Name of the cluster, and prefix of everything around it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,34}[a-z0-9])?$", var.name))
    error_message = "name must be 1 to 36 lower-case letters, digits and dashes, and start with a letter."
  }
}

variable "project" {
  description = "The Google Cloud project."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][-a-z0-9:.]{4,}[a-z0-9]$", var.project))
    error_message = "project must be a project id such as my-project-1."
  }
}

variable "location" {
  description = "A region (control plane in several zones) or a zone."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+(-[a-z])?$", var.location))
    error_message = "location must be a region such as europe-west4, or a zone such as europe-west4-a."
  }
}

variable "zones" {
  description = "Zones of the nodes. By default Google Cloud's choice within the region."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "kubernetes_version" {
  description = "Least Kubernetes version of the control plane, such as `1.33`. Null leaves it to the release channel."
  type        = string
  default     = null

  validation {
    condition     = var.kubernetes_version == null || can(regex("^1\\.[0-9]{2}(\\..+)?$", coalesce(var.kubernetes_version, "-")))
    error_message = "kubernetes_version must look like 1.33 or 1.33.2-gke.1000."
  }
}

variable "release_channel" {
  description = "How fast new versions come: `RAPID`, `REGULAR`, `STABLE` or `EXTENDED`."
  type        = string
  default     = "REGULAR"
  nullable    = false

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "release_channel must be RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "autopilot" {
  description = "Whether GKE runs the nodes itself (Autopilot). `node_pools` must be empty then."
  type        = bool
  default     = false
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether `terraform destroy` is refused. To destroy, apply with false first."
  type        = bool
  default     = false
  nullable    = false
}

variable "control_plane_logs" {
  description = "What GKE sends to Cloud Logging."
  type        = set(string)
  default     = ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER"]
  nullable    = false

  validation {
    condition     = length(setsubtract(var.control_plane_logs, ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER", "KCP_SSHD", "KCP_CONNECTION", "KCP_HPA"])) == 0
    error_message = "control_plane_logs may hold SYSTEM_COMPONENTS, WORKLOADS, APISERVER, CONTROLLER_MANAGER, SCHEDULER, KCP_SSHD, KCP_CONNECTION and KCP_HPA."
  }
}

variable "ray_operator" {
  description = "Whether GKE runs its own Ray operator. It and KubeRay's must not both run: leave this off where the DAG installs KubeRay's."
  type        = bool
  default     = false
  nullable    = false
}

# --- network -----------------------------------------------------------------------------------------------------------

variable "create_network" {
  description = "Whether to make a network. Otherwise `network`, `subnetwork`, `pod_range` and `service_range` say where the cluster goes."
  type        = bool
  default     = true
  nullable    = false
}

variable "node_cidr" {
  description = "Nodes' addresses in the network that is made."
  type        = string
  default     = "10.0.0.0/20"
  nullable    = false
}

variable "pod_cidr" {
  description = "Pods' addresses in the network that is made."
  type        = string
  default     = "10.4.0.0/14"
  nullable    = false
}

variable "service_cidr" {
  description = "Services' addresses in the network that is made."
  type        = string
  default     = "10.8.0.0/20"
  nullable    = false
}

variable "nat" {
  description = "Whether private nodes of the network that is made reach the internet, by Cloud NAT."
  type        = bool
  default     = true
  nullable    = false
}

variable "flow_logs" {
  description = "Whether the subnet that is made logs its traffic."
  type        = bool
  default     = true
  nullable    = false
}

variable "network" {
  description = "A network that is there already, with `create_network = false`."
  type        = string
  default     = null

  validation {
    condition     = var.create_network == (var.network == null)
    error_message = "network goes with create_network = false, and only with it."
  }
}

variable "subnetwork" {
  description = "A subnet of that network, with `create_network = false`."
  type        = string
  default     = null

  validation {
    condition     = var.create_network == (var.subnetwork == null)
    error_message = "subnetwork goes with create_network = false, and only with it."
  }
}

variable "pod_range" {
  description = "Name of that subnet's secondary range for pods."
  type        = string
  default     = null

  validation {
    condition     = var.create_network == (var.pod_range == null)
    error_message = "pod_range goes with create_network = false, and only with it."
  }
}

variable "service_range" {
  description = "Name of that subnet's secondary range for services."
  type        = string
  default     = null

  validation {
    condition     = var.create_network == (var.service_range == null)
    error_message = "service_range goes with create_network = false, and only with it."
  }
}

variable "endpoint_public_access" {
  description = "Whether the Kubernetes API can be reached from outside the network, too, from `endpoint_public_access_cidrs` alone."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.endpoint_public_access || length(var.endpoint_public_access_cidrs) > 0
    error_message = "endpoint_public_access needs endpoint_public_access_cidrs: name the networks that may reach the Kubernetes API."
  }
}

variable "endpoint_public_access_cidrs" {
  description = "Networks that may reach the Kubernetes API. The whole internet is refused."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.endpoint_public_access_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "endpoint_public_access_cidrs must be networks such as 203.0.113.0/24, and not the whole internet."
  }
}

variable "endpoint_private_access_cidrs" {
  description = "Internal networks that may reach the Kubernetes API at its private address, beside the nodes' subnet: such as Airflow's subnet in the same network."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.endpoint_private_access_cidrs : can(cidrhost(cidr, 0)) && can(regex("^(10\\.|192\\.168\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|100\\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\\.)", cidr))])
    error_message = "endpoint_private_access_cidrs must be internal networks such as 10.20.0.0/16. Others go into endpoint_public_access_cidrs."
  }
}

variable "dns_endpoint" {
  description = "Whether the Kubernetes API can be reached by its DNS name, from anywhere: guarded by IAM (`container.clusters.connect`) instead of networks. For an Airflow that is in no network of the cluster. The outputs name that address then."
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
    machine_type = optional(string, "e2-standard-4")
    capacity     = optional(string, "on_demand")
    min          = optional(number, 1)
    max          = optional(number, 3)
    zones        = optional(list(string), [])
    disk_gib     = optional(number, 100)
    disk_type    = optional(string)
    labels       = optional(map(string), {})
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
    condition     = !var.autopilot || length(var.node_pools) == 0
    error_message = "node_pools must be empty with autopilot: GKE makes the nodes itself."
  }
  validation {
    condition     = !contains(keys(var.node_pools), "system")
    error_message = "node_pools: the name system is the system pool's."
  }
}

variable "boot_disk_kms_key" {
  description = "Cloud KMS key of the nodes' disks. Null encrypts with Google's keys."
  type        = string
  default     = null
}

# --- identity ----------------------------------------------------------------------------------------------------------

variable "service_accounts" {
  description = <<-EOT
    Kubernetes service accounts that act in Google Cloud, by any key of up to 12 characters. For each: `namespace`, `name`,
    `bucket_access` (`none`, `read` or `write`, on this module's bucket), `roles` (further roles in the project).
  EOT
  type = map(object({
    namespace     = string
    name          = string
    bucket_access = optional(string, "none")
    roles         = optional(set(string), [])
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for account in values(var.service_accounts) : account.bucket_access == "none" || var.bucket_mode != "none"])
    error_message = "service_accounts: bucket_access needs a bucket: set bucket_mode."
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

variable "bucket_force_destroy" {
  description = "Whether destroying the bucket deletes the objects in it. Otherwise destroying stops at a bucket with objects."
  type        = bool
  default     = false
  nullable    = false
}

variable "create_kms_key" {
  description = "Whether to make a Cloud KMS key for Kubernetes secrets and the bucket. Otherwise `kms_key` names one. (Google Cloud never deletes a key ring: its name carries the time it was made.)"
  type        = bool
  default     = true
  nullable    = false
}

variable "kms_key" {
  description = "A Cloud KMS key that is there already, with `create_kms_key = false`. GKE's and Cloud Storage's service agents must be allowed to use it."
  type        = string
  default     = null

  validation {
    condition     = var.create_kms_key == (var.kms_key == null)
    error_message = "kms_key goes with create_kms_key = false, and only with it."
  }
}

# --- ray ---------------------------------------------------------------------------------------------------------------

variable "gpu_image" {
  description = "Image of the worker groups with GPUs in `ray_helm_values`: `repository`, `tag`, `digest`, such as `{ tag = \"2.60.0-gpu\" }`. Its Ray must be the head's. It counts more than a profile's, and less than the cluster's `values`. Null leaves the cluster's image; the chart's own has no CUDA."
  type = object({
    repository = optional(string)
    tag        = optional(string)
    digest     = optional(string)
  })
  default = null
}

variable "ray_head" {
  description = "What the Ray head asks for: `cpu` and `memory_gib`. Never more than a node of the system pool can give."
  type = object({
    cpu        = optional(number, 2)
    memory_gib = optional(number, 8)
  })
  default  = {}
  nullable = false
}

variable "labels" {
  description = "Google Cloud labels of everything that can carry them."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "cluster_labels" {
  description = "Labels of the cluster alone. Those named `airflow-ray-run`, `-expires`, `-version` and `-used` are written when it is made, and changes of them are ignored."
  type        = map(string)
  default     = {}
  nullable    = false
}
