# shellcheck shell=bash disable=SC2034,SC2030,SC2031 # some variables are for the scenarios, EXEC is for a subshell
# lib.sh: what the scenarios share. Sourced first by each, inside the namespaces that `run` makes.
#
# The scene is always the same, three hosts joined by virtual cables; the zone is in zone.
#   192.0.2.25  mail.ours.test  postel; takes ours.test, and lmtp.test by LMTP
#   192.0.2.26  mx.peer.test    Postfix, a network of its own: MX to one's own address is a loop
#   192.0.2.27  dove.test       Dovecot, the same
#   192.0.2.53                  the DNS server, on the first
# alice, bob and carol have the same uid in every root, and the password "open sesame".
set -eu
: "${POSTEL_INTEROP_WORK:?start this with test/interop/run}"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(cd "$HERE/../.." && pwd)
export TOP
PEERS=$POSTEL_PEERS
SCENARIO=$POSTEL_INTEROP_SCENARIO
TLS=$POSTEL_INTEROP_WORK/tls
W=$POSTEL_INTEROP_WORK/$SCENARIO # the same path in every root
OURS=192.0.2.25 POSTFIX=192.0.2.26 DOVECOT=192.0.2.27 DNS=192.0.2.53
PASSWORD="open sesame"
mkdir -p "$W/log" "$W/home" "$W/root" "$W/bin"
chmod 755 "$W"
mount --bind "$BIN" "$W/bin"
PATH=$W/bin:$PATH

started=() # process ids
failed='' EXEC='' PID='' RUNNER='' LETTER=''
NET_postfix='' ROOT_postfix='' NET_dovecot='' ROOT_dovecot='' ROOT_clients=''

