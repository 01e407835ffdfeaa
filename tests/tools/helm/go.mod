// Helm for the end-to-end tests, pinned. Apart from Kubernetes: the two ask for different versions of the same modules.
module quorate.io/tests/tools/helm

go 1.26.0

require helm.sh/helm/v3 v3.22.0
