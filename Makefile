# What one does with this project, by name. `make help` lists it.

CARGO ?= cargo
# Runs of each measurement of `make bench`.
RUNS ?= 5
# Random operations of each run of the model, and random cases of each property, in `make soak`.
OPS ?= 100000
CASES ?= 500
# Seconds of each random test of a hostile guest, kills of each test of a killed daemon, and entries of the largest
# directory, in `make soak`.
HOSTILE ?= 1800
KILLS ?= 200
ENTRIES ?= 1000000
# Kills of each test of what survives them, in `make soak`.
SURVIVED ?= 50
# Seconds of the images at work while they are folded, and rounds of each two commands at once, in `make soak`.
LOAD ?= 3600
ROUNDS ?= 10

# What `make install` installs, and where. mount(8) looks for mount.foldfs in /sbin only.
PROGRAM ?= target/release/foldfs
PREFIX ?= /usr/local
SBINDIR ?= /usr/sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
VIRTIOFSD ?= /usr/libexec/virtiofsd
UNITS := foldfs@.service foldfs-image@.service foldfs-virtiofsd@.service
EXAMPLES := fstab.example libvirt-domain.xml srv-guests-web.mount

.DEFAULT_GOAL := build
# What is tried without passthrough, too.
CACHED := --test mounted_semantics --test mounted_failure --test mounted_users

.PHONY: help build test soak fuzz-coverage lint format demo bench trees install install-deps clean clean-trees

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

build: ## the program, as target/release/foldfs
	$(CARGO) build --release --locked

test: ## every test that this machine and user can run (root and /dev/fuse: all of them)
	@[ "$$(id -u)" -ne 0 ] || scripts/install-deps.sh build test
	$(CARGO) test --doc --locked --quiet
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --locked --no-fail-fast && \
			FOLDFS_TEST_PASSTHROUGH=0 $(CARGO) nextest run --locked --no-fail-fast $(CACHED); \
	else \
		set -x; $(CARGO) test --all-targets --locked --no-fail-fast && \
			FOLDFS_TEST_PASSTHROUGH=0 $(CARGO) test --locked --no-fail-fast $(CACHED); \
	fi

soak: ## the random tests, much longer, and all of the outside suites: make soak OPS=100000 CASES=500
	PROPTEST_CASES=$(CASES) FOLDFS_TEST_OPS=$(OPS) FOLDFS_TEST_SUITES=full \
		FOLDFS_TEST_HOSTILE_SECONDS=$(HOSTILE) FOLDFS_TEST_KILLS=$(KILLS) FOLDFS_TEST_SURVIVED=$(SURVIVED) \
		FOLDFS_TEST_ENTRIES=$(ENTRIES) \
		FOLDFS_TEST_LOAD_SECONDS=$(LOAD) FOLDFS_TEST_ROUNDS=$(ROUNDS) \
		FOLDFS_TEST_CRASH=whole FOLDFS_TEST_STEPS=all FOLDFS_TEST_DAMAGE_SECONDS=all \
		$(CARGO) test --release --locked --no-fail-fast
	FOLDFS_TEST_PASSTHROUGH=0 FOLDFS_TEST_OPS=$(OPS) FOLDFS_TEST_SUITES=full \
		$(CARGO) test --release --locked --no-fail-fast --test 'mounted_*' --test outside_suites \
		--test real_software

fuzz-coverage: ## what the tests of a hostile guest reach of the adapter and the live image (root, rustup)
	scripts/fuzz-coverage.sh

lint: ## formatting, clippy and, where it is installed, shellcheck
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then \
		set -x; shellcheck -e SC1091,SC2016 scripts/*.sh .ci/run; \
	fi

format: ## cargo fmt
	$(CARGO) fmt

demo: build ## two real Debian images in one store, every claim checked (root)
	$(CARGO) build --release --locked --example snapshot
	scripts/install-deps.sh demo
	scripts/demo.sh

bench: build ## foldfs beside what one would use instead (root): make bench RUNS=5
	$(CARGO) build --release --locked --example latency
	scripts/install-deps.sh bench
	scripts/trees.sh all
	scripts/trees.sh workshop guest
	python3 scripts/bench.py --runs $(RUNS)

trees: ## the real Debian trees that demo and bench work on, under target/trees (root)
	scripts/install-deps.sh demo
	scripts/trees.sh all

install: ## program, mount.foldfs, manual and systemd units: make install [PREFIX=/usr] [DESTDIR=...]
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/foldfs
	install -d $(DESTDIR)$(SBINDIR)
	ln -sf $(PREFIX)/bin/foldfs $(DESTDIR)$(SBINDIR)/mount.foldfs
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(PROGRAM) man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do \
		sed -e 's|@BINDIR@|$(PREFIX)/bin|' -e 's|@VIRTIOFSD@|$(VIRTIOFSD)|' mount-helpers/$$unit \
			>$(DESTDIR)$(UNITDIR)/$$unit || exit; \
	done
	install -D -m 644 mount-helpers/foldfs.tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/foldfs.conf
	install -d $(DESTDIR)$(PREFIX)/share/doc/foldfs/examples
	install -m 644 config.toml.example $(addprefix mount-helpers/,$(EXAMPLES)) \
		$(DESTDIR)$(PREFIX)/share/doc/foldfs/examples

install-deps: ## the Debian packages and test suites that all of this needs (root)
	scripts/install-deps.sh

clean: ## everything built, but for the trees
	$(CARGO) clean --profile dev --quiet
	$(CARGO) clean --profile release --quiet
	rm -rf --one-file-system target/demo target/bench target/tools

clean-trees: ## the Debian trees and their packages
	rm -rf --one-file-system target/trees
