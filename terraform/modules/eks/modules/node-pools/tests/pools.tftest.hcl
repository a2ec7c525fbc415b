mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = {
      json = "{}"
    }
  }
  mock_data "aws_partition" {
    defaults = {
      partition = "aws"
    }
  }
  mock_data "aws_region" {
    defaults = {
      id = "us-east-1"
    }
  }
  mock_data "aws_caller_identity" {
    defaults = {
      account_id = "123456789012"
    }
  }
  mock_data "aws_availability_zones" {
    defaults = {
      names = ["us-east-1a", "us-east-1b", "us-east-1c"]
    }
  }
  mock_data "aws_availability_zone" {
    defaults = {
      zone_id   = "use1-az6"
      zone_type = "availability-zone"
    }
  }
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = {
      locations = ["us-east-1a", "us-east-1b", "us-east-1c"]
    }
  }
  mock_data "aws_ec2_instance_type" {
    defaults = {
      default_vcpus           = 48
      memory_size             = 196608
      supported_architectures = ["x86_64"]
      efa_supported           = false
      gpus                    = [{ count = 4, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      neuron_devices          = []
    }
  }
}

variables {
  cluster_name = "ray"
  subnets      = [{ id = "subnet-a", zone = "us-east-1a" }, { id = "subnet-b", zone = "us-east-1b" }]
}

run "gpus_are_inferred_tainted_and_start_from_none" {
  command = plan

  variables {
    pools = {
      a10g = { machine_type = "g5.12xlarge", capacity = "spot", max = 2 }
    }
  }

  assert {
    condition     = output.node_pools.a10g.accelerator.count == 4
    error_message = "The accelerator must be inferred."
  }

  assert {
    condition     = output.node_pools.a10g.min == 0
    error_message = "A pool with accelerators starts from none."
  }

  assert {
    condition     = [for taint in aws_eks_node_group.this["a10g"].taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["nvidia.com/gpu=present:NO_SCHEDULE"]
    error_message = "The GPU's taint must be there."
  }

  assert {
    condition     = aws_eks_node_group.this["a10g"].capacity_type == "SPOT"
    error_message = "Spot must be asked for."
  }

  assert {
    condition     = aws_eks_node_group.this["a10g"].ami_type == "AL2023_x86_64_NVIDIA"
    error_message = "The AMI must have the driver."
  }

  assert {
    condition     = output.nvidia_device_plugin_required == true
    error_message = "AL2023 needs the device plugin."
  }
}

run "bottlerocket_brings_the_device_plugin" {
  command = plan

  variables {
    pools = {
      a10g = { machine_type = "g5.12xlarge", ami = "BOTTLEROCKET_x86_64_NVIDIA" }
    }
  }

  assert {
    condition     = output.nvidia_device_plugin_required == false
    error_message = "Bottlerocket has the plugin."
  }
}

run "capacity_block" {
  command = plan

  variables {
    pools = {
      h100 = { machine_type = "p5.48xlarge", capacity = "capacity_block", reservation_id = "cr-1", zones = ["us-east-1a"] }
    }
  }

  assert {
    condition     = aws_eks_node_group.this["h100"].capacity_type == "CAPACITY_BLOCK"
    error_message = "The node group must be told."
  }

  assert {
    condition     = aws_launch_template.this["h100"].instance_market_options[0].market_type == "capacity-block"
    error_message = "The launch template must be told."
  }
}

run "refuses_flex_start_on_aws" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "flex_start" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_queued_on_aws" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "queued" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_spot_and_reservation_together" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "spot", reservation_id = "cr-1" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_reservation_without_its_id" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "reservation" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_two_reservations" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "reservation", reservation_id = "cr-1", reservation_group_arn = "arn:aws:x" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_capacity_block_without_its_id" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "capacity_block", zones = ["us-east-1a"] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_capacity_block_in_two_zones" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "capacity_block", reservation_id = "cr-1", zones = ["us-east-1a", "us-east-1b"] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_min_over_max" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", min = 3, max = 2 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_no_nodes_at_all" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", max = 0 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_half_a_node" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", max = 1.5 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_efa_in_all_zones" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", efa = true }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_placement_group_in_all_zones" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", placement_group = true }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_an_unknown_effect" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", taints = [{ key = "a", effect = "Never" }] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_an_unknown_ami" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", ami = "AL2_x86_64_GPU" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_tiny_disk" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", disk_gib = 8 }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_the_label_of_the_module" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", labels = { ray-pool = "x" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_nothing_allocatable" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", allocatable = { cpu = 0, memory_gib = 8 } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_other_machines_in_a_reservation" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", capacity = "reservation", reservation_id = "cr-1", other_machine_types = ["g5.24xlarge"] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_bad_machine_type" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "n2-standard-8" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_bad_pool_name" {
  command = plan

  variables {
    pools = {
      Bad_1 = { machine_type = "g5.12xlarge" }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_another_accelerator" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", accelerator = { type = "H100" } }
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "refuses_another_number_of_accelerators" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", accelerator = { count = 8 } }
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "refuses_efa_where_there_is_none" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", efa = true, zones = ["us-east-1a"] }
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "refuses_a_zone_without_subnet" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", zones = ["us-east-1f"] }
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "refuses_an_ami_without_driver" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", ami = "AL2023_x86_64_STANDARD" }
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "refuses_no_role" {
  command = plan

  variables {
    create_node_role = false
  }

  expect_failures = [var.create_node_role]
}

run "refuses_no_subnet" {
  command = plan

  variables {
    subnets = []
  }

  expect_failures = [var.subnets]
}

run "taints_in_the_clouds_own_spelling" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g5.12xlarge", taints = [{ key = "team", value = "ml", effect = "NO_SCHEDULE" }, { key = "team", value = "ml", effect = "PreferNoSchedule" }] }
    }
  }

  assert {
    condition     = [for taint in aws_eks_node_group.this["gpu"].taint : taint.effect if taint.key == "team"] == ["NO_SCHEDULE", "PREFER_NO_SCHEDULE"]
    error_message = "Both spellings must be taken."
  }

  assert {
    condition     = [for toleration in output.node_pools.gpu.tolerations : toleration.effect if toleration.key == "team"] == ["NoSchedule", "PreferNoSchedule"]
    error_message = "Kubernetes knows its own spelling alone."
  }
}

