output "service_accounts" {
  description = "For each key: namespace, name, the cloud identity it acts as, and the annotations that the service account needs."
  value = {
    for key, account in var.service_accounts : key => {
      namespace   = account.namespace
      name        = account.name
      identity    = google_service_account.this[key].email
      annotations = { "iam.gke.io/gcp-service-account" = google_service_account.this[key].email }
    }
  }
}
