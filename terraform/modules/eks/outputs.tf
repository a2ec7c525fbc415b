# The same outputs as terraform/modules/gke, with the same meaning: what reads them need not know the cloud.

output "cloud" {
  description = "`aws`."
  value       = "aws"
}

output "cluster_name" {
  description = "The cluster's name."
  value       = aws_eks_cluster.this.name
}

output "cluster_endpoint" {
  description = "Address of the Kubernetes API."
  value       = aws_eks_cluster.this.endpoint
}

output "cluster_ca_certificate" {
  description = "The Kubernetes API's CA certificate: PEM, base64-encoded."
  value       = try(aws_eks_cluster.this.certificate_authority[0].data, null)
  sensitive   = true
}

output "location" {
  description = "The region."
  value       = local.region
}

output "project" {
  description = "The AWS account."
  value       = local.account
}

output "kubernetes_version" {
  description = "The control plane's Kubernetes version."
  value       = aws_eks_cluster.this.version
}

output "kubernetes_support_ends" {
  description = "The day on which Amazon's standard support of that version ends (the control plane then costs more, or is upgraded), or null: not in this module's table."
  value       = try(local.standard_support_ends[aws_eks_cluster.this.version], null)
}

output "node_pools" {
  description = "Each pool: `node_selector`, `tolerations`, `accelerator` (`{resource, type, count}` or null), `allocatable` (`{cpu, memory_gib, gpus}`), `min`, `max`, `num_of_hosts`."
  value       = merge({}, module.node_pools[*].node_pools...)
}

output "ray_helm_values" {
  description = "Values for the Helm chart `helm/ray-cluster`, as they stand: a head on the system pool, a worker group for each other pool."
  value       = module.ray_values.values
}

output "service_accounts" {
  description = "Each service account with a cloud identity: `namespace`, `name`, `identity`, `annotations`. `cluster-autoscaler` is among them where enabled."
  value       = module.service_accounts.service_accounts
}

output "bucket_uri" {
  description = "The bucket for Ray's data, as Ray and Arrow write it, or null."
  value       = local.bucket_name == null ? null : "s3://${local.bucket_name}"
}

output "nvidia_device_plugin_required" {
  description = "Whether NVIDIA's device plugin has to be installed before a pod can ask for nvidia.com/gpu."
  value       = !var.auto_mode && anytrue(module.node_pools[*].nvidia_device_plugin_required)
}

output "kubernetes_manifests" {
  description = "What has to be installed in the cluster so that pods with GPUs get nodes, as one Kubernetes List: NVIDIA's device plugin where the AMI lacks it, the cluster autoscaler, or Auto Mode's node pools. `SetupRayAddons` installs what is missing of it, and `DeleteRayAddons` removes it; by hand: `terraform output -json kubernetes_manifests | kubectl apply -f -`."
  value       = { apiVersion = "v1", kind = "List", items = [for item in local.kubernetes_manifests : jsondecode(item)] }
}

output "efa_device_plugin_required" {
  description = "Whether AWS' EFA device plugin has to be installed: workers of pools with EFA ask for `vpc.amazonaws.com/efa`."
  value       = anytrue(module.node_pools[*].efa_device_plugin_required)
}

output "ray_operator_managed" {
  description = "Whether the cloud runs a Ray operator of its own. EKS has none: install KubeRay's."
  value       = false
}

output "deletion_protection" {
  description = "Whether destroying is refused."
  value       = var.deletion_protection
}

output "network_id" {
  description = "The VPC."
  value       = local.vpc_id
}

output "subnet_ids" {
  description = "The private subnets."
  value       = local.subnets[*].id
}

output "cluster_security_group_id" {
  description = "The security group that EKS made for the control plane and the nodes: for nodes that something else makes, such as Karpenter."
  value       = one(aws_eks_cluster.this.vpc_config[*].cluster_security_group_id)
}
