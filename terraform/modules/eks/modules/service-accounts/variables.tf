variable "name" {
  description = "Prefix of the roles' names."
  type        = string
  nullable    = false
}

variable "cluster_name" {
  description = "The EKS cluster whose service accounts get an identity."
  type        = string
  nullable    = false
}

variable "mode" {
  description = "How a pod gets its role: `pod_identity` (needs the add-on eks-pod-identity-agent) or `irsa` (needs `oidc_provider_arn`)."
  type        = string
  default     = "pod_identity"
  nullable    = false

  validation {
    condition     = contains(["pod_identity", "irsa"], var.mode)
    error_message = "mode must be pod_identity or irsa."
  }
}

variable "oidc_provider_arn" {
  description = "IAM's OIDC provider of the cluster; only for `irsa`."
  type        = string
  default     = null
}

variable "service_accounts" {
  description = <<-EOT
    Kubernetes service accounts that act in AWS, by any key. For each:
    - `namespace`, `name`: the service account. It need not be there yet.
    - `bucket_access`: `none`, `read` or `write`, on `bucket_arn`.
    - `policy_arns`: further IAM policies of its role, by any key.
    - `policy_json`: an inline policy of its role.
  EOT
  type = map(object({
    namespace     = string
    name          = string
    bucket_access = optional(string, "none")
    policy_arns   = optional(map(string), {})
    policy_json   = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for account in values(var.service_accounts) : contains(["none", "read", "write"], account.bucket_access)])
    error_message = "service_accounts: bucket_access must be none, read or write."
  }
  validation {
    condition     = alltrue([for account in values(var.service_accounts) : can(regex("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", account.name)) && can(regex("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", account.namespace))])
    error_message = "service_accounts: name and namespace must be Kubernetes names (lower-case letters, digits, dashes)."
  }
}

variable "bucket_arn" {
  description = "The bucket that `bucket_access` is about."
  type        = string
  default     = null
}

variable "bucket_kms_key_arn" {
  description = "The KMS key of the bucket's objects, so that reading and writing includes it."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
  nullable    = false
}
