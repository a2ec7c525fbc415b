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

# A run plans everything anew, a second of CPU each: what can be planned together is, each pool with what it is there for.
run "what_pools_become" {
  command = plan

  variables {
    vpc_id                    = "vpc-1"
    cluster_security_group_id = "sg-1"
    pools = {
      a10g     = { machine_type = "g5.12xlarge", capacity = "spot", max = 2 }
      block    = { machine_type = "p5.48xlarge", capacity = "capacity_block", reservation_id = "cr-1", zones = ["us-east-1a"] }
      spelling = { machine_type = "g5.12xlarge", taints = [{ key = "team", value = "ml", effect = "NO_SCHEDULE" }, { key = "team", value = "ml", effect = "PreferNoSchedule" }] }
      labels   = { machine_type = "g5.12xlarge", labels = { "k8s.amazonaws.com/accelerator" = "nvidia-a10g", "node.kubernetes.io/purpose" = "ray", "example.com/Team_1" = "", team = "A.b_c-9" } }
      value    = { machine_type = "g5.12xlarge", taints = [{ key = "nvidia.com/gpu", value = "true" }] }
      effect   = { machine_type = "g5.12xlarge", taints = [{ key = "nvidia.com/gpu", value = "true", effect = "NO_EXECUTE" }] }
      empty    = { machine_type = "g5.12xlarge", labels = { team = "vision" }, taints = [{ key = "dedicated", value = "ml" }] }
      zones    = { machine_type = "g5.8xlarge" }
      disks    = { machine_type = "g5.24xlarge", local_disks = true }
      disksbr  = { machine_type = "g5.24xlarge", local_disks = true, ami = "BOTTLEROCKET_x86_64_NVIDIA" }
      efa      = { machine_type = "p5.48xlarge", efa = true, zones = ["us-east-1a"] }
      efabr    = { machine_type = "p5.48xlarge", efa = true, zones = ["us-east-1a"], ami = "BOTTLEROCKET_x86_64_NVIDIA" }
      plain    = { machine_type = "p5.48xlarge" }
      neuron   = { machine_type = "trn1.2xlarge" }
      mixed    = { machine_type = "g5.12xlarge", other_machine_types = ["g6.12xlarge"], capacity = "spot" }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type.this["p5.48xlarge"]
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
  override_data {
    target = data.aws_ec2_instance_type.this["g5.24xlarge"]
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
  override_data {
    target = data.aws_ec2_instance_type.this["trn1.2xlarge"]
    values = {
      default_vcpus           = 8
      memory_size             = 32768
      supported_architectures = ["x86_64"]
      efa_supported           = false
      gpus                    = []
      neuron_devices          = [{ count = 1, core_count = 2, core_version = 2, memory_size = 32768, name = "Trainium" }]
    }
  }
  override_data {
    target = data.aws_ec2_instance_type.this["g6.12xlarge"]
    values = {
      default_vcpus           = 24
      memory_size             = 98304
      supported_architectures = ["x86_64"]
      efa_supported           = false
      gpus                    = [{ count = 4, manufacturer = "NVIDIA", memory_size = 22888, name = "L4" }]
      neuron_devices          = []
    }
  }
  override_data {
    target = data.aws_ec2_instance_type_offerings.this["g5.8xlarge"]
    values = { locations = ["us-east-1b", "us-east-1c"] }
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
  assert {
    condition     = aws_eks_node_group.this["block"].capacity_type == "CAPACITY_BLOCK"
    error_message = "The node group must be told."
  }
  assert {
    condition     = aws_launch_template.this["block"].instance_market_options[0].market_type == "capacity-block"
    error_message = "The launch template must be told."
  }
  assert {
    condition     = [for taint in aws_eks_node_group.this["spelling"].taint : taint.effect if taint.key == "team"] == ["NO_SCHEDULE", "PREFER_NO_SCHEDULE"]
    error_message = "Both spellings must be taken."
  }
  assert {
    condition     = [for toleration in output.node_pools.spelling.tolerations : toleration.effect if toleration.key == "team"] == ["NoSchedule", "PreferNoSchedule"]
    error_message = "Kubernetes knows its own spelling alone."
  }
  assert {
    condition     = length(aws_eks_node_group.this["labels"].labels) == 5
    error_message = "Kubernetes takes these labels."
  }
  assert {
    condition     = [for taint in aws_eks_node_group.this["value"].taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["nvidia.com/gpu=true:NO_SCHEDULE"]
    error_message = "EKS refuses two taints with one key and effect."
  }
  assert {
    condition     = output.node_pools.value.tolerations == [{ key = "nvidia.com/gpu", operator = "Equal", value = "true", effect = "NoSchedule" }]
    error_message = "Pods have to tolerate what the node has."
  }
  assert {
    condition     = length(aws_eks_node_group.this["effect"].taint) == 2
    error_message = "Another effect is another taint."
  }
  assert {
    condition     = aws_eks_node_group.this["empty"].labels["k8s.amazonaws.com/accelerator"] == "nvidia-a10g"
    error_message = "By this label the autoscaler knows a GPU node."
  }
  assert {
    condition = jsonencode({ for key, tag in aws_autoscaling_group_tag.this : trimprefix(tag.tag[0].key, "k8s.io/cluster-autoscaler/node-template/") => tag.tag[0].value if startswith(key, "empty ") }) == jsonencode({
      "label/k8s.amazonaws.com/accelerator" = "nvidia-a10g"
      "label/ray-pool"                      = "empty"
      "label/team"                          = "vision"
      "taint/nvidia.com/gpu"                = "present:NoSchedule"
      "taint/dedicated"                     = "ml:NoSchedule"
      "resources/nvidia.com/gpu"            = "4"
      "resources/ephemeral-storage"         = "85Gi"
    })
    error_message = "Of a group without nodes it knows no more than this: ${jsonencode([for tag in values(aws_autoscaling_group_tag.this) : tag.tag])}"
  }
  assert {
    condition     = [for key in ["neuron k8s.io/cluster-autoscaler/node-template/resources/aws.amazon.com/neuroncore", "efa k8s.io/cluster-autoscaler/node-template/resources/vpc.amazonaws.com/efa", "efa k8s.io/cluster-autoscaler/node-template/resources/hugepages-2Mi"] : aws_autoscaling_group_tag.this[key].tag[0].value] == ["2", "32", "5120Mi"]
    error_message = "It knows NVIDIA's GPUs by the machine type, and neither Neuron nor EFA."
  }
  assert {
    condition     = aws_eks_node_group.this["neuron"].ami_type == "AL2023_x86_64_NEURON" && output.node_pools.neuron.tolerations[0].key == "aws.amazon.com/neuron"
    error_message = "The AMI must have the driver, and the node its taint."
  }
  assert {
    condition     = output.node_pools.mixed.allocatable.cpu == 23 && output.node_pools.mixed.allocatable.memory_gib < 96
    error_message = "A worker has to fit on each of the pool's machine types: ${jsonencode(output.node_pools.mixed)}"
  }
  assert {
    condition     = aws_eks_node_group.this["empty"].node_repair_config[0].enabled == true
    error_message = "Nodes that fail are replaced."
  }
  assert {
    condition     = aws_eks_node_group.this["zones"].subnet_ids == toset(["subnet-b"])
    error_message = "EC2 has none in us-east-1a."
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.this["disks"].user_data), "\"strategy\": \"RAID0\"") && strcontains(base64decode(aws_launch_template.this["disks"].user_data), "Content-Type: application/node.eks.aws\n\n\"apiVersion\"")
    error_message = "nodeadm makes the RAID: ${base64decode(aws_launch_template.this["disks"].user_data)}"
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.this["disksbr"].user_data), "[\"apiclient\", \"ephemeral-storage\", \"init\"]")
    error_message = "Bottlerocket does it by a bootstrap command."
  }
  assert {
    condition     = aws_autoscaling_group_tag.this["disks k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"].tag[0].value == "3003Gi"
    error_message = "The autoscaler has to know the larger disk."
  }
  assert {
    condition     = jsonencode(output.node_pools.efa.resources) == jsonencode({ "vpc.amazonaws.com/efa" = "32", "hugepages-2Mi" = "5120Mi" })
    error_message = "A worker takes all interfaces of its node: ${jsonencode(output.node_pools.efa)}"
  }
  assert {
    condition     = jsonencode(output.node_pools.efabr.resources) == jsonencode({ "vpc.amazonaws.com/efa" = "32" })
    error_message = "Bottlerocket sets no huge pages aside: a pod that asks for them never starts."
  }
  assert {
    condition     = output.node_pools.plain.allocatable.memory_gib - output.node_pools.efa.allocatable.memory_gib >= 10
    error_message = "Huge pages are no memory that a pod can ask for."
  }
  assert {
    condition     = output.efa_device_plugin_required == true && length(output.node_pools.plain.resources) == 0
    error_message = "Who asks for EFA needs its plugin."
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

# Each of these pools has one fault, and each has to be refused.
run "refuses_pools_with_a_fault" {
  command = plan

  variables {
    vpc_id                    = "vpc-1"
    cluster_security_group_id = "sg-1"
    pools = {
      flex-start-on-aws                 = { machine_type = "g5.12xlarge", capacity = "flex_start" }
      queued-on-aws                     = { machine_type = "g5.12xlarge", capacity = "queued" }
      spot-and-reservation-together     = { machine_type = "g5.12xlarge", capacity = "spot", reservation_id = "cr-1" }
      a-reservation-without-its-id      = { machine_type = "g5.12xlarge", capacity = "reservation" }
      two-reservations                  = { machine_type = "g5.12xlarge", capacity = "reservation", reservation_id = "cr-1", reservation_group_arn = "arn:aws:x" }
      a-capacity-block-without-its-id   = { machine_type = "g5.12xlarge", capacity = "capacity_block", zones = ["us-east-1a"] }
      a-capacity-block-in-two-zones     = { machine_type = "g5.12xlarge", capacity = "capacity_block", reservation_id = "cr-1", zones = ["us-east-1a", "us-east-1b"] }
      min-over-max                      = { machine_type = "g5.12xlarge", min = 3, max = 2 }
      no-nodes-at-all                   = { machine_type = "g5.12xlarge", max = 0 }
      half-a-node                       = { machine_type = "g5.12xlarge", max = 1.5 }
      efa-in-all-zones                  = { machine_type = "p5.48xlarge", efa = true }
      a-placement-group-in-all-zones    = { machine_type = "g5.12xlarge", placement_group = true }
      an-unknown-effect                 = { machine_type = "g5.12xlarge", taints = [{ key = "a", effect = "Never" }] }
      an-unknown-ami                    = { machine_type = "g5.12xlarge", ami = "AL2_x86_64_GPU" }
      a-tiny-disk                       = { machine_type = "g5.12xlarge", disk_gib = 8 }
      the-label-of-the-module           = { machine_type = "g5.12xlarge", labels = { ray-pool = "x" } }
      nothing-allocatable               = { machine_type = "g5.12xlarge", allocatable = { cpu = 0, memory_gib = 8 } }
      other-machines-in-a-reservation   = { machine_type = "g5.12xlarge", capacity = "reservation", reservation_id = "cr-1", other_machine_types = ["g5.24xlarge"] }
      a-label-value-with-a-space        = { machine_type = "g5.12xlarge", labels = { purpose = "ml training/large" } }
      a-label-value-that-is-too-long    = { machine_type = "g5.12xlarge", labels = { purpose = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" } }
      a-label-key-with-a-space          = { machine_type = "g5.12xlarge", labels = { "my label" = "x" } }
      a-label-that-kubelets-may-not-set = { machine_type = "g5.12xlarge", labels = { "node-role.kubernetes.io/gpu" = "true" } }
      a-label-of-kubernetes-itself      = { machine_type = "g5.12xlarge", labels = { "foo.k8s.io/x" = "true" } }
      a-taint-key-with-a-space          = { machine_type = "g5.12xlarge", taints = [{ key = "dedicated team", value = "true" }] }
      two-values-of-one-taint           = { machine_type = "g5.12xlarge", taints = [{ key = "team", value = "a" }, { key = "team", value = "b", effect = "NO_SCHEDULE" }] }
      another-accelerator               = { machine_type = "g5.12xlarge", accelerator = { type = "H100" } }
      another-number-of-accelerators    = { machine_type = "g5.12xlarge", accelerator = { count = 8 } }
      efa-where-there-is-none           = { machine_type = "g5.12xlarge", efa = true, zones = ["us-east-1a"] }
      a-zone-without-subnet             = { machine_type = "g5.12xlarge", zones = ["us-east-1f"] }
      an-ami-without-driver             = { machine_type = "g5.12xlarge", ami = "AL2023_x86_64_STANDARD" }
      a-zone-without-the-machine-type   = { machine_type = "g5.16xlarge", zones = ["us-east-1a", "us-east-1b"] }
      a-machine-type-that-no-zone-has   = { machine_type = "g5.48xlarge" }
      local-disks-where-there-are-none  = { machine_type = "p4de.24xlarge", local_disks = true }
      machines-with-other-accelerators  = { machine_type = "g5.12xlarge", other_machine_types = ["p5.48xlarge"], capacity = "spot" }
      machines-of-another-architecture  = { machine_type = "p4de.24xlarge", other_machine_types = ["m7g.12xlarge"] }
    }
  }

  override_data {
    target = data.aws_ec2_instance_type.this["p5.48xlarge"]
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
  override_data {
    target = data.aws_ec2_instance_type.this["p4de.24xlarge"]
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
  override_data {
    target = data.aws_ec2_instance_type.this["m7g.12xlarge"]
    values = {
      default_vcpus           = 48
      memory_size             = 196608
      supported_architectures = ["arm64"]
      efa_supported           = false
      gpus                    = []
      neuron_devices          = []
    }
  }
  override_data {
    target = data.aws_ec2_instance_type_offerings.this["g5.16xlarge"]
    values = { locations = ["us-east-1b"] }
  }
  override_data {
    target = data.aws_ec2_instance_type_offerings.this["g5.48xlarge"]
    values = { locations = ["us-east-1d"] }
  }

  expect_failures = [
    terraform_data.place["flex-start-on-aws"], terraform_data.place["queued-on-aws"], terraform_data.place["spot-and-reservation-together"],
    terraform_data.place["a-reservation-without-its-id"], terraform_data.place["two-reservations"],
    terraform_data.place["a-capacity-block-without-its-id"], terraform_data.place["a-capacity-block-in-two-zones"],
    terraform_data.place["min-over-max"], terraform_data.place["no-nodes-at-all"], terraform_data.place["half-a-node"],
    terraform_data.place["efa-in-all-zones"], terraform_data.place["a-placement-group-in-all-zones"], terraform_data.place["an-unknown-effect"],
    terraform_data.place["an-unknown-ami"], terraform_data.place["a-tiny-disk"], terraform_data.place["the-label-of-the-module"],
    terraform_data.place["nothing-allocatable"], terraform_data.place["other-machines-in-a-reservation"],
    terraform_data.place["a-label-value-with-a-space"], terraform_data.place["a-label-value-that-is-too-long"],
    terraform_data.place["a-label-key-with-a-space"], terraform_data.place["a-label-that-kubelets-may-not-set"],
    terraform_data.place["a-label-of-kubernetes-itself"], terraform_data.place["a-taint-key-with-a-space"],
    terraform_data.place["two-values-of-one-taint"],
    terraform_data.place["another-accelerator"], terraform_data.place["another-number-of-accelerators"],
    terraform_data.place["machines-with-other-accelerators"], terraform_data.place["machines-of-another-architecture"],
    aws_launch_template.this["efa-where-there-is-none"], aws_launch_template.this["a-zone-without-subnet"],
    aws_launch_template.this["an-ami-without-driver"], aws_launch_template.this["a-zone-without-the-machine-type"],
    aws_launch_template.this["a-machine-type-that-no-zone-has"], aws_launch_template.this["local-disks-where-there-are-none"],
  ]
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

run "refuses_a_bad_pool_name_no_role_and_no_subnet" {
  command = plan

  variables {
    create_node_role = false
    subnets          = []
    pools = {
      Bad_1 = { machine_type = "g5.12xlarge" }
    }
  }

  expect_failures = [var.pools, var.create_node_role, var.subnets]
}

run "refuses_faults_of_nodes_that_something_else_makes" {
  command = plan

  variables {
    create = false
    pools = {
      gpu    = { machine_type = "g5.12xlarge", accelerator = { count = 8 } }
      labels = { machine_type = "g5.12xlarge", labels = { "my label" = "x" } }
    }
  }

  expect_failures = [terraform_data.place["gpu"], terraform_data.place["labels"]]
}
