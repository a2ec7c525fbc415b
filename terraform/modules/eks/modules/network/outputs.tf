output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnets" {
  description = "The private subnets, each with its zone, in the order of `availability_zones`."
  value       = [for zone in var.availability_zones : { id = aws_subnet.private[zone].id, zone = zone }]

  # A subnet can be used once it has its routes.
  depends_on = [aws_route.nat, aws_route_table_association.private, aws_vpc_endpoint.s3, aws_vpc_endpoint.private]
}

output "public_subnet_ids" {
  description = "The public subnets: for load balancers only, no node ever runs there."
  value       = [for zone in var.availability_zones : aws_subnet.public[zone].id]
}

output "endpoints" {
  description = "The endpoints for AWS' own services that stand in for a way out, by service; none where there is NAT."
  value       = { for name, endpoint in aws_vpc_endpoint.private : name => endpoint.service_name }
}
