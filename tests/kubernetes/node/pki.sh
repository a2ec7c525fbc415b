#!/bin/bash
# pki.sh FOLDER: the node's certificate authority, its certificates and kubeconfigs.
set -eu
mkdir -p "$1"
cd "$1"
umask 077
server=https://127.0.0.1:6443
days=3650

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days $days -subj /CN=test-node-ca \
  -keyout ca.key -out ca.crt 2>/dev/null
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out sa.key 2>/dev/null # signs service account tokens
openssl pkey -in sa.key -pubout -out sa.pub

cert() { # cert NAME SUBJECT [SUBJECT-ALT-NAMES]
  local ext="extendedKeyUsage=clientAuth"
  [ $# -lt 3 ] || ext="extendedKeyUsage=serverAuth"$'\n'"subjectAltName=$3"
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days $days -extfile <(echo "$ext") -out "$1.crt" 2>/dev/null
  rm "$1.csr"
}
b64() { base64 -w0 "$1"; }
user() { # user NAME SUBJECT: a client certificate and a kubeconfig that holds it
  cert "$1" "$2"
  cat >"$1.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: test-node
contexts: [{name: test-node, context: {cluster: test-node, user: $1}}]
clusters: [{name: test-node, cluster: {server: "$server", certificate-authority-data: $(b64 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(b64 "$1.crt"), client-key-data: $(b64 "$1.key")}}]
END
}

cert apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:10.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
cert kubelet-server /CN=k8snode "IP:10.0.0.1,DNS:k8snode"
cert apiserver-to-kubelet /O=test-node:kubelet-clients/CN=kube-apiserver
user admin /O=system:masters/CN=admin
user kubelet /O=system:nodes/CN=system:node:k8snode
user kube-controller-manager /CN=system:kube-controller-manager
user kube-scheduler /CN=system:kube-scheduler
user kube-proxy /CN=system:kube-proxy
user coredns /CN=coredns
