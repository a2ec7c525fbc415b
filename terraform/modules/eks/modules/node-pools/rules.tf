# What a pool may say, whoever makes its nodes.

locals {
  # What Kubernetes makes of labels and taints: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/, and
  # the prefixes that a kubelet may give its own node (NodeRestriction, and the kubelet's --node-labels).
  key_pattern   = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
  value_pattern = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
  bad_labels = {
    for name, pool in var.pools : name => [for key, value in pool.labels : "${name}.labels[\"${key}\"]" if !can(regex(local.key_pattern, key)) || !can(regex(local.value_pattern, value))]
  }
  reserved_labels = {
    for name, pool in var.pools : name => [for key in keys(pool.labels) : "${name}.labels[\"${key}\"]" if can(regex("(^|\\.)(kubernetes|k8s)\\.io/", key)) && !can(regex("(^|\\.)(kubelet|node)\\.kubernetes\\.io/", key))]
  }
  bad_taints = {
    for name, pool in var.pools : name => [for taint in pool.taints : "${name}.taints[\"${taint.key}\"]" if !can(regex(local.key_pattern, taint.key)) || !can(regex(local.value_pattern, taint.value))]
  }
}

# Other zones or subnets, when somebody asks for them, are another pool.
resource "terraform_data" "place" {
  for_each = var.pools

  input = sort(local.wanted_subnets[each.key][*].id)

  lifecycle {
    # What a pool may say, also where something else makes its nodes. Here and not at the variable: there it would end a
    # destroy, too.
    precondition {
      condition     = each.value.accelerator == null || local.accelerators[each.key] != null
      error_message = "pools.${each.key}.accelerator: ${each.value.machine_type} has no accelerator."
    }
    precondition {
      condition     = try(each.value.accelerator.type, null) == null || lower(coalesce(try(each.value.accelerator.type, null), "-")) == lower(try(local.accelerators[each.key].type, ""))
      error_message = "pools.${each.key}.accelerator.type: ${each.value.machine_type} has ${try(local.accelerators[each.key].type, "none")}."
    }
    precondition {
      condition     = try(each.value.accelerator.count, null) == null || coalesce(try(each.value.accelerator.count, null), 0) == try(local.accelerators[each.key].count, 0)
      error_message = "pools.${each.key}.accelerator.count: ${each.value.machine_type} has ${try(local.accelerators[each.key].count, 0)}."
    }
    precondition {
      condition     = length(local.unlike[each.key]) == 0
      error_message = "pools.${each.key}.other_machine_types: a worker asks for what ${each.value.machine_type} has (${local.machines[each.value.machine_type].arm ? "an Arm CPU" : "an x86 CPU"} and ${try("${local.accelerators[each.key].count} ${local.accelerators[each.key].resource}", "no accelerator")}), and would never start on these: ${join(", ", local.unlike[each.key])}. Make them a pool of their own."
    }
    precondition {
      condition     = contains(["on_demand", "spot", "reservation", "capacity_block"], each.value.capacity)
      error_message = "pools.${each.key}.capacity must be on_demand, spot, reservation or capacity_block on AWS (flex_start and queued are Google Cloud's)."
    }
    precondition {
      condition = (
        contains(["reservation", "capacity_block"], each.value.capacity) == (each.value.reservation_id != null || each.value.reservation_group_arn != null)
        && !(each.value.reservation_id != null && each.value.reservation_group_arn != null)
        && !(each.value.capacity == "capacity_block" && each.value.reservation_id == null)
      )
      error_message = "pools.${each.key}: capacity = reservation needs one of reservation_id and reservation_group_arn, capacity_block needs reservation_id, and the other capacities exclude both."
    }
    precondition {
      condition     = length(each.value.other_machine_types) == 0 || contains(["spot", "on_demand"], each.value.capacity)
      error_message = "pools.${each.key}.other_machine_types is for capacity = spot or on_demand; a reservation is for one machine type."
    }
    precondition {
      condition     = each.value.disk_gib >= 20 && each.value.disk_gib <= 16384
      error_message = "pools.${each.key}.disk_gib must be from 20 to 16384."
    }
    precondition {
      condition     = length(each.value.zones) == 1 || !(each.value.efa || each.value.placement_group || each.value.capacity == "capacity_block")
      error_message = "pools.${each.key}: efa, placement_group and capacity_block need exactly one zone in zones."
    }
    precondition {
      condition = each.value.ami == null || contains([
        "AL2023_x86_64_STANDARD", "AL2023_ARM_64_STANDARD", "AL2023_x86_64_NVIDIA", "AL2023_ARM_64_NVIDIA", "AL2023_x86_64_NEURON",
        "BOTTLEROCKET_x86_64", "BOTTLEROCKET_ARM_64", "BOTTLEROCKET_x86_64_NVIDIA", "BOTTLEROCKET_ARM_64_NVIDIA",
      ], coalesce(each.value.ami, "-"))
      error_message = "pools.${each.key}.ami must be an AL2023_* or BOTTLEROCKET_* AMI type of EKS."
    }
    precondition {
      condition     = each.value.max >= 1 && coalesce(each.value.min, 0) >= 0 && coalesce(each.value.min, 0) <= each.value.max && floor(each.value.max) == each.value.max && floor(coalesce(each.value.min, 0)) == coalesce(each.value.min, 0)
      error_message = "pools.${each.key}: min and max must be whole numbers with 0 <= min <= max and max >= 1."
    }
    precondition {
      condition     = try(each.value.allocatable.cpu > 0 && each.value.allocatable.memory_gib >= 1, each.value.allocatable == null)
      error_message = "pools.${each.key}.allocatable needs cpu > 0 and memory_gib >= 1."
    }
    precondition {
      condition     = !contains(keys(each.value.labels), "ray-pool")
      error_message = "pools.${each.key}.labels: ray-pool is the module's own."
    }
    precondition {
      condition     = length(local.bad_labels[each.key]) == 0
      error_message = "pools: Kubernetes refuses ${join(", ", local.bad_labels[each.key])}: keys and values are up to 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends; a key may have a domain and a slash before."
    }
    precondition {
      condition     = length(local.reserved_labels[each.key]) == 0
      error_message = "pools: a node may not give itself ${join(", ", local.reserved_labels[each.key])}: of the domains kubernetes.io and k8s.io only node.kubernetes.io and kubelet.kubernetes.io are free. Take a domain of your own."
    }
    precondition {
      condition     = length(local.bad_taints[each.key]) == 0
      error_message = "pools: Kubernetes refuses ${join(", ", local.bad_taints[each.key])}: keys and values of taints are made as those of labels."
    }
    precondition {
      condition     = alltrue([for taint in each.value.taints : contains(["NoSchedule", "PreferNoSchedule", "NoExecute", "NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"], taint.effect)])
      error_message = "pools.${each.key}.taints: effect must be NoSchedule, PreferNoSchedule or NoExecute, or as the clouds spell it NO_SCHEDULE, PREFER_NO_SCHEDULE or NO_EXECUTE."
    }
    precondition {
      condition     = length(distinct([for taint in local.given_taints[each.key] : "${taint.key}:${taint.effect}"])) == length(distinct([for taint in local.given_taints[each.key] : "${taint.key}=${taint.value}:${taint.effect}"]))
      error_message = "pools.${each.key}.taints: two have the same key and effect, and different values: a node can have one of them."
    }
  }
}
