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
  description = "Networks that may reach the Kubernetes API from outside the VPC. None: only from inside it, where Airflow's workers have to be then."
  type        = list(string)
  default     = []
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "private_subnet_ids" {
  description = "Its private subnets, in two zones or more, with a way out (NAT, or VPC endpoints)."
  type        = list(string)
}

variable "kms_key_arn" {
  description = "The company's KMS key."
  type        = string
}

variable "bucket_name" {
  description = "The bucket that holds the data."
  type        = string
}

variable "bucket_kms_key_arn" {
  description = "The KMS key that the bucket is encrypted with, unless that is S3's own."
  type        = string
  default     = null
}
