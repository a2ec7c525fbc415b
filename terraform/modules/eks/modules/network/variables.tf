variable "name" {
  description = "Prefix of everything that is made here."
  type        = string
  nullable    = false
}

variable "cidr" {
  description = "Addresses of the VPC. A /16 to /20: half of it goes to the private subnets, where the pods live."
  type        = string
  default     = "10.0.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.cidr)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr must be an IPv4 network of /16 to /20, such as 10.0.0.0/16."
  }
}

variable "availability_zones" {
  description = "Zones to put a private and a public subnet into; EKS wants two or more."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.availability_zones) <= 4 && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones must be up to 4 different zones."
  }
}

variable "nat" {
  description = "How private nodes reach the internet: `single` (one NAT gateway), `per_zone` (survives the loss of a zone) or `none`. With `none` there are endpoints for what EKS' own parts ask of AWS, and every image has to come from a registry inside, such as ECR."
  type        = string
  default     = "single"
  nullable    = false

  validation {
    condition     = contains(["single", "per_zone", "none"], var.nat)
    error_message = "nat must be single, per_zone or none."
  }
}

variable "flow_logs" {
  description = "Whether to log the VPC's traffic to CloudWatch."
  type        = bool
  default     = true
  nullable    = false
}

variable "log_retention_days" {
  description = "How long flow logs are kept."
  type        = number
  default     = 365
  nullable    = false
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the flow logs. Its policy must let CloudWatch Logs use it."
  type        = string
  nullable    = false
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
  nullable    = false
}
