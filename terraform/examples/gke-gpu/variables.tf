variable "project" {
  description = "The Google Cloud project."
  type        = string
}

variable "location" {
  description = "Region or zone."
  type        = string
  default     = "europe-west4"
}

variable "name" {
  description = "The cluster's name."
  type        = string
  default     = "ray"
}

variable "office_cidrs" {
  description = "Networks that may reach the Kubernetes API from outside. None: only from inside the network."
  type        = list(string)
  default     = []
}
