variable "name" {
  description = "The bucket's name, unique in the world."
  type        = string
  nullable    = false
}

variable "project" {
  description = "The Google Cloud project."
  type        = string
  nullable    = false
}

variable "location" {
  description = "The bucket's region."
  type        = string
  nullable    = false
}

variable "kms_key" {
  description = "Cloud KMS key that encrypts the objects; Cloud Storage's service agent must be allowed to use it."
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

variable "labels" {
  description = "Labels of the bucket."
  type        = map(string)
  default     = {}
  nullable    = false
}
