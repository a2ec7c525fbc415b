output "node_pools" {
  description = "The pools as Kubernetes sees them: selector, tolerations, accelerator, what a node can give, and how many there may be."
  value = {
    for name, pool in var.pools : name => {
      node_selector = { "ray-pool" = name }
      tolerations = [
        for taint in local.taints[name] : {
          key      = taint.key
          operator = taint.value == "" ? "Exists" : "Equal"
          value    = taint.value
          effect   = taint.effect
        }
      ]
      accelerator  = local.accelerators[name]
      allocatable  = local.allocatable[name]
      min          = local.min[name]
      max          = pool.max
      num_of_hosts = 1
      resources    = local.resources[name]
    }
  }

  # Who reads this wants to put pods there.
  depends_on = [aws_eks_node_group.this]
}

output "nvidia_device_plugin_required" {
  description = "Whether NVIDIA's device plugin must be installed: the AL2023 AMI has the driver alone, Bottlerocket has the plugin, too."
  value       = var.create && anytrue([for name, accelerator in local.accelerators : try(accelerator.resource, "") == "nvidia.com/gpu" && startswith(local.ami[name], "AL2023")])
}

output "device_plugin_pools" {
  description = "The pools whose AMI has NVIDIA's driver, and not its device plugin."
  value       = [for name, accelerator in local.accelerators : name if try(accelerator.resource, "") == "nvidia.com/gpu" && startswith(local.ami[name], "AL2023")]
}

output "machine_vcpus" {
  description = "The CPUs of each pool's machine type."
  value       = { for type, machine in local.machines : type => machine.vcpus }
}

output "taints" {
  description = "The taints of each pool's nodes, as Kubernetes spells them."
  value       = local.taints
}

output "efa_device_plugin_required" {
  description = "Whether AWS' EFA device plugin must be installed: no AMI has it, and workers of pools with EFA ask for `vpc.amazonaws.com/efa`."
  value       = length(local.efa_pools) > 0
}

output "node_role_arn" {
  description = "The IAM role of the nodes."
  value       = local.makes_role ? aws_iam_role.node[0].arn : var.node_role_arn
}

output "autoscaling_group_names" {
  description = "The Auto Scaling groups that EKS made, by pool."
  value       = { for name, group in aws_eks_node_group.this : name => flatten([for resource in group.resources : resource.autoscaling_groups[*].name]) }
}
