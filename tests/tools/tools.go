//go:build tools

// Package tools pins the Go programs that the tests and the benchmark run beside Quorate.
// It is never compiled: the blank imports keep the requirements in go.mod, and go.sum fixes their bytes.
package tools

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
