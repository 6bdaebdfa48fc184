# SPDX-License-Identifier: Apache-2.0
#
# Shortcuts for common commands. Nothing depends on them: the scripts can be run directly.

.PHONY: build dist man packages test vm-test demo generate bench microbench docker fmt clean

build: ## bin/sotto, static
	CGO_ENABLED=0 go build -trimpath -o bin/sotto ./cmd/sotto

dist: ## dist/sotto, stripped; `vagrant up` installs it in its guest
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o dist/sotto ./cmd/sotto

man: ## manual pages and shell completions of this version, in dist/man and dist/completions
	go run ./cmd/sotto man dist/man
	mkdir -p dist/completions
	go run ./cmd/sotto completion bash > dist/completions/sotto.bash
	go run ./cmd/sotto completion zsh > dist/completions/_sotto
	go run ./cmd/sotto completion fish > dist/completions/sotto.fish

packages: ## deb, rpm and apk for amd64 and arm64, in dist/packages
	./scripts/package.sh --arch amd64,arm64 --format deb,rpm,apk

test: ## all tests and checks, as root
	sudo ./scripts/test.sh

vm-test: ## tests on other kernels in QEMU, half an hour per kernel
	sudo ./scripts/vm-test.sh

demo: ## demonstration without internet access
	sudo ./scripts/demo.sh

generate: ## BPF objects and Go bindings (clang 14)
	go generate ./intercept/...

bench: ## compare `sotto serve` with other forwarders, an hour; writes docs/BENCHMARKS.md
	sudo ./scripts/bench.sh

microbench: ## Go benchmarks of the packages, with allocations
	go test -run='^$$' -bench=. -benchmem ./...

docker: ## container image `sotto`
	docker build -t sotto .

fmt: ## format Go and C sources
	gofmt -w .
	clang-format-14 -i bpf/*.c bpf/*.h

clean: ## remove build results
	rm -rf bin dist
