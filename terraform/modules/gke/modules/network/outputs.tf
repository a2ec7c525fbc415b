output "network" {
  description = "The network."
  value       = google_compute_network.this.id
}

output "subnetwork" {
  description = "The nodes' subnet."
  value       = google_compute_subnetwork.this.id

  # Nodes need the way out that comes with it.
  depends_on = [google_compute_router_nat.this]
}

output "pod_range" {
  description = "Name of the subnet's secondary range for pods."
  value       = "pods"
}

output "service_range" {
  description = "Name of the subnet's secondary range for services."
  value       = "services"
}
