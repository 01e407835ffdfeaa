//go:build tools

// Package tools names the command that the end-to-end tests build.
package tools

import _ "github.com/coredns/coredns"
