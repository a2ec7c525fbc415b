# What a machine type has: asked of the cloud, in every zone that a pool may be in. Which accelerator a machine has is
# listed, so that what Kubernetes calls it is known; a machine that isn't listed has what the cloud says.

locals {
  region  = join("-", slice(split("-", var.location), 0, 2))
  is_zone = length(split("-", var.location)) == 3

  ask_for_zones = !local.is_zone && length(var.zones) == 0 && anytrue([for pool in values(var.pools) : length(pool.zones) == 0])

  # Zones for AI alone (us-central1-ai1a) have other machines, and no cluster is put there unasked.
  region_zones = flatten([for found in data.google_compute_zones.this : [for zone in coalesce(found.names, []) : zone if can(regex("^[a-z]+-[a-z]+[0-9]+-[a-z]$", zone))]])

  zones = {
    for name, pool in var.pools : name =>
    length(pool.zones) > 0 ? pool.zones :
    length(var.zones) > 0 ? var.zones :
    local.is_zone ? [var.location] : local.region_zones
  }

  no_zones = { for name, zones in local.zones : name => [for zone in zones : zone if !can(regex("^${local.region}-[a-z0-9]*[a-z]$", zone))] }

  # n2-custom-8-32768: the cloud lists no custom types, and their name says it all.
  custom = { for type in distinct([for pool in values(var.pools) : pool.machine_type]) : type => can(regex("custom-[0-9]+-[0-9]+", type)) }

  asked = merge([
    for name, pool in var.pools : { for zone in local.zones[name] : "${zone}/${pool.machine_type}" => { zone = zone, type = pool.machine_type } if !local.custom[pool.machine_type] && !contains(local.no_zones[name], zone) }
  ]...)

  found = {
    for key, asked in local.asked : key => try([for machine in data.google_compute_machine_types.this[key].machine_types : machine if machine.name == asked.type][0], null)
  }
  listed = { for type in keys(local.custom) : type => [for key, asked in local.asked : local.found[key] if asked.type == type && local.found[key] != null] }

  # TPUs that the cloud lists nowhere are believed: their capacity is announced elsewhere.
  missing_in = {
    for name, pool in var.pools : name => [
      for zone in local.zones[name] : zone
      if try(local.found["${zone}/${pool.machine_type}"] == null, false) && (!local.is_tpu_machine[pool.machine_type] || length(local.listed[pool.machine_type]) > 0)
    ]
  }
  offered_in = { for name, pool in var.pools : name => [for zone in local.zones[name] : zone if !contains(local.missing_in[name], zone)] }

  gpu_machines = {
    a2-highgpu-1g   = { type = "nvidia-tesla-a100", count = 1 }
    a2-highgpu-2g   = { type = "nvidia-tesla-a100", count = 2 }
    a2-highgpu-4g   = { type = "nvidia-tesla-a100", count = 4 }
    a2-highgpu-8g   = { type = "nvidia-tesla-a100", count = 8 }
    a2-megagpu-16g  = { type = "nvidia-tesla-a100", count = 16 }
    a2-ultragpu-1g  = { type = "nvidia-a100-80gb", count = 1 }
    a2-ultragpu-2g  = { type = "nvidia-a100-80gb", count = 2 }
    a2-ultragpu-4g  = { type = "nvidia-a100-80gb", count = 4 }
    a2-ultragpu-8g  = { type = "nvidia-a100-80gb", count = 8 }
    a3-highgpu-1g   = { type = "nvidia-h100-80gb", count = 1 }
    a3-highgpu-2g   = { type = "nvidia-h100-80gb", count = 2 }
    a3-highgpu-4g   = { type = "nvidia-h100-80gb", count = 4 }
    a3-highgpu-8g   = { type = "nvidia-h100-80gb", count = 8 }
    a3-megagpu-8g   = { type = "nvidia-h100-mega-80gb", count = 8 }
    a3-ultragpu-8g  = { type = "nvidia-h200-141gb", count = 8 }
    a4-highgpu-8g   = { type = "nvidia-b200", count = 8 }
    g2-standard-4   = { type = "nvidia-l4", count = 1 }
    g2-standard-8   = { type = "nvidia-l4", count = 1 }
    g2-standard-12  = { type = "nvidia-l4", count = 1 }
    g2-standard-16  = { type = "nvidia-l4", count = 1 }
    g2-standard-24  = { type = "nvidia-l4", count = 2 }
    g2-standard-32  = { type = "nvidia-l4", count = 1 }
    g2-standard-48  = { type = "nvidia-l4", count = 4 }
    g2-standard-96  = { type = "nvidia-l4", count = 8 }
    g4-standard-48  = { type = "nvidia-rtx-pro-6000", count = 1 }
    g4-standard-96  = { type = "nvidia-rtx-pro-6000", count = 2 }
    g4-standard-192 = { type = "nvidia-rtx-pro-6000", count = 4 }
    g4-standard-384 = { type = "nvidia-rtx-pro-6000", count = 8 }
  }

  # With the sizes that Google's list of TPU machines gives (cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus,
  # November 2026), for where the cloud does not list them.
  tpu_machines = {
    ct4p-hightpu-4t   = { vcpus = 240, gib = 407, type = "tpu-v4-podslice", count = 4, topology = "2x2x1" }
    ct5lp-hightpu-1t  = { vcpus = 24, gib = 48, type = "tpu-v5-lite-podslice", count = 1, topology = "1x1" }
    ct5lp-hightpu-4t  = { vcpus = 112, gib = 192, type = "tpu-v5-lite-podslice", count = 4, topology = "2x2" }
    ct5lp-hightpu-8t  = { vcpus = 224, gib = 384, type = "tpu-v5-lite-podslice", count = 8, topology = "2x4" }
    ct5p-hightpu-4t   = { vcpus = 208, gib = 448, type = "tpu-v5p-slice", count = 4, topology = "2x2x1" }
    ct6e-standard-1t  = { vcpus = 44, gib = 176, type = "tpu-v6e-slice", count = 1, topology = "1x1" }
    ct6e-standard-4t  = { vcpus = 180, gib = 720, type = "tpu-v6e-slice", count = 4, topology = "2x2" }
    ct6e-standard-8t  = { vcpus = 180, gib = 1440, type = "tpu-v6e-slice", count = 8, topology = "2x4" }
    tpu7x-standard-4t = { vcpus = 224, gib = 960, type = "tpu7x", count = 4, topology = "2x2x1" }
  }
  is_tpu_machine = { for type in keys(local.custom) : type => can(regex("^(ct|tpu)[0-9]", type)) }

  shapes = {
    for type in keys(local.custom) : type => merge(
      { vcpus = null, gib = null, shared = false },
      try({ vcpus = tonumber(regex("custom-([0-9]+)-", type)[0]), gib = tonumber(regex("custom-[0-9]+-([0-9]+)", type)[0]) / 1024 }, {}),
      try({ vcpus = local.tpu_machines[type].vcpus, gib = local.tpu_machines[type].gib }, {}),
      # What the cloud says counts most, and of several zones the least.
      try({
        vcpus  = min([for machine in local.listed[type] : machine.guest_cpus]...)
        gib    = min([for machine in local.listed[type] : machine.memory_mb]...) / 1024
        shared = anytrue([for machine in local.listed[type] : coalesce(machine.is_shared_cpus, false)])
      }, {}),
    )
  }

  # Of a machine that isn't in the list above: what the cloud says that it always has.
  told = {
    for type, machines in local.listed : type => try([
      for accelerator in machines[0].accelerators : { type = accelerator.guest_accelerator_type, count = accelerator.guest_accelerator_count }
    ][0], null) if !local.is_tpu_machine[type]
  }

  # What GKE reserves for itself: 25 % of the first 4 GiB, 20 % of the next 4, 10 % of the next 8, 6 % of the next 112 and
  # 2 % of the rest, and 100 MiB for evictions; 6 % of the first core, 1 % of the second, 0.5 % of the next two, 0.25 % of
  # the rest, and 1.06 of a shared core (cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes). Image streaming
  # takes two fifths of the memory's steps once more (docs/how-to/image-streaming, memory reservation). November 2026;
  # checked against the documentation, not against a real cloud.
  steps_gib = {
    for type, shape in local.shapes : type => sum([
      0.25 * min(4, coalesce(shape.gib, 1)),
      0.20 * min(4, max(0, coalesce(shape.gib, 1) - 4)),
      0.10 * min(8, max(0, coalesce(shape.gib, 1) - 8)),
      0.06 * min(112, max(0, coalesce(shape.gib, 1) - 16)),
      0.02 * max(0, coalesce(shape.gib, 1) - 128),
    ])
  }
  # Beside that: the kernel's own (64 bytes for each page of 4 KiB, 256 MiB for the rest), which Kubernetes never sees,
  # and 1 GiB and half a core for daemon sets.
  free_gib = {
    for name, pool in var.pools : name => (
      coalesce(local.shapes[pool.machine_type].gib, 1) * 63 / 64 - 0.25 - 1 - 100 / 1024
      -local.steps_gib[pool.machine_type] * (pool.image_streaming ? 1.4 : 1)
    )
  }
  free_cpus = {
    for type, shape in local.shapes : type => coalesce(shape.vcpus, 1) - 0.5 - (shape.shared ? 1.06 : sum([
      0.06,
      0.01 * min(1, max(0, coalesce(shape.vcpus, 1) - 1)),
      0.005 * min(2, max(0, coalesce(shape.vcpus, 1) - 2)),
      0.0025 * max(0, coalesce(shape.vcpus, 1) - 4),
    ]))
  }
}

data "google_compute_zones" "this" {
  count = local.ask_for_zones ? 1 : 0

  project = var.project
  region  = local.region
}

data "google_compute_machine_types" "this" {
  for_each = local.asked

  project = var.project
  zone    = each.value.zone
  filter  = "name = \"${each.value.type}\""
}