run "labels_that_are_allowed" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g5.12xlarge", labels = { "k8s.amazonaws.com/accelerator" = "nvidia-a10g", "node.kubernetes.io/purpose" = "ray", "example.com/Team_1" = "", team = "A.b_c-9" } }
    }
  }
}

run "the_pools_own_value_of_the_gpus_taint_wins" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g5.12xlarge", taints = [{ key = "nvidia.com/gpu", value = "true" }] }
      two = { machine_type = "g5.12xlarge", taints = [{ key = "nvidia.com/gpu", value = "true", effect = "NO_EXECUTE" }] }
    }
  }

  assert {
    condition     = [for taint in aws_eks_node_group.this["gpu"].taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["nvidia.com/gpu=true:NO_SCHEDULE"]
    error_message = "EKS refuses two taints with one key and effect."
  }

  assert {
    condition     = output.node_pools.gpu.tolerations == [{ key = "nvidia.com/gpu", operator = "Equal", value = "true", effect = "NoSchedule" }]
    error_message = "Pods have to tolerate what the node has."
  }

  assert {
    condition     = length(aws_eks_node_group.this["two"].taint) == 2
    error_message = "Another effect is another taint."
  }
}

run "refuses_a_label_value_that_kubernetes_refuses" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", labels = { purpose = "ml training/large" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_value_that_is_too_long" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", labels = { purpose = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_key_that_kubernetes_refuses" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", labels = { "my label" = "x" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_that_kubelets_may_not_set" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", labels = { "node-role.kubernetes.io/gpu" = "true" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_label_of_kubernetes_itself" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", labels = { "foo.k8s.io/x" = "true" } }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_a_taint_key_that_kubernetes_refuses" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", taints = [{ key = "dedicated team", value = "true" }] }
    }
  }

  expect_failures = [var.pools]
}

run "refuses_two_values_of_one_taint" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", taints = [{ key = "team", value = "a" }, { key = "team", value = "b", effect = "NO_SCHEDULE" }] }
    }
  }

  expect_failures = [var.pools]
}

run "the_autoscaler_is_told_what_an_empty_pool_would_have" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g5.12xlarge", labels = { team = "vision" }, taints = [{ key = "dedicated", value = "ml" }] }
    }
  }

  assert {
    condition     = aws_eks_node_group.this["gpu"].labels["k8s.amazonaws.com/accelerator"] == "nvidia-a10g"
    error_message = "By this label the autoscaler knows a GPU node."
  }
  assert {
    condition = jsonencode({ for tag in values(aws_autoscaling_group_tag.this) : trimprefix(tag.tag[0].key, "k8s.io/cluster-autoscaler/node-template/") => tag.tag[0].value }) == jsonencode({
      "label/k8s.amazonaws.com/accelerator" = "nvidia-a10g"
      "label/ray-pool"                      = "gpu"
      "label/team"                          = "vision"
      "taint/nvidia.com/gpu"                = "present:NoSchedule"
      "taint/dedicated"                     = "ml:NoSchedule"
      "resources/nvidia.com/gpu"            = "4"
      "resources/ephemeral-storage"         = "85Gi"
    })
    error_message = "Of a group without nodes it knows no more than this: ${jsonencode([for tag in values(aws_autoscaling_group_tag.this) : tag.tag])}"
  }
  assert {
    condition     = aws_eks_node_group.this["gpu"].node_repair_config[0].enabled == true
    error_message = "Nodes that fail are replaced."
  }
}

