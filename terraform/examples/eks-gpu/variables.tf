variable "region" {
  description = "The AWS region."
  type        = string
  default     = "us-east-1"
}

variable "name" {
  description = "The cluster's name."
  type        = string
  default     = "ray"
}

variable "office_cidrs" {
  description = "Networks that may reach the Kubernetes API from outside the VPC. None: only from inside it."
  type        = list(string)
  default     = []
}
