# What a machine type has. Google Cloud puts most of it into the name; the accelerators' machines are listed.

locals {
  gpu_machines = {
    a2-highgpu-1g  = { vcpus = 12, gib = 85, type = "nvidia-tesla-a100", count = 1 }
    a2-highgpu-2g  = { vcpus = 24, gib = 170, type = "nvidia-tesla-a100", count = 2 }
    a2-highgpu-4g  = { vcpus = 48, gib = 340, type = "nvidia-tesla-a100", count = 4 }
    a2-highgpu-8g  = { vcpus = 96, gib = 680, type = "nvidia-tesla-a100", count = 8 }
    a2-megagpu-16g = { vcpus = 96, gib = 1360, type = "nvidia-tesla-a100", count = 16 }
    a2-ultragpu-1g = { vcpus = 12, gib = 170, type = "nvidia-a100-80gb", count = 1 }
    a2-ultragpu-2g = { vcpus = 24, gib = 340, type = "nvidia-a100-80gb", count = 2 }
    a2-ultragpu-4g = { vcpus = 48, gib = 680, type = "nvidia-a100-80gb", count = 4 }
    a2-ultragpu-8g = { vcpus = 96, gib = 1360, type = "nvidia-a100-80gb", count = 8 }
    a3-highgpu-1g  = { vcpus = 26, gib = 234, type = "nvidia-h100-80gb", count = 1 }
    a3-highgpu-2g  = { vcpus = 52, gib = 468, type = "nvidia-h100-80gb", count = 2 }
    a3-highgpu-4g  = { vcpus = 104, gib = 936, type = "nvidia-h100-80gb", count = 4 }
    a3-highgpu-8g  = { vcpus = 208, gib = 1872, type = "nvidia-h100-80gb", count = 8 }
    a3-megagpu-8g  = { vcpus = 208, gib = 1872, type = "nvidia-h100-mega-80gb", count = 8 }
    a3-ultragpu-8g = { vcpus = 224, gib = 2952, type = "nvidia-h200-141gb", count = 8 }
    a4-highgpu-8g  = { vcpus = 224, gib = 3968, type = "nvidia-b200", count = 8 }
    g2-standard-4  = { vcpus = 4, gib = 16, type = "nvidia-l4", count = 1 }
    g2-standard-8  = { vcpus = 8, gib = 32, type = "nvidia-l4", count = 1 }
    g2-standard-12 = { vcpus = 12, gib = 48, type = "nvidia-l4", count = 1 }
    g2-standard-16 = { vcpus = 16, gib = 64, type = "nvidia-l4", count = 1 }
    g2-standard-24 = { vcpus = 24, gib = 96, type = "nvidia-l4", count = 2 }
    g2-standard-32 = { vcpus = 32, gib = 128, type = "nvidia-l4", count = 1 }
    g2-standard-48 = { vcpus = 48, gib = 192, type = "nvidia-l4", count = 4 }
    g2-standard-96 = { vcpus = 96, gib = 384, type = "nvidia-l4", count = 8 }
  }

  tpu_machines = {
    ct4p-hightpu-4t  = { vcpus = 240, gib = 407, type = "tpu-v4-podslice", count = 4, topology = "2x2x1" }
    ct5lp-hightpu-1t = { vcpus = 24, gib = 48, type = "tpu-v5-lite-podslice", count = 1, topology = "1x1" }
    ct5lp-hightpu-4t = { vcpus = 112, gib = 192, type = "tpu-v5-lite-podslice", count = 4, topology = "2x2" }
    ct5lp-hightpu-8t = { vcpus = 224, gib = 384, type = "tpu-v5-lite-podslice", count = 8, topology = "2x4" }
    ct5p-hightpu-4t  = { vcpus = 208, gib = 448, type = "tpu-v5p-slice", count = 4, topology = "2x2x1" }
    ct6e-standard-1t = { vcpus = 44, gib = 176, type = "tpu-v6e-slice", count = 1, topology = "1x1" }
    ct6e-standard-4t = { vcpus = 180, gib = 720, type = "tpu-v6e-slice", count = 4, topology = "2x2" }
    ct6e-standard-8t = { vcpus = 180, gib = 1440, type = "tpu-v6e-slice", count = 8, topology = "2x4" }
  }

  # GiB for each vCPU.
  memory_ratio = { standard = 4, highmem = 8, highcpu = 1 }

  shapes = {
    for type in distinct([for pool in values(var.pools) : pool.machine_type]) : type => merge(
      { vcpus = null, gib = null },
      # n2-standard-8, n1-highmem-16
      try({
        vcpus = tonumber(regex("^[a-z0-9]+-(?:standard|highmem|highcpu)-([0-9]+)", type)[0])
        gib = tonumber(regex("^[a-z0-9]+-(?:standard|highmem|highcpu)-([0-9]+)", type)[0]) * (
          startswith(type, "n1-") ? { standard = 3.75, highmem = 6.5, highcpu = 0.9 }[split("-", type)[1]] :
          startswith(type, "c") && split("-", type)[1] == "highcpu" ? 2 :
          local.memory_ratio[split("-", type)[1]]
        )
      }, {}),
      # n2-custom-8-32768
      try({ vcpus = tonumber(regex("custom-([0-9]+)-", type)[0]), gib = tonumber(regex("custom-[0-9]+-([0-9]+)", type)[0]) / 1024 }, {}),
      try({ vcpus = local.gpu_machines[type].vcpus, gib = local.gpu_machines[type].gib }, {}),
      try({ vcpus = local.tpu_machines[type].vcpus, gib = local.tpu_machines[type].gib }, {}),
    )
  }
}
