# SPDX-License-Identifier: Apache-2.0
#
# Short names for what is written out elsewhere: the scripts are the thing itself.

.PHONY: build dist test vm-test demo generate bench compare docker fmt clean

build: ## bin/sotto, static
	CGO_ENABLED=0 go build -trimpath -o bin/sotto ./cmd/sotto

dist: ## dist/sotto, stripped: what `vagrant up` installs in its guest
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o dist/sotto ./cmd/sotto

test: ## everything, as root
	sudo ./scripts/test.sh

vm-test: ## other kernels, in QEMU: a few minutes each
	sudo ./scripts/vm-test.sh

demo: ## see it work, with no internet
	sudo ./scripts/demo.sh

generate: ## the kernel half's objects and bindings (clang 14)
	go generate ./intercept/...

bench: ## one benchmark a piece, with allocations
	go test -run='^$$' -bench=. -benchmem ./...

compare: ## `sotto serve` beside its peers: half an hour; writes docs/BENCHMARKS.md
	sudo ./scripts/bench.sh

docker: ## the image `sotto`
	docker build -t sotto .

fmt:
	gofmt -w .
	clang-format-14 -i bpf/*.c bpf/*.h

clean:
	rm -rf bin dist
