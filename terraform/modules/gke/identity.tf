resource "google_service_account" "nodes" {
  project = var.project
  # Up to 30 characters. A name that has to be cut gets six of its hash: another cluster's may begin alike.
  account_id   = length(var.name) <= 22 ? "${var.name}-nodes" : "${trimsuffix(substr(var.name, 0, 17), "-")}-${substr(sha256(var.name), 0, 6)}-nodes"
  display_name = "Nodes of the GKE cluster ${var.name}"

  lifecycle {
    # Earlier releases cut without a hash: an account that is there stays, and with it the nodes that run as it.
    ignore_changes = [account_id]
  }
}

resource "google_project_iam_member" "nodes" {
  for_each = toset(["roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader"])

  project = var.project
  role    = each.key
  member  = "serviceAccount:${google_service_account.nodes.email}"
}

module "service_accounts" {
  source = "./modules/service-accounts"

  name             = var.name
  project          = var.project
  workload_pool    = "${var.project}.svc.id.goog"
  bucket_name      = local.bucket_name
  service_accounts = var.service_accounts

  # The workload pool is there once the project's first cluster with Workload Identity is.
  depends_on = [google_container_cluster.this]
}
