# A cluster for Ray on GKE, in parts: network (modules/network), encryption, identity (identity.tf,
# modules/service-accounts), the cluster itself (cluster.tf), node pools (modules/node-pools), storage (modules/storage).

data "google_project" "this" {
  project_id = var.project
}

locals {
  # europe-west4-a is a zone of europe-west4.
  region = join("-", slice(split("-", var.location), 0, 2))

  network       = var.create_network ? module.network[0].network : var.network
  subnetwork    = var.create_network ? module.network[0].subnetwork : var.subnetwork
  pod_range     = var.create_network ? module.network[0].pod_range : var.pod_range
  service_range = var.create_network ? module.network[0].service_range : var.service_range

  kms_key     = var.create_kms_key ? google_kms_crypto_key.this[0].id : var.kms_key
  bucket_name = { create = one(module.storage[*].bucket_name), existing = var.bucket_name, none = null }[var.bucket_mode]

  dns_endpoint = var.dns_endpoint ? google_container_cluster.this.control_plane_endpoints_config[0].dns_endpoint_config[0].endpoint : null

  # Autopilot has its own nodes.
  system_pool = { for name, pool in { system = var.system_pool } : name => pool if pool != null && !var.autopilot }
  pools = merge(
    var.node_pools,
    {
      for name, pool in local.system_pool : name => merge(pool, {
        accelerator       = null
        reservation_name  = null
        max_run_duration  = null
        taints            = []
        gpu_driver        = "LATEST"
        gpu_sharing       = null
        tpu_topology      = null
        gvnic             = true
        image_streaming   = true
        compact_placement = false
        ordinary_network  = false
      })
    },
  )
}

# The names of key rings and buckets can't be used again at once: this makes them new for each cluster, and stays.
resource "terraform_data" "made_at" {
  input = formatdate("YYYYMMDDhhmmss", timestamp())

  lifecycle {
    ignore_changes = [input]
  }
}

module "network" {
  source = "./modules/network"
  count  = var.create_network ? 1 : 0

  name         = var.name
  project      = var.project
  region       = local.region
  node_cidr    = var.node_cidr
  pod_cidr     = var.pod_cidr
  service_cidr = var.service_cidr
  nat          = var.nat
  flow_logs    = var.flow_logs
}

module "storage" {
  source = "./modules/storage"
  count  = var.bucket_mode == "create" ? 1 : 0

  name          = "${var.name}-ray-${terraform_data.made_at.output}"
  project       = var.project
  location      = local.region
  kms_key       = local.kms_key
  force_destroy = var.bucket_force_destroy
  labels        = var.labels

  depends_on = [google_kms_crypto_key_iam_member.storage]
}

module "node_pools" {
  source = "./modules/node-pools"
  count  = var.autopilot ? 0 : 1

  project              = var.project
  location             = var.location
  zones                = var.zones
  cluster              = google_container_cluster.this.id
  cluster_name         = var.name
  node_service_account = google_service_account.nodes.email
  boot_disk_kms_key    = var.boot_disk_kms_key
  pools                = local.pools
  labels               = var.labels
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
# is gone. (GKE's own protection alone would let the pools go first.)
resource "terraform_data" "deletion_guard" {
  input = var.deletion_protection

  provisioner "local-exec" {
    when    = destroy
    command = "test \"$PROTECTED\" != true || { echo 'deletion_protection is on: apply with deletion_protection = false first' >&2; exit 1; }"
    environment = {
      PROTECTED = tostring(self.input)
    }
  }

  depends_on = [module.network, module.storage, module.node_pools, module.service_accounts, google_container_cluster.this]
}
