# A cluster for Ray on EKS, in parts: network (modules/network), encryption, identity (identity.tf,
# modules/service-accounts), the cluster itself (cluster.tf), node pools (modules/node-pools), storage (modules/storage).

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_availability_zones" "available" {
  count = var.create_network && length(var.availability_zones) == 0 ? 1 : 0

  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_subnet" "existing" {
  count = length(var.private_subnet_ids)

  id = var.private_subnet_ids[count.index]
}

locals {
  region    = data.aws_region.current.id
  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id

  found_zones = flatten(data.aws_availability_zones.available[*].names)
  zones       = length(var.availability_zones) > 0 ? var.availability_zones : slice(local.found_zones, 0, min(3, length(local.found_zones)))

  vpc_id  = var.create_network ? module.network[0].vpc_id : var.vpc_id
  subnets = var.create_network ? module.network[0].private_subnets : [for subnet in data.aws_subnet.existing : { id = subnet.id, zone = subnet.availability_zone }]

  kms_key_arn = var.create_kms_key ? aws_kms_key.this[0].arn : var.kms_key_arn

  bucket_name = { create = one(module.storage[*].bucket_name), existing = var.bucket_name, none = null }[var.bucket_mode]
  bucket_arn  = { create = one(module.storage[*].bucket_arn), existing = "arn:${local.partition}:s3:::${coalesce(var.bucket_name, "-")}", none = null }[var.bucket_mode]

  # Auto Mode has its own nodes.
  system_pool = { for name, pool in { system = var.system_pool } : name => pool if pool != null && !var.auto_mode }
  pools = merge(
    var.node_pools,
    {
      for name, pool in local.system_pool : name => merge(pool, {
        other_machine_types   = []
        accelerator           = null
        reservation_id        = null
        reservation_group_arn = null
        taints                = []
        ami_release           = null
        efa                   = false
        placement_group       = false
      })
    },
  )
}

module "network" {
  source = "./modules/network"
  count  = var.create_network ? 1 : 0

  name               = var.name
  cidr               = var.vpc_cidr
  availability_zones = local.zones
  nat                = var.nat
  flow_logs          = var.flow_logs
  log_retention_days = var.log_retention_days
  kms_key_arn        = local.kms_key_arn
  tags               = var.tags
}

module "storage" {
  source = "./modules/storage"
  count  = var.bucket_mode == "create" ? 1 : 0

  name          = "${var.name}-ray"
  kms_key_arn   = local.kms_key_arn
  force_destroy = var.bucket_force_destroy
  tags          = var.tags
}

module "node_pools" {
  source = "./modules/node-pools"
  count  = var.auto_mode ? 0 : 1

  # The name comes from the cluster, so that no pool is made before it.
  cluster_name              = aws_eks_cluster.this.name
  kubernetes_version        = var.kubernetes_version
  cluster_security_group_id = one(aws_eks_cluster.this.vpc_config[*].cluster_security_group_id)
  vpc_id                    = local.vpc_id
  subnets                   = local.subnets
  pools                     = local.pools
  volume_kms_key_arn        = var.volume_kms_key_arn
  tags                      = var.tags
}

module "ray_values" {
  source = "../shared/ray-values"

  node_pools      = merge({}, module.node_pools[*].node_pools...)
  head_pool       = one(keys(local.system_pool))
  head_cpu        = var.ray_head.cpu
  head_memory_gib = var.ray_head.memory_gib
  service_account = var.ray_service_account == null ? null : var.service_accounts[var.ray_service_account].name
}

# Destroying begins with what nothing depends on: this. With protection its last words end the destroy before anything
# is gone.
resource "terraform_data" "deletion_guard" {
  input = var.deletion_protection

  provisioner "local-exec" {
    when    = destroy
    command = "test \"$PROTECTED\" != true || { echo 'deletion_protection is on: apply with deletion_protection = false first' >&2; exit 1; }"
    environment = {
      PROTECTED = tostring(self.input)
    }
  }

  depends_on = [module.network, module.storage, module.node_pools, module.service_accounts, aws_eks_cluster.this, aws_eks_addon.later]
}
