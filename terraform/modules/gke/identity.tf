resource "google_service_account" "nodes" {
  project      = var.project
  account_id   = "${trimsuffix(substr(var.name, 0, 22), "-")}-nodes"
  display_name = "Nodes of the GKE cluster ${var.name}"
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
