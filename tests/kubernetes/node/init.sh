#!/bin/bash
# init.sh STATE ROOT PARTS: process 1 of the test node. Runs in namespaces of its own (supervisor.py); lays out the
# node's file system, enters it, sets the network up and then waits. Its end is the end of everything in the node.
set -eu
state=$1 root=$2 parts=$3
node_ip=10.0.0.1

mount --make-rprivate /

# The root: a Debian tree as it was built, with what this node writes on top.
new=$state/merged
mount -t overlay overlay -o "lowerdir=$root,upperdir=$state/upper,workdir=$state/work" "$new"
mkdir -p "$new"/{proc,sys,dev,run,tmp,oldroot}
mount --rbind /dev "$new/dev"
for folder in "$parts" "$state"; do
  mkdir -p "$new$folder"
  mount --bind "$folder" "$new$folder"
done
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"

# cgroup v1: in this cgroup namespace the node's own groups are the roots of their hierarchies.
groups=$new/sys/fs/cgroup
mount -t tmpfs -o mode=755 cgroup "$groups"
for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir "$groups/$c" && mount -t cgroup -o $c cgroup "$groups/$c"
done
mkdir "$groups/systemd" && mount -t cgroup -o none,name=systemd cgroup "$groups/systemd"

# What must not lie on the overlay, or must not outlive the node.
mount -t tmpfs -o mode=755 tmpfs "$new/run"
mkdir -p "$new"/run/{netns,lock} "$new/var/lib/cni"
mount -t tmpfs tmpfs "$new/var/lib/cni"
bind() { mkdir -p "$1" "$new$2" && mount --bind "$1" "$new$2"; }
bind "$state/containerd" /var/lib/containerd
bind "$state/kubelet" /var/lib/kubelet
bind "$state/pod-logs" /var/log/pods
bind "$state/container-logs" /var/log/containers
bind "$state/etcd" /var/lib/etcd
bind "$state/cni" /etc/cni/net.d
bind "$root/usr/lib/cni" /opt/cni/bin

cd "$new"
pivot_root . oldroot
cd /
umount -l /oldroot
rmdir /oldroot

# kubelet writes these three settings of the whole machine when they are not as it wants them. It is shown files that
# hold its values; the machine's own stay as they are.
mkdir /run/shown
for kv in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=/run/shown/${kv##*/}
  echo "${kv#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${kv%=*}"
done
mount --make-rshared /

hostname k8snode
printf '127.0.0.1 localhost\n%s k8snode\n' $node_ip >/etc/hosts
printf 'nameserver %s\nsearch svc.cluster.local cluster.local\noptions ndots:5\n' $node_ip >/etc/resolv.conf
: >/etc/resolv.pods.conf # upstream name servers: none

# One address that is not loopback, on a bridge without ports, and a default route: service addresses need a route
# before kube-proxy's rules can turn them. Nothing leaves this network namespace.
ip link set lo up
ip link add node0 type bridge
ip address add $node_ip/24 dev node0
ip link set node0 up
ip route add default dev node0
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1

echo up >"$state/ready"
trap 'exit 0' TERM
while :; do sleep 1000 & wait $! || true; done
