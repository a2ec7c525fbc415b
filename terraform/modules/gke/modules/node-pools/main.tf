locals {
  inferred = {
    for name, pool in var.pools : name => try(
      { resource = "nvidia.com/gpu", type = local.gpu_machines[pool.machine_type].type, count = local.gpu_machines[pool.machine_type].count },
      { resource = "google.com/tpu", type = local.tpu_machines[pool.machine_type].type, count = local.tpu_machines[pool.machine_type].count },
      { resource = "nvidia.com/gpu", type = local.told[pool.machine_type].type, count = local.told[pool.machine_type].count },
      null,
    )
  }

  # What a node really has: inferred, or said for a machine that can have any.
  hardware = {
    for name, pool in var.pools : name => local.inferred[name] != null ? local.inferred[name] : one([
      for said in [pool.accelerator] : {
        resource = local.is_tpu_machine[pool.machine_type] ? "google.com/tpu" : "nvidia.com/gpu"
        type     = said.type
        count    = said.count
      } if try(said.type != null && said.count != null, false)
    ])
  }

  # What Kubernetes sees of it: a shared GPU counts once for each client.
  accelerators = {
    for name, pool in var.pools : name => local.hardware[name] == null ? null : merge(local.hardware[name], {
      count = local.hardware[name].count * try(pool.gpu_sharing.clients, 1)
    })
  }

  is_tpu = { for name, hardware in local.hardware : name => try(hardware.resource, "") == "google.com/tpu" }
  is_gpu = { for name, hardware in local.hardware : name => try(hardware.resource, "") == "nvidia.com/gpu" }

  topology = { for name, pool in var.pools : name => local.is_tpu[name] ? coalesce(pool.tpu_topology, try(local.tpu_machines[pool.machine_type].topology, null), "1x1") : null }
  chips = {
    for name, topology in local.topology : name => topology == null ? 0 : (
      tonumber(split("x", topology)[0]) * tonumber(try(split("x", topology)[1], 1)) * tonumber(try(split("x", topology)[2], 1))
    )
  }
  hosts = { for name, chips in local.chips : name => chips == 0 ? 1 : max(1, ceil(chips / local.hardware[name].count)) }

  min = { for name, pool in var.pools : name => coalesce(pool.min, local.hardware[name] == null && !contains(["flex_start", "queued"], pool.capacity) ? 1 : 0) }

  effects = {
    NO_SCHEDULE        = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE         = "NoExecute"
  }
  given_taints = {
    for name, pool in var.pools : name => [for taint in pool.taints : merge(taint, { effect = lookup(local.effects, taint.effect, taint.effect) })]
  }

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

  taints = {
    for name, pool in var.pools : name => distinct(concat(
      # Google Cloud puts the TPU's taint on by itself, and the GPU's only where there are nodes without GPU.
      [for resource in ["nvidia.com/gpu"] : { key = resource, value = "present", effect = "NoSchedule" } if local.is_gpu[name]],
      local.given_taints[name],
    ))
  }

  tolerated = {
    for name, pool in var.pools : name => concat(
      local.taints[name],
      [for resource in ["google.com/tpu"] : { key = resource, value = "present", effect = "NoSchedule" } if local.is_tpu[name]],
      [for key in ["cloud.google.com/gke-queued"] : { key = key, value = "true", effect = "NoSchedule" } if pool.capacity == "queued"],
    )
  }

  # GKE puts the taint on queued nodes, and the label for who selects them is ours to set (Cluster Toolkit, June 2026).
  queued = { for name, pool in var.pools : name => { for key in ["cloud.google.com/gke-queued"] : key => "true" if pool.capacity == "queued" } }

  selector = {
    for name, pool in var.pools : name => merge(
      { "ray-pool" = name },
      local.queued[name],
      # KubeRay's TPU webhook reads them off the pod.
      { for key in ["cloud.google.com/gke-tpu-accelerator"] : key => local.hardware[name].type if local.is_tpu[name] },
      { for key in ["cloud.google.com/gke-tpu-topology"] : key => local.topology[name] if local.is_tpu[name] },
    )
  }

  # On the low side: a pod that asks for too much is never scheduled.
  allocatable = {
    for name, pool in var.pools : name => {
      cpu        = try(pool.allocatable.cpu, local.free_cpus[pool.machine_type] >= 1 ? floor(local.free_cpus[pool.machine_type]) : max(0.1, floor(local.free_cpus[pool.machine_type] * 10) / 10))
      memory_gib = try(pool.allocatable.memory_gib, max(0, floor(local.free_gib[name])))
      gpus       = local.is_gpu[name] ? local.accelerators[name].count : 0
    }
  }

  # GKE takes an initial number for each zone, and its autoscaler makes machines for pods that wait, not to reach a minimum
  # (docs/how-to/cluster-autoscaler, November 2026). Without accelerators: as many as the minimum, rounded up to whole zones
  # but not over the maximum; the autoscaler takes back what is idle. Accelerators: never more than the minimum, and Ray's
  # pods ask for the rest.
  zone_count = { for name, zones in local.zones : name => length(var.pools[name].zones) > 0 || length(var.zones) > 0 || local.is_zone ? length(zones) : 3 }
  initial = {
    for name, pool in var.pools : name => local.hardware[name] == null ? min(ceil(local.min[name] / local.zone_count[name]), floor(pool.max / local.zone_count[name])) : floor(local.min[name] * local.hosts[name] / local.zone_count[name])
  }

  # Whose nodes need further networks to talk to each other as fast as they can: GPUDirect-TCPX and -TCPXO on A3, RDMA on
  # A3 Ultra, A4 and H4D (the Cluster Toolkit's examples for GKE make them, June 2026).
  fast_network = { for name, pool in var.pools : name => can(regex("^(a3-(high|mega|ultra)gpu-8g|a4-|h4d-)", pool.machine_type)) }

  # With the limits of all zones together GKE's API refuses TPUs of flex-start (a fault of the provider, says the Cluster
  # Toolkit's gke-node-pool, June 2026): with exactly one zone those of a zone mean the same.
  zonal_limits = { for name, pool in var.pools : name => local.is_tpu[name] && pool.capacity == "flex_start" }
}

