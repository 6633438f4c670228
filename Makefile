# `make help` lists the targets. Go >= 1.26 is the one prerequisite; `make setup`
# installs the rest.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# When the source was committed, so that the same source gives the same bytes.
BUILT   ?= $(shell git log -1 --format=%cI 2>/dev/null || echo 2026-01-01T00:00:00Z)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -funcalign=4 -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.buildTime=$(BUILT)
STATIC   = CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)"
STATICCHECK = go tool -modfile=tools/go.mod staticcheck
# How the device binary is made small: without HTTP/2, which nothing there speaks
# (0.5 MB), inlined only where speed counts (0.8 MB), functions packed (0.1 MB). Linked code is most of
# the agent's memory. internal/check and internal/bench read the same file.
DEVICE   = $(shell cat cmd/gatewarden/build.flags)
ARGS    ?=

# Recorded event logs of real machines, where they are at hand: many tests read them.
export GATEWARDEN_CORPUS ?= $(wildcard $(abspath ../shared/corpus))

# Names the packages that a target runs on: make test PKG=./attest/...
PKG     ?= ./...

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-long race fuzz e2e bench lint docs packages packages-test check

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-13s %s\n", $$1, $$2}'

setup: ## install what demo and tests need (apt, as root), or say what to run
	@./tools/setup.sh

build: ## build both binaries, static, into bin/
	$(STATIC) $(DEVICE) -o bin/gatewarden ./cmd/gatewarden
	$(STATIC) -o bin/gatewarden-fleet ./cmd/gatewarden-fleet

demo: setup build ## a fleet and two simulated gateways; ARGS=--once to end by itself
	bin/gatewarden-fleet demo $(ARGS)

test: setup ## the quick tests
	go test $(PKG)

test-long: setup ## all counts and sweeps in full; may take an hour
	GATEWARDEN_LONG=1 go test -timeout 90m $(PKG)

race: setup ## the quick tests with the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -timeout 30m $(PKG)

fuzz: ## every fuzz target for FUZZTIME (10s) each
	@./tools/fuzz.sh

e2e: ## the life of a gateway in virtual machines; E2E=quick for what every change must pass
	@./tools/setup.sh e2e
	GATEWARDEN_E2E=1 GATEWARDEN_LONG=$(LONG) go test -p 1 -count=1 -v -timeout 4h ./e2e

bench: ## every line of the budget with its figure, then the benchmarks
	@go run ./internal/bench -go

lint: ## vet and staticcheck alone
	go vet $(PKG)
	$(STATICCHECK) $(PKG)

docs: ## check the documentation's links, the tests that it names, and what is generated
	@go run ./internal/check links cited generated

packages: ## Debian and RPM packages of both programs into dist/, linted
	@./tools/setup.sh packages
	@rm -rf dist
	@go run ./packaging/build -lint $(ARGS)

packages-test: ## install, upgrade, remove and run the packages in scratch systems (root)
	@./tools/setup.sh packages
	GATEWARDEN_PACKAGES=1 go test -count=1 -timeout 60m ./packaging/...

check: ## what must be green before review
	@go run ./internal/check
