.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# CI builds exactly what Cargo.lock says; a developer may be adding a dependency.
LOCKED := $(if $(CI),--locked)
# What the others judge and the benchmarks measure; PROGRAM names another one that is there already.
RESTOW := $(or $(PROGRAM),target/release/restow)
# Where .ci/tools puts what a machine lacks.
export PATH := $(PATH):$(CURDIR)/target/tools/bin
EXAMPLES := $(wildcard crates/*/examples/*.rs)
SCRIPTS = $(shell git ls-files --cached --others --exclude-standard '*.sh' .ci)

# How long each target is fuzzed, and which are.
DURATION ?= 20
TARGETS ?= $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))

.PHONY: help build demo test lint fuzz fuzz-check judges interop bench image synthetic testdata

help:
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## builds target/release/restow
	cargo build --release --package restow-cli $(LOCKED)

demo: build ## converts the image in testdata/layouts/busybox, shows the result and verifies it
	rm -rf target/demo
	$(RESTOW) optimize testdata/layouts/busybox:demo target/demo:demo --zstdchunked --prefetch-list testdata/busybox.prefetch
	$(RESTOW) inspect target/demo:demo
	$(RESTOW) verify target/demo:demo

test: ## runs every test, the documentation's code and the examples (installs a C compiler and, as root, runc, if Debian has them)
	-@! command -v apt-get >/dev/null || .ci/need gcc libc6-dev procps $$([ "$$(id -u)" != 0 ] || echo runc)
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --workspace $(LOCKED); \
	else set -x; cargo test --workspace --lib --bins --tests --examples $(LOCKED); fi
	cargo test --workspace --doc $(LOCKED)
	cargo test --manifest-path fuzz/Cargo.toml --target-dir target --lib --no-default-features $(LOCKED)
	@for example in $(EXAMPLES); do \
	    crate=$${example#crates/}; name=$$(basename $$example .rs); package=restow-$${crate%%/*}; \
	    (set -x; cargo run --quiet $(LOCKED) --package $${package/restow-restow/restow} --example $$name); done

lint: fuzz-check ## checks format, clippy, documentation, dependencies' licences, sources and advisories, scripts, and words that may not appear
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(LOCKED) -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --exclude restow-cli --no-deps $(LOCKED)
	@# Unoptimised: it is built in a quarter of the time and runs for a second.
	@cargo deny --version >/dev/null 2>&1 || .ci/tools || cargo install --quiet --debug --locked cargo-deny@0.20.2
	cargo deny --log-level error check licenses bans sources
	@# The database of advisories is another repository, which not every machine can reach.
	@if timeout 120 cargo deny --log-level off fetch db 2>/dev/null; then (set -x; cargo deny --log-level error check advisories); \
	else echo 'advisories: no database, not checked'; fi
	@.ci/need shellcheck
	shellcheck $(SCRIPTS)
	@# No file may depend on the machine it was written on, or on one place packages come from.
	@if git grep --untracked -nIE '/wor[k]/(main|shared|[.])|\<(deb|security|static|index|registry|files)[.](debian|crates|npmjs|pythonhosted)[.](org|io)\>'; \
	then echo 'error: the lines above name a path of one machine or the host of a package registry'; exit 1; fi

fuzz-check:
	@# Beside the rest of the workspace, so that what is compiled already is not compiled again.
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target --lib --tests --no-default-features $(LOCKED) -- --deny warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check

fuzz: ## feeds every parser with odd bytes, made of sound seeds, each for DURATION seconds (needs a nightly compiler; installs cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@# What is found anew goes to the first directory; the seeds stay as they are.
	@for target in $(TARGETS); do mkdir -p fuzz/corpus/$$target; (set -x; \
	    cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	        -max_total_time=$(DURATION) -timeout=10 -rss_limit_mb=4096); done

judges: ## installs the programs that judge our images (needs root)
	@.ci/need skopeo docker-registry apache2-utils openssl umoci containernetworking-plugins iproute2 containerd stargz-snapshotter runc zstd gcc libc6-dev
	@interop/lazyread/build.sh target/lazyread
	@tools/peers.sh target/peers

# They mostly wait, for programs and for the disk, and share nothing. Records that are compared are made while nothing else runs.
PARTS := interop-record interop-images interop-podman interop-registries interop-alone interop-store
ALONE := $(if $(wildcard target/image),interop-record)
interop: judges $(if $(PROGRAM),,build) ## converts images of many shapes and lets skopeo, umoci, containerd and podman judge them (installs them; needs root)
	@$(MAKE) --jobs=3 --keep-going $(filter-out $(ALONE),$(PARTS)) $(addprefix && $(MAKE) ,$(ALONE))

.PHONY: $(PARTS)
interop-%: part = run.py $* $(RESTOW) target/lazyread target/peers
interop-store: part = store.py $(RESTOW) target/peers
interop-record: part = record.py $(RESTOW) $(wildcard target/image)
# The images whose records are compared are the benchmarks'; without them only the rest is checked, and said so.
interop-record: setting = $(if $(wildcard target/image),,SKIP="bench nginx node")
$(PARTS): interop-%:
	@$(setting) python3 interop/$(part) 2>&1 | sed --unbuffered 's/^/$*: /'

image: ## builds the images for the benchmarks in target/image: 600 MB of Debian, python, nginx and node (needs root)
	bench/image.sh
	python3 bench/variants.py target/image

synthetic: ## builds layers of 10 000 to 1 000 000 files and one of 4 GB in target/synthetic
	python3 bench/synthetic.py target/synthetic

bench: build image synthetic ## measures restow against gzip | zstd, skopeo, crane and ctr-remote; writes the tables of bench/README.md
	@.ci/need pigz
	@tools/peers.sh target/peers
	python3 bench/run.py $(RESTOW)
	python3 bench/transfer.py $(RESTOW)
	python3 bench/store.py $(RESTOW)

testdata: ## rebuilds the fixtures in testdata/layouts (those in testdata/golden are what other programs wrote, and stay)
	testdata/build.sh