run "zones_without_the_machine_type_are_left_out" {
  command = plan

  variables {
    pools = {
      gpu = { machine_type = "g5.12xlarge" }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type_offerings.this
    values = {
      locations = ["us-east-1b", "us-east-1c"]
    }
  }

  assert {
    condition     = aws_eks_node_group.this["gpu"].subnet_ids == toset(["subnet-b"])
    error_message = "EC2 has none in us-east-1a."
  }
}

run "refuses_a_zone_without_the_machine_type" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge", zones = ["us-east-1a", "us-east-1b"] }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type_offerings.this
    values = {
      locations = ["us-east-1b"]
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "refuses_a_machine_type_that_no_zone_of_the_pool_has" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "g5.12xlarge" }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type_offerings.this
    values = {
      locations = ["us-east-1d"]
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "local_disks_carry_what_pods_write" {
  command = plan

  variables {
    pools = {
      al2023       = { machine_type = "g5.12xlarge", local_disks = true }
      bottlerocket = { machine_type = "g5.12xlarge", local_disks = true, ami = "BOTTLEROCKET_x86_64_NVIDIA" }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type.this
    values = {
      default_vcpus              = 48
      memory_size                = 196608
      supported_architectures    = ["x86_64"]
      efa_supported              = true
      efa_maximum_interfaces     = 1
      instance_storage_supported = true
      total_instance_storage     = 3800
      gpus                       = [{ count = 4, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      neuron_devices             = []
    }
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.this["al2023"].user_data), "\"strategy\": \"RAID0\"") && strcontains(base64decode(aws_launch_template.this["al2023"].user_data), "Content-Type: application/node.eks.aws\n\n\"apiVersion\"")
    error_message = "nodeadm makes the RAID: ${base64decode(aws_launch_template.this["al2023"].user_data)}"
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.this["bottlerocket"].user_data), "[\"apiclient\", \"ephemeral-storage\", \"init\"]")
    error_message = "Bottlerocket does it by a bootstrap command."
  }
  assert {
    condition     = aws_autoscaling_group_tag.this["al2023 k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"].tag[0].value == "3003Gi"
    error_message = "The autoscaler has to know the larger disk."
  }
}

run "refuses_local_disks_where_there_are_none" {
  command = plan

  variables {
    pools = {
      bad = { machine_type = "p4de.24xlarge", local_disks = true }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type.this
    values = {
      default_vcpus              = 48
      memory_size                = 196608
      supported_architectures    = ["x86_64"]
      efa_supported              = false
      instance_storage_supported = false
      gpus                       = []
      neuron_devices             = []
    }
  }

  expect_failures = [aws_launch_template.this["bad"]]
}

run "efa_is_asked_for" {
  command = plan

  variables {
    vpc_id                    = "vpc-1"
    cluster_security_group_id = "sg-1"
    pools = {
      h100   = { machine_type = "p5.48xlarge", efa = true, zones = ["us-east-1a"] }
      rocket = { machine_type = "p5.48xlarge", efa = true, zones = ["us-east-1a"], ami = "BOTTLEROCKET_x86_64_NVIDIA" }
      plain  = { machine_type = "p5.48xlarge" }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type.this
    values = {
      default_vcpus           = 192
      memory_size             = 2097152
      supported_architectures = ["x86_64"]
      efa_supported           = true
      efa_maximum_interfaces  = 32
      gpus                    = [{ count = 8, manufacturer = "NVIDIA", memory_size = 81920, name = "H100" }]
      neuron_devices          = []
    }
  }

  assert {
    condition     = jsonencode(output.node_pools.h100.resources) == jsonencode({ "vpc.amazonaws.com/efa" = "32", "hugepages-2Mi" = "5120Mi" })
    error_message = "A worker takes all interfaces of its node: ${jsonencode(output.node_pools.h100)}"
  }
  assert {
    condition     = jsonencode(output.node_pools.rocket.resources) == jsonencode({ "vpc.amazonaws.com/efa" = "32" })
    error_message = "Bottlerocket sets no huge pages aside: a pod that asks for them never starts."
  }
  assert {
    condition     = output.node_pools.plain.allocatable.memory_gib - output.node_pools.h100.allocatable.memory_gib >= 10
    error_message = "Huge pages are no memory that a pod can ask for."
  }
  assert {
    condition     = output.efa_device_plugin_required == true && length(output.node_pools.plain.resources) == 0
    error_message = "Who asks for EFA needs its plugin."
  }
}

run "refuses_another_accelerator_of_nodes_that_something_else_makes" {
  command = plan

  variables {
    create = false
    pools = {
      gpu = { machine_type = "g5.12xlarge", accelerator = { count = 8 } }
    }
  }

  expect_failures = [output.node_pools]
}
