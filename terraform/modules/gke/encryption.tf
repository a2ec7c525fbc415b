resource "google_kms_key_ring" "this" {
  count = var.create_kms_key ? 1 : 0

  name     = "${var.name}-${terraform_data.made_at.output}"
  project  = var.project
  location = local.region
}

resource "google_kms_crypto_key" "this" {
  count = var.create_kms_key ? 1 : 0

  name            = "ray"
  key_ring        = google_kms_key_ring.this[0].id
  rotation_period = "7776000s"
  labels          = var.labels
}

resource "google_kms_crypto_key_iam_member" "cluster" {
  count = var.create_kms_key ? 1 : 0

  crypto_key_id = google_kms_crypto_key.this[0].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.this.number}@container-engine-robot.iam.gserviceaccount.com"
}

# Reading it makes Cloud Storage's service agent, where the project has none yet.
data "google_storage_project_service_account" "this" {
  count = var.create_kms_key && var.bucket_mode == "create" ? 1 : 0

  project = var.project
}

resource "google_kms_crypto_key_iam_member" "storage" {
  count = var.create_kms_key && var.bucket_mode == "create" ? 1 : 0

  crypto_key_id = google_kms_crypto_key.this[0].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${data.google_storage_project_service_account.this[0].email_address}"
}
