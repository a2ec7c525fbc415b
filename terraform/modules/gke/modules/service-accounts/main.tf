locals {
  # 6 to 30 characters. A name that has to be cut gets six of its hash: another cluster's may begin alike.
  ids = {
    for key in keys(var.service_accounts) : key => length(var.name) <= 17 ? "${var.name}-${key}" : "${trimsuffix(substr(var.name, 0, 10), "-")}-${substr(sha256(var.name), 0, 6)}-${key}"
  }
  with_bucket = { for key, account in var.service_accounts : key => account if account.bucket_access != "none" }
  roles = merge([
    for key, account in var.service_accounts : { for role in account.roles : "${key}/${role}" => { account = key, role = role } }
  ]...)
}

resource "google_service_account" "this" {
  for_each = var.service_accounts

  project      = var.project
  account_id   = local.ids[each.key]
  display_name = "${each.value.namespace}/${each.value.name} in ${var.name}"

  lifecycle {
    # Earlier releases cut without a hash: an account that is there stays.
    ignore_changes = [account_id]

    # cloud.google.com/iam/docs/service-accounts-create, read in November 2026.
    precondition {
      condition     = length(local.ids[each.key]) >= 6
      error_message = "service_accounts.${each.key}: ${local.ids[each.key]} is too short for an account's id, which has 6 to 30 characters. Take a longer key."
    }
  }
}

resource "google_service_account_iam_member" "workload_identity" {
  for_each = var.service_accounts

  service_account_id = google_service_account.this[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.workload_pool}[${each.value.namespace}/${each.value.name}]"
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.with_bucket

  bucket = var.bucket_name
  role   = each.value.bucket_access == "write" ? "roles/storage.objectUser" : "roles/storage.objectViewer"
  member = "serviceAccount:${google_service_account.this[each.key].email}"
}

resource "google_project_iam_member" "this" {
  for_each = local.roles

  project = var.project
  role    = each.value.role
  member  = "serviceAccount:${google_service_account.this[each.value.account].email}"
}