# finish ends all that was started, by its process id, and after a failure prints the logs.
finish() {
	local status=$? pid log
	trap - EXIT
	if [ $status != 0 ] && [ -z "$failed" ]; then
		failed=yes
		echo "FAIL $SCENARIO: stopped at line ${LINE:-?} with status $status"
	fi
	for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || :; done
	within 5 none_left || for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || :; done
	if [ -n "$failed" ]; then
		for log in "$W"/log/*; do
			[ -s "$log" ] || continue
			echo "  -- $(basename "$log")"
			if [ "$(wc -l <"$log")" -gt 150 ]; then
				head -40 "$log"
				echo ...
			fi | sed 's/^/  | /'
			tail -"${LOG_LINES:-110}" "$log" | sed 's/^/  | /'
		done
		exit 1
	fi
	exit 0
}
none_left() {
	local pid
	for pid in "${started[@]}"; do
		if kill -0 "$pid" 2>/dev/null; then return 1; fi
	done
}
trap finish EXIT
set -E
trap 'LINE=$LINENO' ERR

# watchdog: after too long a time, say what was running and end it, so that this script goes on to print the logs.
LONGEST=150
watchdog() {
	sleep $LONGEST
	echo "FAIL $SCENARIO: not done after $LONGEST s"
	local process
	for process in /proc/[0-9]*; do echo "  > ${process#/proc/} $(tr '\0' ' ' <"$process/cmdline")"; done
	touch "$W/overtime"
	kill -TERM -1 # all in this process namespace but its first, which is the scenario
	sleep 5
	kill -KILL -1
}
watchdog &
started+=($!)

# check NAME COMMAND...: one line of the result.
check() {
	local name=$1
	shift
	if "$@" >"$W/check" 2>&1 && [ ! -e "$W/overtime" ]; then
		echo "ok $SCENARIO: $name"
	else
		failed=yes
		echo "FAIL $SCENARIO: $name"
		echo "  + $*"
		tail -20 "$W/check" | sed 's/^/  > /'
		[ ! -e "$W/overtime" ] || exit 1
	fi
}
# fails STATUS COMMAND...: it exits with that status.
fails() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	echo "exit status $got, not $want"
	[ $got = "$want" ]
}
not() { ! "$@"; }

# within SECONDS COMMAND...: it succeeds before the time is up; asked every 0.1 s.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -le $end ] || return 1
		sleep 0.1
	done
}

# start NAME COMMAND...: in the background, its output in log/NAME; its process id is in $PID.
start() {
	local name=$1
	shift
	{
		if [ "$(type -t "$1")" != function ]; then exec "$@"; fi
		EXEC="exec" # one of those that change the root: then its process is the program's
		"$@"
	} >>"$W/log/$name" 2>&1 </dev/null &
	PID=$!
	started+=("$PID")
}
# stop PID...: SIGTERM, and wait for their end. One that has ended already is no error.
stop() {
	kill "$@" 2>/dev/null || :
	wait "$@" 2>/dev/null || :
}
port_open() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }
# wait_port ADDRESS PORT...
wait_port() {
	local addr=$1 port
	shift
	for port; do
		within 10 port_open "$addr" "$port" || {
			echo "nothing listens on $addr:$port"
			return 1
		}
	done
}
logged() { grep -qs -e "$2" "$W/log/$1"; } # logged NAME PATTERN

# Network, names, and the one DNS server.
hostname "${HOST:-mail.ours.test}"
ip link set lo up
for addr in $OURS $DNS; do ip addr add "$addr/32" dev lo; done
start dns "$POSTEL_INTEROP_WORK/dnszoned" --listen $DNS:53 "$HERE/zone"
within 10 logged dns ^listening

# network NAME ADDRESS: a network of its own for that peer, with a cable to ours. The process that holds it is NET_NAME.
network() {
	start "$1.network" unshare --net sleep infinity
	printf -v "NET_$1" %s "$PID"
	# shellcheck disable=SC2317 # called by within
	parted() { [ "$(readlink "/proc/$PID/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
	within 5 parted
	ip link add "$1" type veth peer name cable netns "$PID"
	ip link set "$1" up
	ip route add "$2/32" dev "$1" src $OURS
	nsenter --net="/proc/$PID/ns/net" sh -ec "ip link set lo up; ip link set cable up; ip addr add $2/32 dev cable; ip route add default dev cable"
}

# root NAME: the peer's root, with changes that end with the scenario; its path is in $ROOT_NAME.
root() {
	local name=$1 root=$W/root/$1 device
	mkdir "$root"
	mount -t tmpfs -o mode=755 scratch "$root"
	mkdir "$root/upper" "$root/work" "$root/merged"
	mount -t overlay "interop-$name" -o "lowerdir=$PEERS/$name,upperdir=$root/upper,workdir=$root/work" "$root/merged"
	printf -v "ROOT_$name" %s "$root/merged"
	root=$root/merged
	mount -t proc proc "$root/proc"
	mount -t tmpfs -o mode=755 dev "$root/dev"
	for device in null zero full random urandom tty; do
		: >"$root/dev/$device"
		mount --bind "/dev/$device" "$root/dev/$device"
	done
	mkdir "$root/dev/pts"
	mount -t devpts -o newinstance,ptmxmode=0666 pts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	ln -s fd/0 "$root/dev/stdin"
	ln -s fd/1 "$root/dev/stdout"
	ln -s fd/2 "$root/dev/stderr"
	mkdir -p "$root$POSTEL_INTEROP_WORK" "$root/usr/local/bin"
	mount --rbind "$POSTEL_INTEROP_WORK" "$root$POSTEL_INTEROP_WORK"
	mount --bind "$BIN" "$root/usr/local/bin"
	printf '127.0.0.1 localhost\n%s mail.ours.test\n%s mx.peer.test\n%s dove.test\n' $OURS $POSTFIX $DOVECOT >"$root/etc/hosts"
	hostname >"$root/etc/mailname"
}
in_clients() { $EXEC chroot "$ROOT_clients" "$@"; }
in_postfix() { $EXEC nsenter --net="/proc/$NET_postfix/ns/net" chroot "$ROOT_postfix" "$@"; }
in_dovecot() { $EXEC nsenter --net="/proc/$NET_dovecot/ns/net" chroot "$ROOT_dovecot" "$@"; }

# postel: a complete host of ours in $W/postel, its configuration in $POSTEL_CONFIG; more lines of it on standard input.
postel() {
	local dir=$W/postel user uid=2001
	mkdir -p "$dir"
	export POSTEL_CONFIG=$dir/postel.toml
	for user in alice bob carol; do
		mkdir -m 700 "$W/home/$user"
		chown $uid:$uid "$W/home/$user"
		echo "$user:{PLAIN}$PASSWORD:$uid:$uid::$W/home/$user::"
		uid=$((uid + 1))
	done >"$dir/users"
	chmod 600 "$dir/users"
	{
		cat <<-END
			hostname = "mail.ours.test"
			spool    = "$dir/spool"
			domains  = ["ours.test", "lmtp.test"]
			users    = "$dir/users"
			aliases  = "$dir/aliases"
			local    = "lmtp://$dir/lmtp.sock"
			submit   = "$dir/submit.sock"
			relay_networks = []
		END
		cat
		cat <<-END
			[tls]
			certificate = "$TLS/cert.pem"
			key         = "$TLS/key.pem"
		END
	} >"$POSTEL_CONFIG"
	echo "postmaster: carol" >"$dir/aliases"
}
# The servers, as a boot script would start them.
exchanger() { start smtpd smtpd --listen $OURS:25 && wait_port $OURS 25; }
submission() {
	start submission smtpd --submission --listen $OURS:587
	start submissions smtpd --submission --tls --listen $OURS:465
	wait_port $OURS 587 465
}
final_delivery() { start lmtpd lmtpd --listen "unix:$W/postel/lmtp.sock" --listen $OURS:24 && wait_port $OURS 24; }
runner() {
	start qmgr qmgr
	RUNNER=$PID
}
pop3() {
	start pop3d pop3d --listen $OURS:110
	start pop3ds pop3d --tls --listen $OURS:995
	wait_port $OURS 110 995
}

# letter FROM TO SUBJECT: a message whose body each mail program must leave alone, LF line ends.
letter() {
	printf 'From: %s\nTo: %s\nSubject: %s\nDate: %s\nMIME-Version: 1.0\n' "$1" "$2" "$3" "$(date -R)"
	printf 'Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n'
	body
}
body() {
	printf '%s\n' . .. '.leading dot' 'From here on' '>From there' 'trailing space ' '' $'a\ttab' 'Grüße aus Köln, 8 bit'
	printf 'x%.0s' {1..900}
	printf '\n\nthe end\n'
}
# same_body FILE: the message in it has the body of letter, whatever was put above it. Empty lines at its end do not count:
# swaks and PHP add one.
same_body() {
	local got
	got=$(tr -d '\r' <"$1" | sed '1,/^$/d')
	diff <(body) <(printf '%s\n' "$got")
}
# large FROM TO SUBJECT: one of 20 MB, each line with a leading dot.
large() {
	letter "$@"
	head -c 15000000 /dev/urandom | base64 | sed 's/^/./'
}
# same_large FILE: the message in it has the body of the file large.
same_large() { [ "$(sum_of "$1")" = "$(sum_of "$W/large")" ]; }
sum_of() { tr -d '\r' <"$1" | sed '1,/^$/d' | sha256sum; }
# found MAILDIR SUBJECT: the one message in it with that subject; its file's name is in $LETTER.
found() {
	LETTER=$(grep -ls "^Subject: $2" "$1"/new/* "$1"/cur/* || :)
	[ -f "$LETTER" ]
}
inbox() { echo "$W/home/$1/Maildir"; } # of a postel user
# arrives MAILDIR SUBJECT: in time, once, with its body as it was sent.
arrives() {
	within "${SLOW:-10}" found "$1" "$2" || {
		echo "no message \"$2\" (or two) in $1: $LETTER"
		return 1
	}
	same_body "$LETTER"
}
# bounced MAILDIR TEXT: a report with that text in it.
bounced() { within "${SLOW:-10}" holds "$1" "$2"; }
holds() { grep -qs "$2" "$1"/new/* "$1"/cur/*; }
empty_queue() { [ -z "$(ls "$W/postel/spool/queue")" ]; }
logged_times() { grep -c -e "$2" "$W/log/$1"; } # logged_times NAME PATTERN
# found_all MAILDIR SUBJECT N: N messages with that subject
found_all() { [ "$(grep -ls "^Subject: $2" "$1"/new/* "$1"/cur/* | wc -l)" = "$3" ]; }
