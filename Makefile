# The commands of Hikyaku. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Where the built programs are.
BIN ?= target/release
BENCH := target/release/hikyaku-bench
# Options for the run at hand: make demo ARGS="--seconds 20"
ARGS ?=

export CYCLES ?= 100
FUZZ_SECONDS ?= 60
# Of the packages, and where they go.
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
OUTPUT ?= target/packages

.PHONY: build check test demo crash sim mutants fuzz bench bench-peers bench-queue install packages help

build: ## Build everything for release (target/release)
	$(CARGO) build --release --locked --workspace

check: ## Formatting, lints, licences and sources of dependencies
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check bans licenses sources; \
	else echo "check: cargo-deny is not installed: licences and sources not checked"; fi

test: build ## All tests: units, integration, and the built programs with real peers
	@export HIKYAKU_REQUIRE_PROGRAMS=1; if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --locked --workspace --no-fail-fast $(ARGS); \
	else $(CARGO) test --locked --workspace --no-fail-fast $(ARGS); fi

demo: build ## The whole relay on loopback for some seconds, and what happened
	$(BENCH) demo $(ARGS)

crash: build ## kill -9 under load, CYCLES times (SEED= repeats a run); every message is counted
	$(BENCH) crash $(ARGS)

sim: ## Simulated shards, disks, networks, power cuts: SEEDS= many, or one SEED=
	$(if $(SEED),HIKYAKU_SIM_SEED=$(SEED),HIKYAKU_SIM_SEEDS=$(or $(SEEDS),1000)) \
		$(CARGO) test --release --locked -p hikyaku-engine --test sim -- --nocapture

mutants: ## Bugs planted in a copy of the engine, one at a time: does `make sim` find them? SEEDS=, ONLY=
	SEEDS=$(or $(SEEDS),1000) ONLY="$(ONLY)" \
		$(CARGO) test --release --locked -p hikyaku-engine --test mutants -- --ignored --nocapture

# What cargo-fuzz would set, of which nothing but the address sanitizer needs a nightly compiler; the
# engine forbids unsafe code.
FUZZ_HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares \
	--cfg fuzzing -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1

fuzz: ## Every fuzz target for FUZZ_SECONDS each, or ONLY= one (needs a C++ compiler)
	@command -v c++ >/dev/null || { echo "fuzz: libFuzzer is built by c++, which is missing" >&2; exit 1; }
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --locked --manifest-path engine/fuzz/Cargo.toml \
		--target $(FUZZ_HOST) --target-dir target/fuzz
	@for target in $(or $(ONLY),$$(sed -n '/^\[\[bin/,$$s/^name = "\(.*\)"/\1/p' engine/fuzz/Cargo.toml)); do \
		echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
		mkdir -p engine/fuzz/corpus/$$target engine/fuzz/artifacts/$$target; \
		target/fuzz/$(FUZZ_HOST)/release/$$target engine/fuzz/corpus/$$target \
			-artifact_prefix=engine/fuzz/artifacts/$$target/ -max_total_time=$(FUZZ_SECONDS) \
			-timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1; \
	done

bench: build ## Messages an hour against 3,000,000, latencies, CPU; received = accepted
	$(BENCH) bench $(ARGS)

bench-peers: build ## Hikyaku, Postfix and the direct smtp-source → smtp-sink under one load
	$(BENCH) peers $(ARGS)

bench-queue: build ## A million messages for a dead route: memory, restart, replay, drain
	$(BENCH) queue-million $(ARGS)

install: ## Install what `make build` built below PREFIX (DESTDIR for packagers)
	@for program in hikyakud hikyaku; do \
		test -x $(BIN)/$$program || { \
			echo "install: $(BIN)/$$program is missing; run \`make build\` first, not as root" >&2; exit 1; }; \
	done
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN)/hikyakud $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(BIN)/hikyaku $(DESTDIR)$(PREFIX)/bin/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/lib/systemd/system \
		$(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d \
		$(DESTDIR)$(PREFIX)/share/doc/hikyaku \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	sed 's|/usr/local/sbin/|$(PREFIX)/sbin/|' docs/hikyakud.service \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/hikyakud.service
	install -m 644 packaging/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/hikyaku.conf
	install -m 644 packaging/tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/hikyaku.conf
	install -m 644 packaging/hikyaku.toml LICENSE-APACHE LICENSE-MIT NOTICE CHANGELOG.md \
		$(DESTDIR)$(PREFIX)/share/doc/hikyaku/
	pages=$$(mktemp -d); trap 'rm -r "$$pages"' EXIT; $(BIN)/hikyaku pages "$$pages"; \
	install -m 644 "$$pages"/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/; \
	for program in hikyakud hikyaku; do \
		install -m 644 "$$pages/$$program.bash" \
			$(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program; \
		install -m 644 "$$pages/_$$program" $(DESTDIR)$(PREFIX)/share/zsh/site-functions/; \
		install -m 644 "$$pages/$$program.fish" \
			$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/; \
	done

packages: ## Debian packages of what `make build` built, programs and debug symbols apart (OUTPUT=, VERSION=)
	@tree=$$(mktemp -d); trap 'rm -rf "$$tree" "$$tree.dbgsym"' EXIT; \
	$(MAKE) --no-print-directory install PREFIX=/usr DESTDIR="$$tree" BIN=$(BIN) >&2; \
	chmod 755 "$$tree"; packaging/deb.sh "$$tree" $(VERSION) $(OUTPUT)

help: ## This list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
