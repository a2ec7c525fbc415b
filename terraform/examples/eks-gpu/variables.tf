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
  description = "Networks that may reach the Kubernetes API from outside the VPC: where you and Airflow's workers come from, such as 203.0.113.7/32. None: only from inside it; nothing has a way into this new VPC then, and the plan warns."
  type        = list(string)
  default     = []
}
