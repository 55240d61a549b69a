#!/bin/bash
# Clients whom somebody else speaks for: swaks as a proxy with both versions of the PROXY protocol, and as a front end with XCLIENT.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

PROXY=192.0.2.70 FRONT=192.0.2.71
for addr in $PROXY $FRONT; do ip addr add "$addr/32" dev lo; done
postel <<END
[smtpd]
proxy_networks = ["$PROXY/32"]
xclient_networks = ["$FRONT/32", "2001:db8:f::71/128"]
[limits]
rate_messages = 3
END
sed -i 's|^relay_networks.*|relay_networks = ["192.0.2.0/24", "10.1.0.0/16"]|' "$POSTEL_CONFIG"
root clients
exchanger
submission
for addr in 25 71 72; do ip -6 addr add 2001:db8:f::$addr/128 dev lo nodad; done
start smtpd6 smtpd --listen '[2001:db8:f::25]:25'
within 10 logged smtpd6 event=listening

# by ADDRESS FROM TO SWAKS-FLAG...: what both sides say is in dialog
by() {
	in_clients swaks --server $OURS --local-interface "$1" --from "$2" --to "$3" --ehlo client.test --timeout 15 --suppress-data "${@:4}" >"$W/dialog" 2>&1
}
said() { grep -e "$1" "$W/dialog"; }
# v1, v2 SOURCE: the header of that version
v1() { flags=(--proxy-version 1 --proxy-family TCP4 --proxy-source "$1" --proxy-source-port 1234 --proxy-dest 203.0.113.1 --proxy-dest-port 25); }
v2() { flags=(--proxy-version 2 --proxy-family AF_INET --proxy-command PROXY --proxy-protocol STREAM "${flags[@]:4}"); }

v1 198.51.100.7
check "PROXY version 1" by $PROXY eve@far.test alice@ours.test "${flags[@]}"
check "the client is the one in the header" logged smtpd 'event=accepted .*client=198.51.100.7 '
check "the trace says so" grep -qr 'Received: from client.test (\[198.51.100.7\])' "$W/postel/spool/queue"
check "it may not relay, though the proxy might" fails 24 by $PROXY eve@far.test who@else.test "${flags[@]}"
check "and hears why" said '550 5.7.1'
v2
check "PROXY version 2" by $PROXY eve@far.test alice@ours.test "${flags[@]}"
v1 10.1.2.3
check "a client of the relay networks may" by $PROXY eve@far.test who@else.test "${flags[@]}" --quit-after RCPT
v1 198.51.100.7
check "the fourth message of a client within a minute" fails 23 by $PROXY eve@far.test alice@ours.test "${flags[@]}"
check "is put off" said '450 4.7.0 Too many messages'
check "a proxy without a header is not served" fails 6 by $PROXY eve@far.test alice@ours.test --timeout 8
check "and that is logged" logged smtpd 'event=disconnect client=192.0.2.70 text="PROXY header: none within 5 seconds"'

check "XCLIENT" by $FRONT eve@far.test alice@ours.test --xclient-addr 198.51.100.9 --xclient-name a.test --xclient-helo b.test --xclient-proto ESMTP --xclient-port 99
check "the client is the one it names" logged smtpd 'event=accepted .*client=198.51.100.9 proto=ESMTP$'
check "it may not relay, though the front end might" fails 24 by $FRONT eve@far.test who@else.test --xclient-addr IPV6:2001:db8::1
check "XCLIENT with a login" by $FRONT eve@far.test who@else.test --xclient-addr 198.51.100.9 --xclient-login alice --quit-after RCPT
check "others are not offered it" by $OURS eve@far.test alice@ours.test --quit-after EHLO
check "with no word" not said XCLIENT

# Over IPv6, by Python's smtplib: swaks lacks a module for it.
cat >"$W/six.py" <<'END'
import smtplib, sys
with smtplib.SMTP("2001:db8:f::25", 25, "client.test", 15, (sys.argv[1], 0)) as s:
    s.ehlo()
    if "xclient" not in s.esmtp_features:
        sys.exit("not offered")
    print(s.docmd("XCLIENT ADDR=IPV6:2001:db8::9"))
    s.ehlo()
    s.sendmail("eve@far.test", ["alice@ours.test"], "Subject: six\n\nx\n")
END
six() { in_clients python3 "$W/six.py" "$1"; }
check "XCLIENT over IPv6" six 2001:db8:f::71
check "the client is the one it names there" logged smtpd6 'event=accepted .*client=2001:db8::9 '
not_offered() { six 2001:db8:f::72 2>&1 | grep "not offered"; }
check "its neighbour is not offered it" not_offered

# A webmail that has logged its users in speaks for them to the submission server.
check "XCLIENT with a login, to the submission server" by $FRONT alice@ours.test who@else.test --port 587 --xclient-addr 198.51.100.10 --xclient-login alice
check "the log has the user and their address" logged submission 'event=accepted .*client=198.51.100.10 .*auth=alice'
check "the message has no trace of that" not grep -qr '^Received:.*198\.51\.100\.10' "$W/postel/spool/queue"
check "the user is bound to their own address" fails 23 by $FRONT bob@ours.test who@else.test --port 587 --xclient-addr 198.51.100.10 --xclient-login alice
check "and hears so" said '553 5.7.1'
check "without a login nobody sends" fails 23 by $FRONT alice@ours.test who@else.test --port 587 --xclient-addr 198.51.100.10
check "and hears what is missing" said '530 5.7.0'
check "others cannot name one" by $OURS alice@ours.test who@else.test --port 587 --quit-after EHLO
check "as they are not offered it" not said XCLIENT
