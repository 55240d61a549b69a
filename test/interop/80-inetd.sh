#!/bin/bash
# smtpd and pop3d under a real inetd, with the lines of contrib/inetd.conf in both styles; and under tcpserver.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/installed.sh"

installed
start syslog in_clients socat -u UNIX-RECV:/dev/log,mode=666 STDOUT
within 10 test -S "$ROOT_clients/dev/log"

# open_session PORT: one that stays open, on descriptor 4, and its greeting
open_session() {
	exec 4<>"/dev/tcp/$OURS/$1"
	timeout 5 head -1 <&4
}

inetd() { # inetd STYLE [sed's script]: with the lines of that style
	sed -n "s/^#\{0,1\}\([a-z0-9]* *stream tcp $1 \)/\1/p" "$W/contrib/inetd.conf" | sed "${2:-}" >"$ROOT_clients/etc/inetd.conf"
	start inetd in_clients /usr/sbin/inetd -i
	INETD=$PID
	wait_port $OURS 25 465 587 110 995
}

# no process is left of the port tests
idle() { [ "$(running smtpd)" = 0 ] && [ "$(running pop3d)" = 0 ]; }
by_inetd() { pgrep -cx -P "$INETD" "$1" || :; }
# second_session_adds N PORT: so many processes that inetd started (pop3d starts one for each session besides, to become the user)
second_session_adds() {
	local program=smtpd first second
	[ "$2" != 110 ] || program=pop3d
	open_session "$2"
	first=$(by_inetd $program)
	second=$(open_session "$2" >/dev/null && by_inetd $program)
	echo "$first processes of $program with one session, $second with two"
	[ $((second - first)) = "$1" ]
}

inetd nowait
check "inetd nowait: a process ends with its connection" within 10 idle
all_ports "inetd nowait"
check "inetd nowait: and again" within 10 idle
check "inetd nowait: a second session of smtpd is a second process" second_session_adds 1 25
check "inetd nowait: a second session of pop3d is a second process" second_session_adds 1 110
exec 4>&-
check "the log is in syslog: accepted" logged syslog 'smtpd.*event=accepted.*client=192.0.2.25'
check "the log is in syslog: login" logged syslog 'pop3d.*event=login user=alice'
stop "$INETD"
wait_closed() { ! port_open $OURS 25; }
within 5 wait_closed

inetd wait 's/--idle-exit 60s/--idle-exit 2s/'
all_ports "inetd wait"
check "inetd wait: a second session of smtpd is the same process" second_session_adds 0 25
check "inetd wait: a second session of pop3d is the same process" second_session_adds 0 110
exec 4>&-
check "inetd wait: they leave when nobody came for a while" within 10 idle
check "inetd wait: and are started again" client_mails 25 "again"
stop "$INETD"
check "inetd wait: they leave again" within 10 idle
check "nothing of the log went to a client" not grep -q 'event=' "$W/dialog"

# UCSPI: descriptors 0 and 1 are the socket
start tcpserver in_clients tcpserver -H -R -l mail.ours.test 0 2525 /usr/local/bin/smtpd
start tcpserver in_clients tcpserver -H -R -l mail.ours.test 0 2110 /usr/local/bin/pop3d
wait_port $OURS 2525 2110
check "tcpserver: smtpd takes mail" client_mails 2525 "tcpserver"
check "tcpserver: pop3d gives mail" client_fetches pop3://mail.ours.test:2110/1
check "tcpserver: the log has the client's address" logged tcpserver 'event=accepted.*client=192.0.2.25'