resource "google_container_node_pool" "this" {
  for_each = var.pools

  name               = each.key
  project            = var.project
  location           = var.location
  cluster            = var.cluster
  node_locations     = length(each.value.zones) > 0 ? each.value.zones : null
  initial_node_count = local.initial[each.key]

  autoscaling {
    min_node_count       = local.zonal_limits[each.key] ? local.min[each.key] * local.hosts[each.key] : null
    max_node_count       = local.zonal_limits[each.key] ? each.value.max * local.hosts[each.key] : null
    total_min_node_count = local.zonal_limits[each.key] ? null : local.min[each.key] * local.hosts[each.key]
    total_max_node_count = local.zonal_limits[each.key] ? null : each.value.max * local.hosts[each.key]
    # Where capacity is scarce, any zone that has some will do.
    location_policy = each.value.capacity != "on_demand" || local.hardware[each.key] != null ? "ANY" : "BALANCED"
  }

  management {
    # A node that waits for capacity, or runs for a limited time, isn't repaired.
    auto_repair  = !contains(["flex_start", "queued"], each.value.capacity)
    auto_upgrade = true
  }

  dynamic "queued_provisioning" {
    for_each = each.value.capacity == "queued" ? [1] : []

    content {
      enabled = true
    }
  }

  dynamic "placement_policy" {
    for_each = each.value.compact_placement || local.hosts[each.key] > 1 ? [1] : []

    content {
      type         = "COMPACT"
      tpu_topology = local.hosts[each.key] > 1 ? local.topology[each.key] : null
    }
  }

  node_config {
    machine_type      = each.value.machine_type
    disk_size_gb      = each.value.disk_gib
    disk_type         = each.value.disk_type
    boot_disk_kms_key = var.boot_disk_kms_key
    image_type        = "COS_CONTAINERD"
    service_account   = var.node_service_account
    oauth_scopes      = ["https://www.googleapis.com/auth/cloud-platform"]
    spot              = each.value.capacity == "spot"
    flex_start        = each.value.capacity == "flex_start" ? true : null
    max_run_duration  = each.value.max_run_duration
    labels            = merge(local.queued[each.key], each.value.labels, { "ray-pool" = each.key })
    resource_labels   = var.labels

    metadata = {
      disable-legacy-endpoints = "true"
    }

    # Pods take their identity from Workload Identity: they can't reach the node's own.
    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    gcfs_config {
      enabled = each.value.image_streaming
    }

    gvnic {
      enabled = each.value.gvnic
    }

    dynamic "guest_accelerator" {
      for_each = local.is_gpu[each.key] ? [local.hardware[each.key]] : []

      content {
        type  = guest_accelerator.value.type
        count = guest_accelerator.value.count

        gpu_driver_installation_config {
          gpu_driver_version = each.value.gpu_driver
        }

        dynamic "gpu_sharing_config" {
          for_each = each.value.gpu_sharing == null ? [] : [each.value.gpu_sharing]

          content {
            gpu_sharing_strategy       = gpu_sharing_config.value.strategy
            max_shared_clients_per_gpu = gpu_sharing_config.value.clients
          }
        }
      }
    }

    dynamic "reservation_affinity" {
      for_each = contains(["reservation", "flex_start", "queued"], each.value.capacity) ? [each.value.reservation_name] : []

      content {
        consume_reservation_type = reservation_affinity.value == null ? "NO_RESERVATION" : "SPECIFIC_RESERVATION"
        key                      = reservation_affinity.value == null ? null : "compute.googleapis.com/reservation-name"
        values                   = reservation_affinity.value == null ? null : [reservation_affinity.value]
      }
    }

    dynamic "taint" {
      for_each = local.taints[each.key]

      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = { NoSchedule = "NO_SCHEDULE", PreferNoSchedule = "PREFER_NO_SCHEDULE", NoExecute = "NO_EXECUTE" }[taint.value.effect]
      }
    }
  }

  lifecycle {
    # The autoscaler decides.
    ignore_changes = [initial_node_count, node_count]

    # What a pool may say stands here and not at the variable: there it would end a destroy, too.
    precondition {
      condition     = contains(["on_demand", "spot", "reservation", "flex_start", "queued"], each.value.capacity)
      error_message = "pools.${each.key}.capacity must be on_demand, spot, reservation, flex_start or queued on Google Cloud (capacity_block is AWS's)."
    }
    precondition {
      condition     = (each.value.capacity == "reservation") == (each.value.reservation_name != null)
      error_message = "pools.${each.key}: capacity = reservation needs reservation_name, and the other capacities exclude it."
    }
    precondition {
      condition     = each.value.max_run_duration == null || (contains(["flex_start", "queued"], each.value.capacity) && can(regex("^[0-9]+s$", each.value.max_run_duration)))
      error_message = "pools.${each.key}.max_run_duration is for flex_start and queued, in seconds, such as 86400s."
    }
    precondition {
      condition     = coalesce(each.value.min, 0) == 0 || !contains(["flex_start", "queued"], each.value.capacity)
      error_message = "pools.${each.key}.min: flex_start and queued start from 0."
    }
    precondition {
      condition     = each.value.disk_gib >= 20 && each.value.disk_gib <= 65536
      error_message = "pools.${each.key}.disk_gib must be from 20 to 65536."
    }
    precondition {
      condition     = contains(["LATEST", "DEFAULT", "INSTALLATION_DISABLED"], each.value.gpu_driver)
      error_message = "pools.${each.key}.gpu_driver must be LATEST, DEFAULT or INSTALLATION_DISABLED."
    }
    precondition {
      condition     = try(contains(["TIME_SHARING", "MPS"], each.value.gpu_sharing.strategy) && each.value.gpu_sharing.clients >= 2 && each.value.gpu_sharing.clients <= 48, each.value.gpu_sharing == null)
      error_message = "pools.${each.key}.gpu_sharing needs strategy TIME_SHARING or MPS, and clients from 2 to 48."
    }
    precondition {
      condition     = each.value.tpu_topology == null || can(regex("^(ct|tpu)[0-9]", each.value.machine_type))
      error_message = "pools.${each.key}.tpu_topology is for TPU machines (ct…, tpu…)."
    }
    precondition {
      condition     = length(each.value.zones) == 1 || !each.value.compact_placement
      error_message = "pools.${each.key}.compact_placement needs exactly one zone in zones."
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
    precondition {
      condition     = length(local.no_zones[each.key]) == 0
      error_message = "pools.${each.key}.zones: ${join(", ", local.no_zones[each.key])}: no zone of ${local.region}; zones are such as ${local.region}-b."
    }
    precondition {
      condition     = length(local.missing_in[each.key]) == 0
      error_message = "pools.${each.key}.machine_type: ${each.value.machine_type} is not offered in ${join(", ", local.missing_in[each.key])}${length(local.offered_in[each.key]) > 0 ? ". Set pools.${each.key}.zones = ${jsonencode(local.offered_in[each.key])}" : " (asked of google_compute_machine_types)"}."
    }
    precondition {
      condition     = each.value.allocatable != null || local.shapes[each.value.machine_type].vcpus != null || length(local.missing_in[each.key]) + length(local.no_zones[each.key]) > 0
      error_message = "pools.${each.key}.allocatable: this module doesn't know ${each.value.machine_type}; say what Ray may ask of a node."
    }
    precondition {
      condition     = local.allocatable[each.key].memory_gib >= 1 || local.shapes[each.value.machine_type].vcpus == null
      error_message = "pools.${each.key}.machine_type: ${each.value.machine_type} has less than 1 GiB left for pods; take a larger one."
    }
    # A4X: Arm CPUs, RDMA networks and a workload policy (the Cluster Toolkit's examples for GKE, June 2026).
    precondition {
      condition     = !startswith(each.value.machine_type, "a4x-")
      error_message = "pools.${each.key}.machine_type: ${each.value.machine_type} needs RDMA networks, a workload policy and Arm images, which this module does not make. Take a4-highgpu-8g or a3-ultragpu-8g, or make the pool yourself and give it to the module ray-values."
    }
    precondition {
      condition     = !local.fast_network[each.key] || each.value.max == 1 || each.value.ordinary_network
      error_message = "pools.${each.key}.max: ${each.value.machine_type} talks to others of its kind over networks for GPUDirect or RDMA, which this module does not make. With max = 1 it stays within a machine; ordinary_network = true says that several machines over the ordinary network are meant."
    }
    # The Cluster Toolkit's gke-node-pool, June 2026.
    precondition {
      condition     = !(each.value.capacity == "queued" && each.value.compact_placement && !local.is_tpu[each.key])
      error_message = "pools.${each.key}.compact_placement: GKE has none for queued machines with GPUs or without accelerators."
    }
    precondition {
      condition     = !(each.value.capacity == "flex_start" && each.value.compact_placement && !local.is_tpu[each.key]) || can(regex("^(a3-ultragpu-|a4-|h4d-)", each.value.machine_type))
      error_message = "pools.${each.key}.compact_placement: with flex_start GKE has it for a3-ultragpu, a4 and h4d machines and TPUs, not for ${each.value.machine_type}."
    }
    # A slice is placed compactly, and compact placement is for pools of a single zone (gke-node-pool, June 2026).
    precondition {
      condition     = local.hosts[each.key] == 1 || local.zone_count[each.key] == 1
      error_message = "pools.${each.key}.zones: a slice of several hosts (${coalesce(local.topology[each.key], "-")}) needs exactly one zone${length(local.offered_in[each.key]) > 0 ? ", such as ${jsonencode([local.offered_in[each.key][0]])}" : ""}."
    }
    precondition {
      condition     = !local.zonal_limits[each.key] || local.zone_count[each.key] == 1
      error_message = "pools.${each.key}.zones: TPUs with flex_start need exactly one zone: GKE takes no limit over several zones for them."
    }
    # TPU7x slices of several hosts need a workload policy (AI-Hypercomputer/xpk, pull request 825).
    precondition {
      condition     = local.hosts[each.key] == 1 || !startswith(each.value.machine_type, "tpu7x-")
      error_message = "pools.${each.key}.tpu_topology: slices of several TPU7x hosts need a workload policy, which this module does not make. Take 2x2x1, or ct6e or ct5p machines."
    }
    precondition {
      condition     = each.value.accelerator == null || local.inferred[each.key] == null || try(lower(coalesce(each.value.accelerator.type, local.inferred[each.key].type)) == local.inferred[each.key].type, false)
      error_message = "pools.${each.key}.accelerator.type: ${each.value.machine_type} has ${try(local.inferred[each.key].type, "none")}."
    }
    precondition {
      condition     = each.value.accelerator == null || local.inferred[each.key] == null || try(coalesce(each.value.accelerator.count, local.inferred[each.key].count) == local.inferred[each.key].count, false)
      error_message = "pools.${each.key}.accelerator.count: ${each.value.machine_type} has ${try(local.inferred[each.key].count, 0)}."
    }
    precondition {
      condition     = each.value.accelerator == null || local.inferred[each.key] != null || try(length(each.value.accelerator.type) > 0 && each.value.accelerator.count >= 1, false)
      error_message = "pools.${each.key}.accelerator: ${each.value.machine_type} needs both type and count."
    }
    precondition {
      condition     = each.value.accelerator == null || local.inferred[each.key] != null || can(regex("^(n1|a|g|ct|tpu)[0-9a-z]*-", each.value.machine_type))
      error_message = "pools.${each.key}.accelerator: ${each.value.machine_type} can't have one; take an n1, a2, a3, a4, g2, g4 or TPU machine type."
    }
    precondition {
      condition     = each.value.gpu_sharing == null || local.is_gpu[each.key]
      error_message = "pools.${each.key}.gpu_sharing: there is no GPU to share."
    }
    precondition {
      condition     = local.hosts[each.key] == 1 || each.value.max == 1
      error_message = "pools.${each.key}.max: a pool with a slice of several hosts (${coalesce(local.topology[each.key], "-")}) holds one slice; make a pool for each."
    }
    precondition {
      condition     = local.chips[each.key] == 0 || local.chips[each.key] % try(local.hardware[each.key].count, 1) == 0
      error_message = "pools.${each.key}.tpu_topology: ${coalesce(local.topology[each.key], "-")} is no multiple of the machine's chips."
    }
  }
}
