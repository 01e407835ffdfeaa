//go:build tools

// Package tools names the command that the end-to-end tests build.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
