variable "region" {
  description = "The AWS region."
  type        = string
  default     = "us-east-1"
}

variable "cluster_name" {
  description = "The EKS cluster that is there already."
  type        = string
}

variable "subnets" {
  description = "Private subnets for the nodes, each with its zone."
  type        = list(object({ id = string, zone = string }))
}
