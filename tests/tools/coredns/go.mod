// CoreDNS for the end-to-end tests, pinned. Apart from Kubernetes: the two ask for different versions of the same modules.
module quorate.io/tests/tools/coredns

go 1.24.0

require github.com/coredns/coredns v1.12.4
