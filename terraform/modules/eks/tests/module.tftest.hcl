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
      default_vcpus           = 4
      memory_size             = 16384
      supported_architectures = ["x86_64"]
      efa_supported           = false
      gpus                    = []
      neuron_devices          = []
    }
  }
}

variables {
  name = "ray"
  # The warning about a private endpoint has a run of its own.
  private_endpoint_reachable = true
}

# A run plans everything anew, more than a second of CPU each: what can be planned together is.
run "private_by_default" {
  command = plan

  variables {
    node_pools = {
      cpu = { machine_type = "m6i.2xlarge", max = 4 }
    }
  }

  override_resource {
    target = aws_eks_cluster.this
    values = {
      version = "1.99"
    }
    override_during = plan
  }

  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_public_access == false
    error_message = "The Kubernetes API must be private by default."
  }
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access == true
    error_message = "The Kubernetes API must be reachable inside the VPC."
  }
  assert {
    condition     = length(aws_eks_cluster.this.enabled_cluster_log_types) == 5
    error_message = "All control-plane logs must be on by default."
  }
  assert {
    condition     = one(aws_kms_key.this[*].enable_key_rotation) == true
    error_message = "The key must rotate."
  }
  assert {
    condition     = output.cloud == "aws" && output.location == "us-east-1"
    error_message = "Cloud and location must be told."
  }
  assert {
    condition     = output.ray_operator_managed == false
    error_message = "EKS has no Ray operator of its own."
  }
  assert {
    condition     = join(",", keys(output.ray_helm_values.additionalWorkerGroups)) == "cpu"
    error_message = "Each pool but the system's must become a worker group."
  }
  assert {
    condition     = output.ray_helm_values.head.nodeSelector["ray-pool"] == "system"
    error_message = "The head must go to the system pool."
  }
  assert {
    condition     = output.ray_helm_values.worker.disabled == true
    error_message = "The chart's own worker group must be off."
  }
  assert {
    condition     = output.kubernetes_version == "1.99"
    error_message = "EKS chooses the version."
  }
}

run "auto_mode_has_no_pools_of_ours" {
  command = plan

  variables {
    auto_mode = true
  }

  assert {
    condition     = length(output.node_pools) == 0
    error_message = "Auto Mode makes the nodes itself."
  }

  assert {
    condition     = !contains(keys(output.ray_helm_values), "additionalWorkerGroups")
    error_message = "The chart's own worker group must stay."
  }

  assert {
    condition     = aws_eks_cluster.this.compute_config[0].enabled == true
    error_message = "Auto Mode must be on."
  }
}

