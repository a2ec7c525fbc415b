# Into a network, with a key and a bucket that are there already. Protected from being destroyed.

provider "aws" {
  region = var.region
}

module "ray" {
  source = "../../modules/eks"

  name                         = var.name
  create_network               = false
  vpc_id                       = var.vpc_id
  private_subnet_ids           = var.private_subnet_ids
  endpoint_public_access       = length(var.office_cidrs) > 0
  endpoint_public_access_cidrs = var.office_cidrs
  create_kms_key               = false
  kms_key_arn                  = var.kms_key_arn
  bucket_mode                  = "existing"
  bucket_name                  = var.bucket_name
  bucket_kms_key_arn           = var.bucket_kms_key_arn
  deletion_protection          = true

  node_pools = {
    a10g = {
      machine_type = "g5.12xlarge"
      max          = 2
    }
  }
  gpu_image = { tag = "2.60.0-gpu" }

  service_accounts = {
    ray = {
      namespace     = "ray"
      name          = "ray"
      bucket_access = "read"
    }
  }
  ray_service_account = "ray"
}
