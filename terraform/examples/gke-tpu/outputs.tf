output "cluster_name" {
  description = "The cluster's name."
  value       = module.ray.cluster_name
}

output "cloud" {
  description = "`gcp`. With `cluster_name`, `location`, `project` and `dns_endpoint` it tells the tasks after `SetupRayInfrastructure` where to go on."
  value       = module.ray.cloud
}

output "location" {
  description = "The region or zone."
  value       = module.ray.location
}

output "project" {
  description = "The Google Cloud project."
  value       = module.ray.project
}

output "dns_endpoint" {
  description = "The Kubernetes API's DNS name, if it is to be reached by it; else null."
  value       = module.ray.dns_endpoint
}

output "bucket_uri" {
  description = "Where Ray keeps its data."
  value       = module.ray.bucket_uri
}

output "ray_helm_values" {
  description = "Values for the chart: `helm install ray ./helm/ray-cluster -f <(terraform output -json ray_helm_values)`."
  value       = module.ray.ray_helm_values
}
