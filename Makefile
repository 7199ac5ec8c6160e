# Two commands do it all on a fresh Debian machine, as root: `make up` and `make test`.
SHELL := /bin/bash
export CGO_ENABLED := 0

.PHONY: bench-packet up down demo deps test-deps build generate generated lint test test-dns-fuzz test-kernels test-churn unit e2e bench bench-node bench-nodes

## up: install what is missing, build, start a node, run the demo
up: deps build
	test/demo/run

## down: stop the node and remove everything it holds on this machine
down: build
	bin/skep down

## deps: what a node needs to run (containerd, runc) and to be built (go)
deps:
	@test/deps run

## test-deps: what the tests and the BPF compiler need besides
test-deps:
	@test/deps test

## build: bin/skep, one static binary
build:
	go build -trimpath -ldflags '-s -w' -o bin/skep ./cmd/skep

## generate: BPF objects with their Go types, and the OpenAPI document
generate: test-deps
	go generate ./...

## generated: fail unless generated files are what generate makes
generated: generate
	@git diff --exit-code --stat -- datapath/abi control/apiserver || { echo 'generated files differ: commit what make generate makes'; exit 1; }

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	go vet ./...
	go tool staticcheck ./...

unit:
	go test ./...

e2e: build
	SKEP_E2E=1 go test -count=1 -timeout 20m ./test/e2e/...

## test: everything that CI checks
test: deps test-deps build generated lint unit e2e
	@echo 'all tests passed'

## test-dns-fuzz: a million queries to the kernel's DNS answers and to the server: no answer differs (about a minute)
test-dns-fuzz:
	SKEP_DNS_QUERIES=1000000 go test -count=1 -timeout 30m -run TestKernelAgreesWithServer -v ./dns/kernel

## test-kernels: load every BPF program and run the tests of packets and devices on kernels 5.10, 6.1 and 6.12 of Debian, in QEMU,
## and on this machine's; two tables (5 to 15 minutes; KERNELS='5.10 host' chooses)
test-kernels:
	@test/deps kernels
	test/kernel/run $(KERNELS)

## test-churn: three nodes on which everything comes and goes under load, and agents are killed: nothing fails, nothing is left
## (10 minutes; SKEP_CHURN=1m for another time)
test-churn: build
	SKEP_E2E=1 SKEP_CHURN=$${SKEP_CHURN:-10m} go test -count=1 -timeout 60m -v -run TestTurmoil ./test/e2e

## bench-packet: what a packet costs XDP and tc, with 65,536 flows in the table
bench-packet:
	SKEP_BENCH=1 go test -count=1 -run TestCost -v ./test/packet

## bench: Services beside kube-proxy (nftables and iptables), all in network namespaces of their own, alternating in one run
## (SERVICES='1 1000 10000' by default, 15 minutes; the first time kube-proxy is built, 10 minutes more)
SERVICES ?= 1 1000 10000
bench: build
	@test/deps bench
	go build -C test/bench/kubeproxy -trimpath -o ../../../bin/kube-proxy .
	go build -o bin/bench-service ./test/bench/service
	bin/bench-service -skep bin/skep -kube-proxy bin/kube-proxy -services "$(shell echo $(SERVICES) | tr ' ' ,)"
	bin/bench-service -skep bin/skep -kube-proxy bin/kube-proxy -services 1 -far

## bench-nodes: what the network between nodes, and between pods of a node, costs beside links with nothing else
bench-nodes: build
	go run ./test/bench/nodes -skep bin/skep

## bench-node: the benchmarks against the node that runs
bench-node: build
	bin/skep bench service
	bin/skep bench dns
	bin/skep bench pods
