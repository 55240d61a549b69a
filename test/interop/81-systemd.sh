#!/bin/bash
# The units of contrib/systemd are sound, and their ExecStart lines work with the sockets of both styles, handed over by
# systemd's own systemd-socket-activate: one process that listens, and a process for each connection.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/installed.sh"

installed
UNITS=$W/contrib/systemd

for style in listener per-connection; do
	in_clients rm -rf /etc/systemd/system
	in_clients mkdir -p /etc/systemd/system
	cp "$UNITS"/*.service "$UNITS/$style"/*.socket "$ROOT_clients/etc/systemd/system/"
	verify() { in_clients sh -c 'cd /etc/systemd/system && systemd-analyze verify --man=no ./postel-*.socket ./postel-*.service' && [ ! -s "$W/check" ]; }
	check "systemd-analyze verify, $style" verify
done
exposure() { # exposure UNIT MOST
	in_clients systemd-analyze security --offline=true --threshold="$2" "/etc/systemd/system/$1"
}
for unit in postel-smtpd postel-submission postel-submissions; do
	check "$unit gives away little: exposure 2.0 at most" exposure $unit.service 20
	check "$unit@ too" exposure $unit@.service 20
done

# value FILE KEY
values() { sed -n "s/^$2=//p" "$1"; }
# activate NAME STYLE: what systemd would do for that socket
activate() {
	local socket=$UNITS/$2/postel-$1.socket service=$UNITS/postel-$1.service args=() addr
	case $(values "$socket" Accept) in
	yes)
		service=$UNITS/postel-$1@.service
		args=(--accept)
		;;
	no) ;;
	*) return 1 ;;
	esac
	for addr in $(values "$socket" ListenStream); do
		case $addr in
		/*) rm -f "$ROOT_clients$addr" ;;
		*) addr=0.0.0.0:$addr ;;
		esac
		args+=(-l "$addr")
	done
	# shellcheck disable=SC2046 # the words of the command line
	start "$2.$1" in_clients systemd-socket-activate "${args[@]}" $(values "$service" ExecStart)
	for addr in $(values "$socket" ListenStream); do
		case $addr in
		/*)
			within 5 test -S "$ROOT_clients$addr"
			chmod "$(values "$socket" SocketMode)" "$ROOT_clients$addr"
			;;
		esac
	done
}
ALL="smtpd submission submissions lmtpd pop3d pop3ds"
lmtp_takes() { # lmtp_takes SUBJECT
	letter carol@peer.test bob@ours.test "$1" >"$W/letter"
	in_clients swaks --protocol LMTP --socket /run/postel/lmtp.sock --from carol@peer.test --to bob@ours.test --data "@$W/letter"
	arrives "$ROOT_clients/home/bob/Maildir" "$1"
}
local_submits() { # local_submits SUBJECT: by the socket that the submission unit has besides, without a login
	letter bob@ours.test alice@ours.test "$1" >"$W/letter"
	in_clients setpriv --reuid bob --regid bob --clear-groups swaks --socket /run/postel/submit.sock --from bob@ours.test --to alice@ours.test --data "@$W/letter"
}

for style in listener per-connection; do
	pids=()
	for name in $ALL; do
		activate "$name" $style
		pids+=("$PID")
	done
	# A first look at the port would start the listener, which is what it is for.
	wait_port $OURS 25 465 587 110 995
	all_ports "$style"
	check "$style: the LMTP socket takes mail" lmtp_takes "$style"
	check "$style: the submission socket takes a local user's mail" local_submits "$style"
	check "$style: it came by the socket" logged "$style.submission" 'event=accepted.*client=unix'
	case $style in
	listener) check "$style: one process serves all" test "$(logged_times $style.smtpd 'event=listening')" = 1 ;;
	*) check "$style: each connection has its process" test "$(logged_times $style.smtpd 'Spawned')" -ge 3 ;;
	esac
	stop "${pids[@]}"
	idle() { [ "$(running smtpd)" = 0 ] && [ "$(running pop3d)" = 0 ] && [ "$(running lmtpd)" = 0 ]; }
	check "$style: SIGTERM ends all" within 10 idle
done

# the queue runner's unit has no socket
# shellcheck disable=SC2046 # the words of the command line
start qmgr in_clients $(values "$UNITS/postel-qmgr.service" ExecStart)
check "qmgr starts" within 10 logged qmgr event=start