run "gpu_pods_endpoints_volumes_and_buckets_have_what_they_need" {
  command = plan

  variables {
    # In no table of support ends: this run goes by no calendar.
    kubernetes_version = "1.98"
    nat                = "none"
    bucket_mode        = "existing"
    bucket_name        = "data"
    bucket_kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/data"
    addons             = { "aws-ebs-csi-driver" = {}, vpc-cni = { before_nodes = true } }
    service_accounts   = { ray = { namespace = "ray", name = "ray", bucket_access = "read" } }
    node_pools = {
      al2023 = { machine_type = "g5.12xlarge", max = 2 }
      rocket = { machine_type = "g5.12xlarge", ami = "BOTTLEROCKET_x86_64_NVIDIA" }
    }
  }

  override_data {
    target = module.node_pools[0].data.aws_ec2_instance_type.this
    values = {
      default_vcpus           = 48
      memory_size             = 196608
      supported_architectures = ["x86_64"]
      efa_supported           = false
      gpus                    = [{ count = 4, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      neuron_devices          = []
    }
  }

  override_resource {
    target = aws_eks_cluster.this
    values = {
      version = "1.98"
    }
    override_during = plan
  }

  assert {
    condition     = [for item in output.kubernetes_manifests.items : item.spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values[0] if item.kind == "DaemonSet"][0] == "al2023"
    error_message = "Bottlerocket has the plugin: ${jsonencode(output.kubernetes_manifests)}"
  }
  assert {
    condition     = [for item in output.kubernetes_manifests.items : item.spec.template.spec.containers[0].image if item.kind == "Deployment"][0] == "registry.k8s.io/autoscaling/cluster-autoscaler:v1.98.0"
    error_message = "The autoscaler is of the cluster's minor version: ${jsonencode(output.kubernetes_manifests)}"
  }
  assert {
    condition     = jsonencode([for item in output.kubernetes_manifests.items : item.kind]) == jsonencode(["DaemonSet", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Deployment"])
    error_message = "Nothing more, nothing less: ${jsonencode([for item in output.kubernetes_manifests.items : item.kind])}"
  }
  assert {
    condition     = length(setsubtract(["ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "sts", "autoscaling"], keys(module.network[0].endpoints))) == 0
    error_message = "Nodes without them join nothing: ${jsonencode(module.network[0].endpoints)}"
  }
  assert {
    condition     = output.service_accounts["ebs-csi"].name == "ebs-csi-controller-sa" && output.service_accounts["ebs-csi"].namespace == "kube-system"
    error_message = "The driver acts as this service account."
  }
  assert {
    condition     = module.service_accounts.bucket_keys.ray == "arn:aws:kms:us-east-1:123456789012:key/data"
    error_message = "Reading includes the key."
  }
}

run "auto_mode_has_gpu_pools" {
  command = plan

  variables {
    auto_mode = true
    node_pools = {
      gpu = { machine_type = "g5.12xlarge", capacity = "spot", max = 3, zones = ["us-east-1a"] }
    }
  }

  override_data {
    target = module.node_pools[0].data.aws_ec2_instance_type.this
    values = {
      default_vcpus           = 48
      memory_size             = 196608
      supported_architectures = ["x86_64"]
      efa_supported           = false
      gpus                    = [{ count = 4, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      neuron_devices          = []
    }
  }

  assert {
    condition     = jsonencode([for item in output.kubernetes_manifests.items : [item.kind, item.metadata.name, item.spec.limits.cpu, item.spec.template.metadata.labels["ray-pool"], item.spec.template.spec.taints[0].key]]) == jsonencode([["NodePool", "gpu", "144", "gpu", "nvidia.com/gpu"]])
    error_message = "A NodePool, and no autoscaler or plugin beside Auto Mode's own: ${jsonencode(output.kubernetes_manifests)}"
  }
  assert {
    condition     = jsonencode([for need in output.kubernetes_manifests.items[0].spec.template.spec.requirements : need.values]) == jsonencode([["g5.12xlarge"], ["spot"], ["us-east-1a"]])
    error_message = "What the pool says: ${jsonencode(output.kubernetes_manifests)}"
  }
  assert {
    condition     = output.ray_helm_values.additionalWorkerGroups.gpu.nodeSelector["ray-pool"] == "gpu" && output.ray_helm_values.additionalWorkerGroups.gpu.resources.limits["nvidia.com/gpu"] == 4
    error_message = "Workers go to that pool: ${jsonencode(output.ray_helm_values)}"
  }
  assert {
    condition     = output.nvidia_device_plugin_required == false && length(output.ray_helm_values.head.nodeSelector) == 0
    error_message = "Auto Mode has the plugin, and its own pool for the head."
  }
}

run "the_plan_warns" {
  command = plan

  variables {
    private_endpoint_reachable = false
    kubernetes_version         = "1.29"
  }

  expect_failures = [check.endpoint_is_in_reach, check.kubernetes_support]
}

run "refuses_values_that_aws_does_not_know" {
  command = plan

  variables {
    name                         = "Ray_1"
    kubernetes_version           = "latest"
    control_plane_logs           = ["kubelet"]
    log_retention_days           = 8
    log_drain_seconds            = 0.5
    vpc_cidr                     = "10.0.0.0/24"
    availability_zones           = ["us-east-1a"]
    endpoint_public_access       = true
    endpoint_public_access_cidrs = ["0.0.0.0/0"]
    identity_mode                = "keys"
    gpu_image                    = {}
    system_pool                  = { min = 3, max = 1 }
    node_pools                   = { system = { machine_type = "m6i.large" } }
    access_entries               = { ops = { principal_arn = "arn:aws:iam::123456789012:role/ops" } }
  }

  expect_failures = [
    var.name, var.kubernetes_version, var.control_plane_logs, var.log_retention_days, var.log_drain_seconds, var.vpc_cidr,
    var.availability_zones, var.endpoint_public_access_cidrs, var.identity_mode, var.gpu_image, var.system_pool, var.node_pools,
    var.access_entries,
  ]
}

run "refuses_what_excludes_each_other" {
  command = plan

  variables {
    vpc_id                 = "vpc-1"
    kms_key_arn            = "arn:aws:kms:us-east-1:123456789012:key/x"
    bucket_mode            = "none"
    bucket_kms_key_arn     = "arn:aws:kms:us-east-1:123456789012:key/data"
    endpoint_public_access = true
    auto_mode              = true
    service_accounts       = { ray = { namespace = "ray", name = "ray", bucket_access = "read" } }
    node_pools             = { gpu = { machine_type = "g5.12xlarge", ami = "BOTTLEROCKET_x86_64_NVIDIA" } }
  }

  expect_failures = [
    var.vpc_id, var.kms_key_arn, var.bucket_kms_key_arn, var.endpoint_public_access, var.service_accounts, var.node_pools,
  ]
}

run "refuses_what_needs_something_else" {
  command = plan

  variables {
    create_network      = false
    bucket_mode         = "existing"
    ray_service_account = "ray"
  }

  expect_failures = [var.vpc_id, var.private_subnet_ids, var.bucket_name, var.ray_service_account]
}

# Not by a variable: these would end a destroy, too.
# More of them, word for word: tests/infrastructure/test_refused_eks.py.
run "refuses_the_modules_own_service_account" {
  command = plan

  variables {
    service_accounts = { ebs-csi = { namespace = "kube-system", name = "ebs" } }
  }

  expect_failures = [aws_eks_cluster.this]
}

run "refuses_a_subnet_where_eks_makes_no_cluster" {
  command = plan

  variables {
    create_network     = false
    vpc_id             = "vpc-1"
    private_subnet_ids = ["subnet-a", "subnet-b"]
  }

  override_data {
    target = data.aws_subnet.existing[0]
    values = {
      availability_zone    = "us-west-1a"
      availability_zone_id = "usw1-az1"
    }
  }
  override_data {
    target = data.aws_subnet.existing[1]
    values = {
      availability_zone    = "us-west-1c"
      availability_zone_id = "usw1-az2"
    }
  }

  expect_failures = [aws_eks_cluster.this]
}
