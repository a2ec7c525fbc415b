variable "name" {
  description = "Prefix of everything that is made here."
  type        = string
  nullable    = false
}

variable "project" {
  description = "The Google Cloud project."
  type        = string
  nullable    = false
}

variable "region" {
  description = "The region of subnet and NAT."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a region such as europe-west4, not a zone."
  }
}

variable "node_cidr" {
  description = "Addresses of the nodes."
  type        = string
  default     = "10.0.0.0/20"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.node_cidr))
    error_message = "node_cidr must be an IPv4 network such as 10.0.0.0/20."
  }
}

variable "pod_cidr" {
  description = "Addresses of the pods."
  type        = string
  default     = "10.4.0.0/14"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.pod_cidr))
    error_message = "pod_cidr must be an IPv4 network such as 10.4.0.0/14."
  }
}

variable "service_cidr" {
  description = "Addresses of the services."
  type        = string
  default     = "10.8.0.0/20"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.service_cidr))
    error_message = "service_cidr must be an IPv4 network such as 10.8.0.0/20."
  }
}

variable "nat" {
  description = "Whether private nodes reach the internet, by Cloud NAT."
  type        = bool
  default     = true
  nullable    = false
}

variable "flow_logs" {
  description = "Whether the subnet logs its traffic."
  type        = bool
  default     = true
  nullable    = false
}
