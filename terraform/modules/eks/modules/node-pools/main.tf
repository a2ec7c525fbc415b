# What a machine type has is asked of EC2: no table here that grows old, and a type that the region doesn't have is found
# in the plan.
data "aws_ec2_instance_type" "this" {
  for_each = toset(flatten(values(local.types)))

  instance_type = each.key
}

# Not every zone of a region has every machine type.
data "aws_ec2_instance_type_offerings" "this" {
  for_each = toset(flatten(values(local.types)))

  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [each.key]
  }
}

locals {
  types = { for name, pool in var.pools : name => concat([pool.machine_type], pool.other_machine_types) }

  machines = {
    for type, machine in data.aws_ec2_instance_type.this : type => {
      vcpus = machine.default_vcpus
      gib   = machine.memory_size / 1024
      arm   = contains(machine.supported_architectures, "arm64")
      gpus  = [for gpu in machine.gpus : gpu if lower(gpu.manufacturer) == "nvidia"]
      neuron = [
        for device in machine.neuron_devices : { name = device.name, cores = device.count * device.core_count }
      ]
      # Of an instance with several network cards, each carries one EFA.
      efas     = machine.efa_supported ? max(1, coalesce(machine.efa_maximum_interfaces, 1)) : 0
      disk_gib = try(machine.instance_storage_supported, false) ? floor(coalesce(machine.total_instance_storage, 0) * 0.93) : 0
    }
  }

  accelerator_of = {
    for type, machine in local.machines : type => one(concat(
      [for gpu in slice(machine.gpus, 0, min(1, length(machine.gpus))) : {
        resource = "nvidia.com/gpu"
        type     = gpu.name
        count    = gpu.count
      }],
      [for device in machine.neuron : {
        resource = "aws.amazon.com/neuroncore"
        type     = device.name
        count    = device.cores
      }],
    ))
  }
  accelerators = { for name, pool in var.pools : name => local.accelerator_of[pool.machine_type] }

  # A worker asks for what a node of its pool has: all of a pool's machine types have to have it.
  unlike = {
    for name, pool in var.pools : name => [
      for type in pool.other_machine_types : "${type} has ${local.machines[type].arm ? "an Arm CPU" : "an x86 CPU"} and ${try("${local.accelerator_of[type].count} ${local.accelerator_of[type].resource}", "no accelerator")}"
      if local.machines[type].arm != local.machines[pool.machine_type].arm
      || try(local.accelerator_of[type].resource, "") != try(local.accelerators[name].resource, "")
      || try(local.accelerator_of[type].count, 0) != try(local.accelerators[name].count, 0)
    ]
  }
  disk_gib = { for name, types in local.types : name => min([for type in types : local.machines[type].disk_gib]...) }

  ami = {
    for name, pool in var.pools : name => coalesce(
      pool.ami,
      try(local.accelerators[name].resource, "") == "nvidia.com/gpu" ? (local.machines[pool.machine_type].arm ? "AL2023_ARM_64_NVIDIA" : "AL2023_x86_64_NVIDIA") : null,
      try(local.accelerators[name].resource, "") == "aws.amazon.com/neuroncore" ? "AL2023_x86_64_NEURON" : null,
      local.machines[pool.machine_type].arm ? "AL2023_ARM_64_STANDARD" : "AL2023_x86_64_STANDARD",
    )
  }

  effects = {
    NO_SCHEDULE        = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE         = "NoExecute"
  }
  given_taints = {
    for name, pool in var.pools : name => [for taint in pool.taints : merge(taint, { effect = lookup(local.effects, taint.effect, taint.effect) })]
  }

  # nvidia.com/gpu=present:NoSchedule is what Google Cloud puts on its own GPU nodes: one toleration does for both clouds.
  # EKS refuses two taints of one key and effect: what the pool itself says wins.
  taints = {
    for name, accelerator in local.accelerators : name => distinct(concat(
      [for key in accelerator == null ? [] : [accelerator.resource == "nvidia.com/gpu" ? "nvidia.com/gpu" : "aws.amazon.com/neuron"] : {
        key    = key
        value  = "present"
        effect = "NoSchedule"
      } if !contains([for taint in local.given_taints[name] : taint.key if taint.effect == "NoSchedule"], key)],
      local.given_taints[name],
    ))
  }

  min = { for name, pool in var.pools : name => coalesce(pool.min, local.accelerators[name] == null ? 1 : 0) }

  # The cluster autoscaler knows a GPU node that is not ready yet by this label:
  # https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/aws/README.md (read 2026-11-29).
  labels = {
    for name, pool in var.pools : name => merge(
      { for key in ["k8s.amazonaws.com/accelerator"] : key => "nvidia-${replace(lower(local.accelerators[name].type), "/[^a-z0-9]+/", "-")}" if try(local.accelerators[name].resource, "") == "nvidia.com/gpu" },
      pool.labels,
      { "ray-pool" = name },
    )
  }

  # Where the pool may be, and in which of these zones one of its machine types is had. EC2 that names none (it then fails
  # for the type itself) says nothing.
  wanted_subnets = {
    for name, pool in var.pools : name => [for subnet in var.subnets : subnet if length(pool.zones) == 0 || contains(pool.zones, subnet.zone)]
  }
  offered = {
    for name, pool in var.pools : name => distinct(flatten([for type in local.types[name] : coalesce(data.aws_ec2_instance_type_offerings.this[type].locations, [])]))
  }
  subnets = {
    for name, subnets in local.wanted_subnets : name => [for subnet in subnets : subnet.id if length(local.offered[name]) == 0 || contains(local.offered[name], subnet.zone)]
  }

  # The steps in which kubelets reserve memory, and 1 GiB for daemon sets.
  reserved_gib = {
    for type, machine in local.machines : type => sum([
      0.25 * min(4, machine.gib),
      0.20 * min(4, max(0, machine.gib - 4)),
      0.10 * min(8, max(0, machine.gib - 8)),
      0.06 * min(112, max(0, machine.gib - 16)),
      0.02 * max(0, machine.gib - 128),
      1,
    ])
  }

  # What the kubelet, the system and the usual daemon sets leave, on the least of the pool's machine types: on the low
  # side, for a pod that asks for too much is never scheduled.
  vcpus    = { for name, types in local.types : name => min([for type in types : local.machines[type].vcpus]...) }
  free_gib = { for name, types in local.types : name => min([for type in types : local.machines[type].gib - local.reserved_gib[type]]...) }
  allocatable = {
    for name, pool in var.pools : name => {
      cpu        = try(pool.allocatable.cpu, max(1, local.vcpus[name] - (local.vcpus[name] > 48 ? 2 : 1)))
      memory_gib = try(pool.allocatable.memory_gib, max(1, floor(local.free_gib[name] - (local.huge_pages[name] ? 5128 * 2 / 1024 : 0))))
      gpus       = try(local.accelerators[name].resource, "") == "nvidia.com/gpu" ? local.accelerators[name].count : 0
    }
  }

  made       = var.create ? var.pools : {}
  makes_role = var.create && var.create_node_role

  efa_pools = { for name, pool in var.pools : name => pool if pool.efa }

  # AMIs with EFA's driver set 5128 huge pages of 2 MiB aside, and AWS' own pods ask for 5120 MiB of them:
  # https://docs.aws.amazon.com/eks/latest/userguide/node-efa.html (read 2026-11-29). Bottlerocket sets none aside.
  huge_pages = { for name, pool in var.pools : name => pool.efa && can(regex("^AL2023.*(NVIDIA|NEURON)$", local.ami[name])) }
  resources = {
    for name, pool in var.pools : name => merge(
      { for resource in ["vpc.amazonaws.com/efa"] : resource => tostring(local.machines[pool.machine_type].efas) if pool.efa },
      { for resource in ["hugepages-2Mi"] : resource => "5120Mi" if local.huge_pages[name] },
    )
  }

  local_disks = {
    for name, pool in var.pools : name => startswith(local.ami[name], "BOTTLEROCKET") ? join("\n", [
      "[settings.bootstrap-commands.local-disks]",
      "commands = [[\"apiclient\", \"ephemeral-storage\", \"init\"], [\"apiclient\", \"ephemeral-storage\", \"bind\", \"--dirs\", \"/var/lib/containerd\", \"/var/lib/kubelet\", \"/var/log/pods\"]]",
      "essential = true",
      "mode = \"always\"",
      "",
      ]) : join("\n", [
      "MIME-Version: 1.0",
      "Content-Type: multipart/mixed; boundary=\"node\"",
      "",
      "--node",
      "Content-Type: application/node.eks.aws",
      "",
      yamlencode({ apiVersion = "node.eks.aws/v1alpha1", kind = "NodeConfig", spec = { instance = { localStorage = { strategy = "RAID0" } } } }),
      "--node--",
      "",
    ]) if pool.local_disks
  }

  # What the autoscaler can't see of a group without nodes. It derives CPU, memory and NVIDIA's GPUs from the machine type,
  # and asks EKS for labels and taints only where it has the right to. Tag keys have at most 128 characters.
  template = "k8s.io/cluster-autoscaler/node-template"
  template_tags = merge([
    for name, pool in var.pools : {
      for key, value in merge(
        { for label, value in local.labels[name] : "${local.template}/label/${label}" => value },
        { for key in distinct(local.taints[name][*].key) : "${local.template}/taint/${key}" => [for taint in local.taints[name] : "${taint.value}:${taint.effect}" if taint.key == key][0] },
        { for resource, count in local.resources[name] : "${local.template}/resources/${resource}" => count },
        { for accelerator in [local.accelerators[name]] : "${local.template}/resources/${accelerator.resource}" => tostring(accelerator.count) if accelerator != null },
        { "${local.template}/resources/ephemeral-storage" = "${floor((pool.local_disks ? local.disk_gib[name] : pool.disk_gib) * 0.85)}Gi" },
      ) : "${name} ${key}" => { pool = name, key = key, value = value } if length(key) <= 128
    }
  ]...)
}

