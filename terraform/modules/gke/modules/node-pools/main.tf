locals {
  inferred = {
    for name, pool in var.pools : name => try(
      { resource = "nvidia.com/gpu", type = local.gpu_machines[pool.machine_type].type, count = local.gpu_machines[pool.machine_type].count },
      { resource = "google.com/tpu", type = local.tpu_machines[pool.machine_type].type, count = local.tpu_machines[pool.machine_type].count },
      null,
    )
  }

  # What a node really has: inferred, or said for a machine that can have any.
  hardware = {
    for name, pool in var.pools : name => local.inferred[name] != null ? local.inferred[name] : one([
      for said in [pool.accelerator] : {
        resource = startswith(pool.machine_type, "ct") ? "google.com/tpu" : "nvidia.com/gpu"
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

  selector = {
    for name, pool in var.pools : name => merge(
      { "ray-pool" = name },
      # KubeRay's TPU webhook reads them off the pod.
      { for key in ["cloud.google.com/gke-tpu-accelerator"] : key => local.hardware[name].type if local.is_tpu[name] },
      { for key in ["cloud.google.com/gke-tpu-topology"] : key => local.topology[name] if local.is_tpu[name] },
    )
  }

  gib = { for type, shape in local.shapes : type => coalesce(shape.gib, 1) }

  # The steps in which GKE reserves memory, and 1 GiB for daemon sets.
  reserved_gib = {
    for type, gib in local.gib : type => sum([
      0.25 * min(4, gib),
      0.20 * min(4, max(0, gib - 4)),
      0.10 * min(8, max(0, gib - 8)),
      0.06 * min(112, max(0, gib - 16)),
      0.02 * max(0, gib - 128),
      1,
    ])
  }

  # On the low side: a pod that asks for too much is never scheduled.
  allocatable = {
    for name, pool in var.pools : name => {
      cpu        = try(pool.allocatable.cpu, max(1, local.shapes[pool.machine_type].vcpus - (local.shapes[pool.machine_type].vcpus > 48 ? 2 : 1)), 1)
      memory_gib = try(pool.allocatable.memory_gib, max(1, floor(local.gib[pool.machine_type] - local.reserved_gib[pool.machine_type])))
      gpus       = local.is_gpu[name] ? local.accelerators[name].count : 0
    }
  }
}

resource "google_container_node_pool" "this" {
  for_each = var.pools

  name               = each.key
  project            = var.project
  location           = var.location
  cluster            = var.cluster
  node_locations     = length(each.value.zones) > 0 ? each.value.zones : null
  initial_node_count = local.min[each.key] > 0 ? local.hosts[each.key] : 0

  autoscaling {
    total_min_node_count = local.min[each.key] * local.hosts[each.key]
    total_max_node_count = each.value.max * local.hosts[each.key]
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
    labels            = merge(each.value.labels, { "ray-pool" = each.key })
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

    precondition {
      condition     = each.value.allocatable != null || local.shapes[each.value.machine_type].vcpus != null
      error_message = "pools.${each.key}.allocatable: this module doesn't know ${each.value.machine_type}; say what Ray may ask of a node."
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
      condition     = each.value.accelerator == null || local.inferred[each.key] != null || can(regex("^(n1|a|g|ct)[0-9a-z]*-", each.value.machine_type))
      error_message = "pools.${each.key}.accelerator: ${each.value.machine_type} can't have one; take an n1, a2, a3, a4, g2 or TPU machine type."
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
