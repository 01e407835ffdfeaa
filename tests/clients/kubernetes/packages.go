//go:build tools

// Package kubernetes names what is tested, so that go.sum knows what that needs. It is one of each version's module: copy it beside
// the go.mod before `go mod tidy`.
package kubernetes

import (
	_ "k8s.io/apiserver/pkg/reconcilers"
	_ "k8s.io/apiserver/pkg/registry/generic/registry"
	_ "k8s.io/apiserver/pkg/storage/cacher"
	_ "k8s.io/apiserver/pkg/storage/etcd3"
	_ "k8s.io/apiserver/pkg/storage/etcd3/preflight"
	_ "k8s.io/apiserver/pkg/storage/etcd3/testserver"
	_ "k8s.io/apiserver/pkg/storage/feature"
	_ "k8s.io/apiserver/pkg/storage/storagebackend/factory"
)