resource "aws_security_group" "efa" {
  count = length(local.efa_pools) > 0 ? 1 : 0

  name_prefix = "${substr(var.cluster_name, 0, 60)}-efa-"
  description = "Traffic between nodes over the Elastic Fabric Adapter"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.cluster_name}-efa" })

  lifecycle {
    create_before_destroy = true
  }
}

# EFA wants both directions allowed by name, even where all egress is open.
resource "aws_vpc_security_group_ingress_rule" "efa" {
  count = length(local.efa_pools) > 0 ? 1 : 0

  security_group_id            = aws_security_group.efa[0].id
  referenced_security_group_id = aws_security_group.efa[0].id
  ip_protocol                  = "-1"
  description                  = "EFA between nodes"
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "efa" {
  count = length(local.efa_pools) > 0 ? 1 : 0

  security_group_id            = aws_security_group.efa[0].id
  referenced_security_group_id = aws_security_group.efa[0].id
  ip_protocol                  = "-1"
  description                  = "EFA between nodes"
  tags                         = var.tags
}

resource "aws_placement_group" "this" {
  for_each = { for name, pool in local.made : name => pool if pool.placement_group }

  name     = "${var.cluster_name}-${each.key}"
  strategy = "cluster"
  tags     = var.tags
}

resource "aws_launch_template" "this" {
  for_each = local.made

  name_prefix            = "${var.cluster_name}-${each.key}-"
  description            = "Nodes of ${var.cluster_name}'s pool ${each.key}"
  update_default_version = true

  # A capacity block wants its instance type here; elsewhere the node group says it.
  instance_type = each.value.capacity == "capacity_block" ? each.value.machine_type : null

  # EKS adds its own part. https://awslabs.github.io/amazon-eks-ami/nodeadm/ and
  # https://bottlerocket.dev/en/os/latest/#/concepts/bootstrap-commands/ (read 2026-11-29, not tried against a cloud).
  user_data = each.value.local_disks ? base64encode(local.local_disks[each.key]) : null

  block_device_mappings {
    # Bottlerocket keeps images and containers on its second disk.
    device_name = startswith(local.ami[each.key], "BOTTLEROCKET") ? "/dev/xvdb" : "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gib
      encrypted             = true
      kms_key_id            = var.volume_kms_key_arn
      delete_on_termination = true
    }
  }

  # Pods take their identity from Pod Identity or IRSA: they can't reach the node's own.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  dynamic "instance_market_options" {
    for_each = each.value.capacity == "capacity_block" ? [1] : []

    content {
      market_type = "capacity-block"
    }
  }

  dynamic "capacity_reservation_specification" {
    for_each = contains(["reservation", "capacity_block"], each.value.capacity) ? [1] : []

    content {
      capacity_reservation_target {
        capacity_reservation_id = each.value.reservation_id
        # Both would be refused by the provider, in words that name neither pool nor field.
        capacity_reservation_resource_group_arn = each.value.reservation_id == null ? each.value.reservation_group_arn : null
      }
    }
  }

  dynamic "placement" {
    for_each = each.value.placement_group ? [1] : []

    content {
      group_name = aws_placement_group.this[each.key].name
    }
  }

  dynamic "network_interfaces" {
    for_each = each.value.efa ? range(local.machines[each.value.machine_type].efas) : []

    content {
      device_index       = network_interfaces.value == 0 ? 0 : 1
      network_card_index = network_interfaces.value
      # Only the first one has an address: the others carry nothing but EFA.
      interface_type        = network_interfaces.value == 0 ? "efa" : "efa-only"
      delete_on_termination = true
      # A launch template that names interfaces must name the cluster's security group, too.
      security_groups = [var.cluster_security_group_id, aws_security_group.efa[0].id]
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(var.tags, { Name = "${var.cluster_name}-${each.key}" })
    }
  }

  tags = var.tags

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = !each.value.efa || local.machines[each.value.machine_type].efas > 0
      error_message = "pools.${each.key}.efa: ${each.value.machine_type} has no Elastic Fabric Adapter."
    }
    precondition {
      condition     = !each.value.efa || (var.vpc_id != null && var.cluster_security_group_id != null)
      error_message = "pools.${each.key}.efa needs vpc_id and cluster_security_group_id."
    }
    precondition {
      condition     = !each.value.local_disks || local.disk_gib[each.key] > 0
      error_message = "pools.${each.key}.local_disks: ${join(", ", [for type in local.types[each.key] : type if local.machines[type].disk_gib == 0])} has no disks of its own."
    }
    precondition {
      condition     = length(local.wanted_subnets[each.key]) == 0 || length(local.subnets[each.key]) > 0
      error_message = "pools.${each.key}.machine_type: ${join(", ", local.types[each.key])} is had in ${join(", ", local.offered[each.key])}, and the pool may be in ${join(", ", local.wanted_subnets[each.key][*].zone)} alone. Take another machine type, or other zones."
    }
    precondition {
      condition     = length(each.value.zones) == 0 || length(local.offered[each.key]) == 0 || length(setsubtract(each.value.zones, local.offered[each.key])) == 0
      error_message = "pools.${each.key}.zones: ${join(", ", local.types[each.key])} is not had in ${join(", ", setsubtract(each.value.zones, local.offered[each.key]))}."
    }
    precondition {
      condition     = length(local.wanted_subnets[each.key]) > 0
      error_message = "pools.${each.key}.zones: no subnet is in ${join(", ", each.value.zones)}."
    }
    precondition {
      condition     = local.accelerators[each.key] == null || !endswith(local.ami[each.key], "STANDARD")
      error_message = "pools.${each.key}.ami: ${local.ami[each.key]} has no driver for this machine's accelerator."
    }
  }
}

