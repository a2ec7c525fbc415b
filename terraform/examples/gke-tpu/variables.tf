variable "project" {
  description = "The Google Cloud project."
  type        = string
}

variable "location" {
  description = "Region."
  type        = string
  default     = "europe-west4"
}

variable "zone" {
  description = "The zone of the TPU slice, in that region."
  type        = string
  default     = "europe-west4-a"
}

variable "name" {
  description = "The cluster's name."
  type        = string
  default     = "ray"
}

variable "office_cidrs" {
  description = "Networks that may reach the Kubernetes API at its IP address from outside."
  type        = list(string)
  default     = []
}

variable "dns_endpoint" {
  description = "Whether the Kubernetes API can be reached by its DNS name, guarded by IAM, from wherever you are."
  type        = bool
  default     = true
}
