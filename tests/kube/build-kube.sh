#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# build-kube.sh WORK: WORK/kube-tb, Kubernetes 1.20's API server, scheduler, controller manager and
# kubelet in one binary (tb_main.go), of Debian's source package and with Debian's Go. Needs root,
# apt, 2 GB of disk and of memory, and 5 minutes on two idle cores.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
work=$(realpath -m "${1:?where to work}")
tree=$work/go/src/k8s.io/kubernetes
rm -rf "$work"
mkdir -p "$work"/apt/{parts,lists/partial} "$tree"

export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends golang-go rsync make golang-github-modern-go-reflect2-dev >/dev/null

# The machine's own Debian sources, with sources of packages switched on, in a private list.
sed -E 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$work/apt/parts/debian.sources"
private=(-q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/apt/parts"
    -o "Dir::State::lists=$work/apt/lists" -o APT::Sandbox::User=root)
apt-get "${private[@]}" update >/dev/null
(cd "$work" && apt-get "${private[@]}" source --download-only kubernetes >/dev/null)
tar xzf "$work"/kubernetes_*.orig.tar.gz -C "$tree" --strip-components=1

# The tree's own reflect2 walks maps in a way that crashes under Go >= 1.18.
rm -rf "$tree/vendor/github.com/modern-go/reflect2"
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 "$tree/vendor/github.com/modern-go/reflect2"

# By GOPATH: today's Go does not take this tree's go.mod together with its vendor folder.
export GOPATH=$work/go GOCACHE=$work/gocache GO111MODULE=off CGO_ENABLED=0 GOPROXY=off GOSUMDB=off GOFLAGS=
cd "$tree"
make gen_openapi >"$work/openapi.log" 2>&1
mkdir -p cmd/tb
cp "$here/tb_main.go" cmd/tb/main.go
flags="-s -w"
for package in component-base/version client-go/pkg/version; do
    for value in gitVersion=v1.20.2 gitMajor=1 gitMinor=20 gitTreeState=clean gitCommit=debian; do
        flags="$flags -X k8s.io/kubernetes/vendor/k8s.io/$package.$value"
    done
done
go build -tags "providerless dockerless" -trimpath -ldflags "$flags" -o "$work/kube-tb" ./cmd/tb