data "aws_iam_policy_document" "node_trust" {
  count = local.makes_role ? 1 : 0

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_partition" "current" {}

resource "aws_iam_role" "node" {
  count = local.makes_role ? 1 : 0

  name_prefix        = "${substr(var.cluster_name, 0, 26)}-node-"
  assume_role_policy = data.aws_iam_policy_document.node_trust[0].json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(local.makes_role ? ["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"] : [])

  role       = aws_iam_role.node[0].name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/${each.key}"
}

resource "aws_eks_node_group" "this" {
  for_each = local.made

  cluster_name    = var.cluster_name
  node_group_name = each.key
  node_role_arn   = var.create_node_role ? aws_iam_role.node[0].arn : var.node_role_arn
  subnet_ids      = local.subnets[each.key]
  version         = var.kubernetes_version
  ami_type        = local.ami[each.key]
  release_version = each.value.ami_release
  capacity_type   = each.value.capacity == "capacity_block" ? "CAPACITY_BLOCK" : each.value.capacity == "spot" ? "SPOT" : "ON_DEMAND"
  instance_types  = each.value.capacity == "capacity_block" ? null : concat([each.value.machine_type], each.value.other_machine_types)
  labels          = local.labels[each.key]

  launch_template {
    id      = aws_launch_template.this[each.key].id
    version = aws_launch_template.this[each.key].latest_version
  }

  scaling_config {
    min_size     = local.min[each.key]
    max_size     = each.value.max
    desired_size = local.min[each.key]
  }

  dynamic "taint" {
    for_each = local.taints[each.key]

    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = { NoSchedule = "NO_SCHEDULE", PreferNoSchedule = "PREFER_NO_SCHEDULE", NoExecute = "NO_EXECUTE" }[taint.value.effect]
    }
  }

  tags = var.tags

  dynamic "node_repair_config" {
    for_each = each.value.node_repair ? [1] : []

    content {
      enabled = true
    }
  }

  lifecycle {
    # The cluster autoscaler decides. And a zone that gets the machine type one day is no reason to replace the pool.
    ignore_changes       = [scaling_config[0].desired_size, subnet_ids]
    replace_triggered_by = [terraform_data.place[each.key]]
  }

  depends_on = [aws_iam_role_policy_attachment.node]
}

resource "aws_autoscaling_group_tag" "this" {
  for_each = var.create && var.autoscaler_tags ? local.template_tags : {}

  autoscaling_group_name = try(aws_eks_node_group.this[each.value.pool].resources[0].autoscaling_groups[0].name, "-")

  tag {
    key                 = each.value.key
    value               = each.value.value
    propagate_at_launch = false
  }
}
