variable "name" {
  description = "Prefix of the bucket's name; AWS adds a suffix that makes it unique."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{0,35}$", var.name))
    error_message = "name must be up to 36 lower-case letters, digits and dashes."
  }
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the objects."
  type        = string
  nullable    = false
}

variable "force_destroy" {
  description = "Whether destroying the bucket deletes the objects in it. Otherwise a bucket with objects stays."
  type        = bool
  default     = false
  nullable    = false
}

variable "noncurrent_version_days" {
  description = "After how many days overwritten and deleted objects are really removed."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.noncurrent_version_days >= 1
    error_message = "noncurrent_version_days must be at least 1."
  }
}

variable "tags" {
  description = "Tags of the bucket."
  type        = map(string)
  default     = {}
  nullable    = false
}
