variable "node_pools" {
  description = "The pools, as the output `node_pools` of this cloud's `node-pools` module describes them."
  type = map(object({
    node_selector = map(string)
    tolerations = list(object({
      key      = string
      operator = string
      value    = string
      effect   = string
    }))
    accelerator = optional(object({
      resource = string
      type     = string
      count    = number
    }))
    allocatable = object({
      cpu        = number
      memory_gib = number
      gpus       = number
    })
    min          = number
    max          = number
    num_of_hosts = number
    # What a worker asks for beside CPU, memory and the accelerator: vpc.amazonaws.com/efa, hugepages-2Mi.
    resources = optional(map(string), {})
  }))
  nullable = false
}

variable "head_pool" {
  description = "The pool whose nodes carry the Ray head. It becomes no worker group. Null lets the scheduler choose."
  type        = string
  default     = null

  validation {
    condition     = var.head_pool == null || contains(keys(var.node_pools), coalesce(var.head_pool, "-"))
    error_message = "head_pool must be one of node_pools."
  }
}

variable "head_cpu" {
  description = "CPUs of the Ray head. Never more than a node of the head's pool can give."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.head_cpu > 0
    error_message = "head_cpu must be more than 0."
  }
}

variable "head_memory_gib" {
  description = "Memory of the Ray head in GiB. Never more than a node of the head's pool can give."
  type        = number
  default     = 8
  nullable    = false

  validation {
    condition     = var.head_memory_gib >= 1
    error_message = "head_memory_gib must be at least 1."
  }
}

variable "gpu_image" {
  description = "Image of the groups with GPUs: `repository`, `tag`, `digest`, as the chart has them; what is not said is as for the whole cluster. It counts more than a profile, and less than `values`. Null leaves the cluster's image, so that a version that `values` name holds for all groups."
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

variable "service_account" {
  description = "The Kubernetes service account that the Ray pods run as. Null leaves the chart's choice."
  type        = string
  default     = null
}
