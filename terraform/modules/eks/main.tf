# A cluster for Ray on EKS, in parts: network (modules/network), encryption, identity (identity.tf,
# modules/service-accounts), the cluster itself (cluster.tf), node pools (modules/node-pools), storage (modules/storage).

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_availability_zones" "available" {
  count = var.create_network && length(var.availability_zones) == 0 ? 1 : 0

  state            = "available"
  exclude_zone_ids = keys(local.refused_zones)

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_availability_zone" "given" {
  for_each = toset(var.create_network ? var.availability_zones : [])

  name = each.key
}

data "aws_subnet" "existing" {
  count = length(var.private_subnet_ids)

  id = var.private_subnet_ids[count.index]
}

locals {
  # EKS makes no cluster whose subnets lie there: https://docs.aws.amazon.com/eks/latest/userguide/network-reqs.html
  # (read 2026-11-29; the API answers UnsupportedAvailabilityZoneException. Not tried against a cloud). A zone's name is
  # another one in each account: only ids tell.
  refused_zones = { use1-az3 = "us-east-1", usw1-az2 = "us-west-1", cac1-az3 = "ca-central-1" }
  zone_ids = merge(
    { for name, zone in data.aws_availability_zone.given : name => zone.zone_id },
    { for subnet in data.aws_subnet.existing : subnet.availability_zone => subnet.availability_zone_id },
  )
  in_refused_zones = sort([for name, id in local.zone_ids : "${name} is ${id}" if contains(keys(local.refused_zones), coalesce(id, "-"))])

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
        local_disks           = false
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
  count  = var.auto_mode && length(var.node_pools) == 0 ? 0 : 1

  # With Auto Mode it only says what the machines have: nodes come by the NodePools of the output kubernetes_manifests.
  create = !var.auto_mode
  # The name comes from the cluster and the add-ons that nodes need, so that no pool is made before them, nor outlives
  # them. (depends_on would do the same, and put off what the pools' data sources find out until the apply.)
  cluster_name              = one(distinct(concat([aws_eks_cluster.this.name], values(aws_eks_addon.early)[*].cluster_name)))
  kubernetes_version        = var.kubernetes_version
  cluster_security_group_id = one(aws_eks_cluster.this.vpc_config[*].cluster_security_group_id)
  vpc_id                    = local.vpc_id
  subnets                   = local.subnets
  pools                     = local.pools
  volume_kms_key_arn        = var.volume_kms_key_arn
  autoscaler_tags           = var.cluster_autoscaler.enabled
  tags                      = var.tags
}

module "ray_values" {
  source = "../shared/ray-values"

  node_pools      = merge({}, module.node_pools[*].node_pools...)
  head_pool       = one(keys(local.system_pool))
  head_cpu        = var.ray_head.cpu
  head_memory_gib = var.ray_head.memory_gib
  gpu_image       = var.gpu_image
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

  lifecycle {
    # A cluster that is replaced is destroyed, too: then the guard goes first, and speaks.
    replace_triggered_by = [aws_eks_cluster.this.id]
  }

  depends_on = [module.network, module.storage, module.node_pools, module.service_accounts, aws_eks_cluster.this, aws_eks_addon.later]
}
