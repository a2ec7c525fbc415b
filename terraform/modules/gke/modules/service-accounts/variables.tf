variable "name" {
  description = "Prefix of the accounts' ids."
  type        = string
  nullable    = false
}

variable "project" {
  description = "The Google Cloud project."
  type        = string
  nullable    = false
}

variable "workload_pool" {
  description = "The cluster's workload pool, `<project>.svc.id.goog`."
  type        = string
  nullable    = false
}

variable "service_accounts" {
  description = <<-EOT
    Kubernetes service accounts that act in Google Cloud, by any key of up to 12 characters. For each:
    - `namespace`, `name`: the service account. It need not be there yet.
    - `bucket_access`: `none`, `read` or `write`, on `bucket_name`.
    - `roles`: further roles in the project.
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
    condition     = alltrue([for account in values(var.service_accounts) : contains(["none", "read", "write"], account.bucket_access)])
    error_message = "service_accounts: bucket_access must be none, read or write."
  }
  validation {
    condition     = alltrue([for account in values(var.service_accounts) : can(regex("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", account.name)) && can(regex("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", account.namespace))])
    error_message = "service_accounts: name and namespace must be Kubernetes names (lower-case letters, digits, dashes)."
  }
  validation {
    condition     = alltrue([for key in keys(var.service_accounts) : can(regex("^[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?$", key))])
    error_message = "service_accounts: a key is 1 to 12 lower-case letters, digits and dashes."
  }
  validation {
    condition     = alltrue(flatten([for account in values(var.service_accounts) : [for role in account.roles : !contains(["roles/owner", "roles/editor"], role)]]))
    error_message = "service_accounts: roles/owner and roles/editor are too much for a pod."
  }
}

variable "bucket_name" {
  description = "The bucket that `bucket_access` is about."
  type        = string
  default     = null
}
