# postel: see README.md. Nothing here needs more than a POSIX make and Go.
.POSIX:

PREFIX = /usr/local
DESTDIR =
VERSION = 0.1.0
GO = go
PROGRAMS = sendmail smtpd qmgr lmtpd deliver pop3d mxlookup mailq
LDFLAGS = -s -w -X github.com/postel-mail/postel/internal/process.Version=$(VERSION)

all:
	mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...
	ln -sf sendmail bin/newaliases

demo: all
	KEEP="$(KEEP)" $(GO) run ./test/demo

check test: tools lint
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 280s ./...

lint: tools
	@out=$$(gofmt -l cmd internal test man); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	test/lint

# What the tests need of the host.
tools:
	@test/tools

# Root only. LAB: flags of test/crash/lab, as "-states 1000 -only xfs".
LAB =
crash: all
	@test/tools mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs
	$(GO) run ./test/crash/lab $(LAB)

interop: all
	test/interop/setup
	test/interop/run

# PARTS: see test/bench/main.go; all of them without.
PARTS =
bench: all
	test/bench/run $(PARTS)

FUZZTIME = 15s
fuzz:
	test/fuzz $(FUZZTIME)

install: all
	mkdir -p $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin
	for p in $(PROGRAMS); do cp bin/$$p $(DESTDIR)$(PREFIX)/bin/.$$p.new && chmod 755 $(DESTDIR)$(PREFIX)/bin/.$$p.new && \
	    mv -f $(DESTDIR)$(PREFIX)/bin/.$$p.new $(DESTDIR)$(PREFIX)/bin/$$p || exit 1; done
	ln -sf sendmail $(DESTDIR)$(PREFIX)/bin/newaliases
	cd $(DESTDIR)$(PREFIX) && [ "$$(cd sbin && pwd -P)" = "$$(cd bin && pwd -P)" ] || ln -sf ../bin/sendmail $(DESTDIR)$(PREFIX)/sbin/sendmail
	for n in 1 5 7 8; do mkdir -p $(DESTDIR)$(PREFIX)/share/man/man$$n && \
	    cp man/*.$$n $(DESTDIR)$(PREFIX)/share/man/man$$n/ || exit 1; done

clean:
	rm -rf bin
